"""Study: arms and seeds trained, measured and written down, and what a study needs and costs."""

from hopmix._moved import moved

_PLACES = {
    "continued": ("data_path", "located", "require_same_data"),
    "interval": ("advance", "compile_all"),
    "prepared": ("Study", "prepare"),
    "study": ("Progress", "evaluate", "run"),
}
_NEW = {name: f"{__name__}.{module}.{name}" for module, names in _PLACES.items() for name in names}

__getattr__ = moved(__name__, _NEW)
