"""Training: the steps that all members of one form take in one compiled program."""

from hopmix._moved import moved

_PLACES = {
    "hopmix.lab.tasks.classification": ("Dataset", "Images", "make_augment", "make_dataset"),
    "hopmix.lab.train.population": ("decayed", "make_optimiser", "take_steps"),
    "hopmix.lab.train.sampler": ("Schedule", "draw_rows"),
    "hopmix.lab.train.step": ("objective",),
}
_NEW = {name: f"{module}.{name}" for module, names in _PLACES.items() for name in names}
_NEW |= {
    "Member": "hopmix.lab.train.step.TrainState",
    "Program": "hopmix.lab.train.population.Population",
    "on_device": "hopmix.lab.tasks.classification.on_device",
}

__getattr__ = moved(__name__, _NEW)
