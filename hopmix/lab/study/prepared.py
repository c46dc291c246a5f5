"""A study that is ready to train: data, arms, populations and what measures them."""

import dataclasses
import functools
from collections.abc import Mapping

import jax

from hopmix.lab.config import StudyConfig
from hopmix.lab.data import study_data
from hopmix.lab.errors import UsageError
from hopmix.lab.families.arm import Arm
from hopmix.lab.families.own import (
    Own,
    check_arms,
    digests,
    items_of,
    load_own,
    own_arms,
)
from hopmix.lab.probes.layout import Layout
from hopmix.lab.probes.probe import (
    AbstractCouplingProbe,
    AbstractModelProbe,
    AbstractProbe,
)
from hopmix.lab.study.arms import make_arms
from hopmix.lab.study.capacity import need_memory
from hopmix.lab.study.evaluator import Evaluator
from hopmix.lab.study.own_probes import check_probes, with_probes
from hopmix.lab.tasks.classification import Dataset, make_dataset, make_task, on_host
from hopmix.lab.tasks.task import AbstractTask
from hopmix.lab.train.population import Population, populations_of
from hopmix.lab.train.sampler import Schedule
from hopmix.models._interface import AbstractBlockModel
from hopmix.symmetry.quantities import Quantity


@dataclasses.dataclass
class Study:
    """A configuration with data, task, arms, populations and what measures them, ready to train.

    Made by `prepare`, which checks everything that can be checked before training.
    """

    config: StudyConfig
    data: study_data.Data
    arms: list[Arm]
    task: AbstractTask
    dataset: Dataset
    populations: list[Population]
    evaluator: Evaluator
    own: dict[str, str] = dataclasses.field(default_factory=dict)
    """The digests of the files that the user's own arms come from, by entry."""

    @property
    def seeds(self) -> list[int]:
        """The seeds of the members of each arm."""
        return list(self.config.seed_numbers)

    @functools.cached_property
    def layout(self) -> Layout:
        """Where the couplings of all arms stand."""
        names = [name for arm in self.arms for name in arm.sizes]
        models = [arm.shapes for arm in self.arms]
        blocks = [len(m.blocks) for m in models if isinstance(m, AbstractBlockModel)]
        return Layout.of(names, max(blocks, default=0))

    @functools.cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """What is measured."""
        return self.evaluator.quantities(self.arms)

    @property
    def schedule(self) -> Schedule:
        """The steps of each member's training."""
        return self.populations[0].schedule

    def measures_spectra(self, step: int) -> bool:
        """Whether spectra and fields are measured after so many steps: at the first and the last
        measurement too.
        """
        every = self.config.spectra_every
        index = step // self.schedule.interval
        return every > 0 and (index % every == 0 or step == self.schedule.total)

    def count_measurements(self) -> tuple[int, int, int]:
        """The intervals of a study, how often it measures, and how often it measures spectra and
        fields too.
        """
        steps = range(0, self.schedule.total + 1, self.schedule.interval)
        return len(steps) - 1, len(steps), sum(self.measures_spectra(step) for step in steps)

    def parameters(self, arm: Arm) -> int:
        """The number of trainable parameters of a member of an arm."""
        return next(group for group in self.populations if arm in group.arms).parameters

    def compiled(self) -> list[jax.stages.Compiled]:
        """The compiled programs; waits for those that are being compiled."""
        training = [one for group in self.populations for one in group.compiled.programs]
        return training + self.evaluator.programs

    def state_bytes(self) -> int:
        """The size of the state of all members."""
        states = [group.shapes() for group in self.populations]
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states))


def prepare(
    config: StudyConfig,
    own: Mapping[str, Own] | None = None,
    data: study_data.Data | None = None,
) -> Study:
    """Load the data and lay out arms and programs.

    **Arguments:**

    - `own`: what the entries of the user's own give, by entry; by default their files are run.
    - `data`: by default what the configuration names.

    **Raises:** `UsageError` for what does not fit together.
    """
    if own is None:
        own = load_own("arms", config.arms) | load_own("probes", config.probes)
    if data is None:
        data = study_data.load_for(config)
    if config.batch > len(data.train):
        raise UsageError(
            f"batch: got {config.batch}, but there are only {len(data.train)} training images; "
            f"give fewer."
        )
    given = own_arms(config.arms, own, *shape_of(data))
    arms = make_arms(config, *shape_of(data), given)
    for some in given.values():
        check_arms(some, *shape_of(data))
    need_memory(config, arms)
    dataset = make_dataset(data)
    # What was decoded can go: on a CPU the device's arrays are in the same memory for the host.
    data = dataclasses.replace(
        data, train=on_host(dataset.train), validation=on_host(dataset.validation)
    )
    task = make_task(config, dataset.image)
    populations = populations_of(config, task, arms, dataset)
    probes = _probes(config, own)
    evaluator = Evaluator(config, task, with_probes(probes))
    check_probes(probes, arms, task, dataset)
    return Study(config, data, arms, task, dataset, populations, evaluator, digests(own))


def _probes(config: StudyConfig, own: Mapping[str, Own]) -> list[AbstractProbe]:
    """The user's own probes; none where what they measured is not asked for again."""
    given = [own[entry] for entry in config.probes if entry in own]
    kinds = (AbstractModelProbe, AbstractCouplingProbe)
    name = "AbstractModelProbe or AbstractCouplingProbe of hopmix.lab.probes"
    return [probe for one in given for probe in items_of("probes", one, kinds, name)]


def shape_of(data: study_data.Data) -> tuple[tuple[int, int, int], int]:
    """The shape of an image, and the number of classes."""
    return data.image_shape, len(data.classes)
