"""Configuration of a study: everything that determines its numbers, checked before any work."""

import dataclasses
import hashlib
import json
import math
import shlex
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hopmix.lab.errors import UsageError as UsageError
from hopmix.lab.errors import need
from hopmix.lab.families.mixers import BY_NAME, KINDS
from hopmix.lab.fields import LARGEST, is_entry, need_fields, need_path

MOST_BLOCKS = 1000
"""Blocks are traced one by one: more of them than any mixer has would not come to an end."""

ARMS = tuple(kind.name for kind in KINDS)
HELP_OF_ARMS = (
    f"Any of {', '.join(ARMS)}; {' or '.join(k.name for k in KINDS if k.penalised)} "
    f"is one arm per lambda; FILE.py:NAME for a list of arms of your own."
)
PAPER_LAMBDAS = (0.0, 1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The grid of the reference implementation (arXiv 2406.12220, code)."""

GIVEN = "python:data"
"""The name of data that a program gave as arrays."""

FORMER = {"deep": "spectra_every", "together": "members_at_once"}
"""Fields by the names that version 0.1.0 has for them, which files and command lines may use for
one version more."""

LONGEST_SIDE = 65_536
"""Of an image, in pixels; a square of it is larger than what is decoded."""


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """A symmetry ablation: which arms, on which data, trained how.

    The fields are the options of `hopmix ablate`; two studies with equal fields give equal numbers
    on one machine.
    """

    data: str = "digits"
    """"digits" (embedded); a folder of images, one folder per class, or of parquet or WebDataset
    files; a .parquet, .npz, .csv or .tar file; a folder that save_to_disk wrote; or hub:OWNER/NAME.
    """
    label_column: str | None = None
    """The column of the labels, where it can't be told; COLUMN.FIELD for a field of it."""
    image_column: str | None = None
    """The column of the images, where it can't be told; COLUMN.FIELD for a field of it."""
    resize: int | tuple[int, int] | None = None
    """Bring all images to this height and width in pixels, one number for both."""
    validation: float = 0.1
    """Share of the training images held out for validation."""
    arms: Annotated[tuple[str, ...], tyro.conf.arg(help=HELP_OF_ARMS)] = tuple(
        k.name for k in KINDS if k.by_default
    )
    probes: tuple[str, ...] = ()
    """What you measure yourself: FILE.py:NAME of a list of probes."""
    lambdas: tuple[float, ...] = (0.0, 1e-4, 1e-2)
    """Strengths of the penalty lambda * |breaking|^2 of the broken arms."""
    paper_lambdas: bool = False
    """Use the nine strengths of the reference implementation instead."""
    seeds: int = 5
    """Members per arm."""
    first_seed: int = 0
    """The seeds are first_seed, first_seed + 1, ..."""

    size: Literal["S/32", "S/16", "B/32", "B/16", "L/32", "L/16"] | None = None
    """A published size: dim, depth and patch where they are not given."""
    dim: int | None = None
    """Channels per token; 32 without a size."""
    depth: int | None = None
    """Number of blocks; 3 without a size."""
    patch: int | tuple[int, int] | None = None
    """Height and width of a patch in pixels, one number for both; without a size the smallest
    square of at least 2 that gives at most 64 tokens."""
    norm: Literal["joint", "token"] = "joint"
    """Norm of the blocks: over tokens and channels jointly, or per token."""
    norm_scale: Literal["none", "scalar", "conservative", "elementwise"] = "conservative"
    """Where the norm's scale stands; "elementwise" is the reference's and has no energy."""
    n_iter: int = 1
    """Repetitions of each block with the same weights."""
    drop_path: float = 0.0
    """Probability of dropping a branch in training."""

    epochs: int = 30
    """Passes over the training images."""
    batch: int = 64
    """Images per step."""
    learning_rate: float = 4e-3
    """Peak learning rate of AdamW."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises; it then falls as a cosine to zero."""
    weight_decay: float = 0.05
    """Decoupled weight decay of couplings, stem and head; norms and biases are excluded."""
    clip: float = 1.0
    """Largest norm of the gradient of a member."""
    augment: Literal["none", "light", "paper"] = "light"
    """none; light (padded crop, label smoothing); paper (the reference's whole recipe)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of activations and products; master weights are float32."""
    measurements: int = 6
    """How often, evenly over the training, everything is measured and saved."""
    spectra_every: int = 4
    """At the first, the last, and every so many measurements spectra and fields are measured too; 0
    for never.
    """
    members_at_once: int | None = None
    """Members trained side by side in one program; by default all that share a structure."""

    def __post_init__(self):
        need_fields(self)
        for name in ("seeds", "epochs", "batch", "measurements", "n_iter"):
            need(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("dim", "depth", "members_at_once"):
            value = getattr(self, name)
            need(value is None or value >= 1, name, value, "at least 1")
        for name in ("patch", "resize"):
            value = getattr(self, name)
            if value is not None:
                check_sides(name, value)
        for name in ("first_seed", "spectra_every"):
            need(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        need(
            self.first_seed + self.seeds - 1 <= LARGEST,
            "seeds",
            self.seeds,
            f"such that the last is at most {LARGEST:,}",
        )
        need(
            self.depth is None or self.depth <= MOST_BLOCKS,
            "depth",
            self.depth,
            f"at most {MOST_BLOCKS:,}",
        )
        for name in ("learning_rate", "clip"):
            need(0 < getattr(self, name) < math.inf, name, getattr(self, name), "a positive number")
        need(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "0 or more")
        need(0 <= self.warmup < 1, "warmup", self.warmup, "in [0, 1), a share of the steps")
        need(0 <= self.drop_path < 1, "drop_path", self.drop_path, "in [0, 1), a probability")
        need(
            0 < self.validation <= 0.5,
            "validation",
            self.validation,
            "in (0, 0.5], a share such as 0.1",
        )
        need_data(self.data)
        self._check_arms()

    def _check_arms(self):
        need_entries("probes", self.probes)
        need(len(self.arms) > 0, "arms", "nothing", f"one or more of {', '.join(ARMS)}")
        for arm in self.arms:
            need(
                arm in ARMS or is_entry(arm),
                "arms",
                repr(arm),
                f"one or more of {', '.join(ARMS)}, or FILE.py:NAME for arms of your own",
            )
        for value in self.lambdas:
            need(0 <= value < math.inf, "lambdas", value, "0 or more")
        penalised = any(BY_NAME[arm].penalised for arm in self.arms if arm in BY_NAME)
        need(len(self.grid) > 0 or not penalised, "lambdas", "nothing", "at least one number")
        for name in ("arms", "lambdas"):
            values = getattr(self, name)
            need(
                len(set(values)) == len(values),
                name,
                " ".join(map(str, values)),
                "without repetition",
            )

    @property
    def grid(self) -> tuple[float, ...]:
        """The strengths of the penalty, one arm for each."""
        if self.paper_lambdas:
            return PAPER_LAMBDAS
        return self.lambdas

    @property
    def seed_numbers(self) -> range:
        """The seeds of the members of each arm."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "StudyConfig":
        """The configuration of `to_json`.

        **Arguments:**

        - `values`: the fields by name, also by their former names.

        **Raises:** `UsageError` for unknown fields, as another version of hopmix may have written.
        """
        values = {FORMER.get(name, name): value for name, value in values.items()}
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise UsageError(
                f"study.json has unknown fields {sorted(unknown)}: it is of another version of "
                f"hopmix."
            )
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        try:
            return cls(**fields)
        except UsageError as error:
            raise UsageError(
                f"study.json, {error} Restore the file, or start the study anew."
            ) from None

    @property
    def digest(self) -> str:
        """A hash of all fields."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]


def check_sides(field: str, value: int | tuple[int, ...]):
    """Raise `UsageError` unless this is one or two lengths in pixels."""
    sides = value if isinstance(value, tuple) else (value, value)
    need(len(sides) == 2, field, value, "one number or two, height and width")
    need(min(sides) >= 1, field, value, "at least 1")
    need(max(sides) <= LONGEST_SIDE, field, value, f"at most {LONGEST_SIDE}")


def need_data(data: str | None):
    """Raise `UsageError` for data that are named by nothing, or by a path that no file can have."""
    if data is None or data in ("digits", GIVEN) or data.startswith("hub:"):
        return
    need(bool(data.strip()), "data", repr(data), "digits, a folder or file, or hub:OWNER/NAME")
    need_path("data", Path(data))


def need_entries(field: str, entries: tuple[str, ...]):
    """Raise `UsageError` unless each is FILE.py:NAME."""
    for entry in entries:
        need(is_entry(entry), field, repr(entry), "FILE.py:NAME")


@dataclasses.dataclass(frozen=True)
class Ablate:
    """Train every arm of a symmetry ablation and write a report of how weight asymmetry evolved."""

    study: Annotated[StudyConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=StudyConfig
    )
    out: Path = Path("runs/ablation")
    """The folder of the study; never overwritten."""
    resume: bool = False
    """Continue the study in `out` if it is this one."""
    dry_run: bool = False
    """Print arms, parameters, steps, estimated time and memory, and stop."""

    def __post_init__(self):
        need_fields(self)


@dataclasses.dataclass(frozen=True)
class Resume:
    """Continue an interrupted study; it ends as the uninterrupted one would have."""

    run: tyro.conf.Positional[Path]
    """The folder of the study."""
    data: str | None = None
    """Where its data are now, if not where they were: the same images, told by their digest."""
    arms: tuple[str, ...] = ()
    """Your own arms of the study, FILE.py:NAME as when it was begun; the file is run again."""
    probes: tuple[str, ...] = ()
    """And your own probes."""

    def __post_init__(self):
        need_fields(self)
        need_entries("arms", self.arms)
        need_entries("probes", self.probes)
        need(self.run.is_dir() or not self.run.exists(), "run", self.run, "the folder of a study")
        need_data(self.data)


@dataclasses.dataclass(frozen=True)
class Report:
    """Write the report of a study, finished or not, again."""

    run: tyro.conf.Positional[Path]
    """The folder of the study."""
    sections: tuple[str, ...] = ()
    """Sections of your own on the page: FILE.py:NAME of a list of them."""

    def __post_init__(self):
        need_fields(self)
        need_entries("sections", self.sections)
        need(self.run.is_dir() or not self.run.exists(), "run", self.run, "the folder of a study")


@dataclasses.dataclass(frozen=True)
class Compare:
    """Show two finished studies side by side: the arms that both have, and what was set
    differently.
    """

    first: tyro.conf.Positional[Path]
    """The folder of a study."""
    second: tyro.conf.Positional[Path]
    """The folder of another one."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write a page with the comparison, compare.html, into this folder."""

    def __post_init__(self):
        need_fields(self)
        for name, path in (("first", self.first), ("second", self.second)):
            need(path.is_dir() or not path.exists(), name, path, "the folder of a study")
        other = self.first.resolve() != self.second.resolve()
        need(other, "second", self.second, "the folder of another study than the first")


@dataclasses.dataclass(frozen=True)
class Verify:
    """Measure the claims of the theory again; or check each block of a trained run against its
    certificate.

    The exit code is 0 where all claims hold, or no numbers contradict a certificate, and 1
    otherwise.
    """

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """The folder of a study, or one of its checkpoints (RUN/checkpoints/STEP); the claims without
    it.
    """
    data: str | None = None
    """Where the data of the run are now, if not where they were."""
    arms: tuple[str, ...] = ()
    """Your own arms of the study, FILE.py:NAME as when it was begun; the file is run again."""
    claim: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Measure this claim alone, such as C05; repeat it for several."""
    examples: int = 100
    """Random examples of each claim; of a run, validation images whose states are tried."""
    seed: int = 0
    """Of the random examples of the claims."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the numbers to this file as well."""
    write: Annotated[Path | None, tyro.conf.arg(metavar="PAGE")] = None
    """Renew the table of all claims on this page (theory/README.md)."""

    def __post_init__(self):
        need_fields(self)
        need(
            self.run is None or self.run.is_dir() or not self.run.exists(),
            "run",
            self.run,
            "the folder of a study",
        )
        need_entries("arms", self.arms)
        need(self.examples >= 1, "examples", self.examples, "at least 1")
        need(self.seed >= 0, "seed", self.seed, "0 or more")
        if self.run is not None and (self.claim or self.write):
            raise UsageError(
                f"run: got {self.run}, which goes with neither claim nor write; repeat --claim "
                f"to name several."
            )
        need_data(self.data)
        if self.run is None and self.data is not None:
            raise UsageError(
                f"data: got {self.data}, which goes with a run only; name its folder, or leave "
                f"it out."
            )
        if self.claim and self.write:
            raise UsageError("write: the table is of all claims; leave out claim.")


@dataclasses.dataclass(frozen=True)
class Measure:
    """Measure how symmetric the weights of a network are: of a run of hopmix, or of anybody's
    checkpoint.
    """

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    """The folder of a study or one of its checkpoints; a safetensors file or a folder with it; a
    PyTorch state dict; a file of Equinox; or hub:OWNER/NAME."""
    pairs: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Measure only these weights: "UP:DOWN", as in "blocks.*.up.weight:blocks.*.down.weight", where
    * is the layer; UP is W, of shape hidden x visible, DOWN is V. One name is that of a square
    matrix; .T behind a name for a weight that is stored as its transpose. Repeat it for several."""
    breaking: bool = False
    """The second weight of each pair is the breaking V - W^T, as in the reference implementation's
    AsymMixer.
    """
    arms: tuple[str, ...] = ()
    """Your own arms of the study, FILE.py:NAME as when it was begun; the file is run again."""
    heads: int | None = None
    """Measure the queries and keys of each of so many attention heads as well."""
    pairings: int = 199
    """Random pairings of hidden units that each layer is compared with; 0 for none."""
    full: bool = False
    """Compute also what is left out of large layers to save time and memory."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write all numbers to this file as well."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Write a page with all numbers and a heat map, and the heat map as PNG and SVG, into this
    folder.
    """

    def __post_init__(self):
        need_fields(self)
        if not self.path.startswith("hub:"):
            need_path("path", Path(self.path))
        need_entries("arms", self.arms)
        need(self.pairings == 0 or self.pairings >= 2, "pairings", self.pairings, "0 or at least 2")
        need(self.heads is None or self.heads >= 1, "heads", self.heads, "at least 1")


BENCHMARKS = (
    "step",
    "inference",
    "ablation",
    "descent",
    "measuring",
    "data",
    "start",
    "memory",
    "growth",
)
BENCH_SIZES = ("small", "medium", "large", "s16", "b16")
BENCH_ARMS = tuple({kind.baseline: kind.name for kind in reversed(KINDS)}.values())[::-1]
"""Of the kinds that take as many operations, the first."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure how fast hopmix is, in turn with a peer and beside the limits of this machine.

    Let the machine do nothing else meanwhile. The last line names every race that hopmix loses.
    """

    only: tuple[str, ...] = BENCHMARKS
    """Any of step, inference, ablation, descent, measuring, data, start, memory, growth."""
    sizes: tuple[str, ...] = BENCH_SIZES[:4]
    """The mixers of step, inference and memory: any of small, medium, large (64 tokens), s16, b16
    (224 pixels).
    """
    arms: tuple[str, ...] = BENCH_ARMS
    """Their arms: any of serial, free, broken, symmetric."""
    batch: int | None = None
    """Images per step in place of each size's own."""
    repetitions: int = 3
    """How often each pair is timed, in turn."""
    peer: Annotated[str | None, tyro.conf.arg(metavar="COMMAND")] = None
    """The program to race against, as in "/venv/bin/python torch_peer.py"; without it hopmix runs
    alone.
    """
    peer_compile: bool = False
    """Race the peer with --compile too."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of activations and products."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write all numbers to this file as well, after each row."""
    quick: bool = False
    """Tiny mixers and studies, to see that everything runs: the numbers mean nothing."""

    def __post_init__(self):
        need_fields(self)
        for name, known in (("only", BENCHMARKS), ("sizes", BENCH_SIZES), ("arms", BENCH_ARMS)):
            values = getattr(self, name)
            wanted = f"one or more of {', '.join(known)}, without repetition"
            told = " ".join(values) or "nothing"
            need(
                0 < len(set(values)) == len(values) and set(values) <= set(known),
                name,
                told,
                wanted,
            )
        need(self.repetitions >= 1, "repetitions", self.repetitions, "at least 1")
        need(self.batch is None or self.batch >= 1, "batch", self.batch, "at least 1")
        if self.peer_compile and self.peer is None:
            raise UsageError("peer_compile: there is no peer; name its command with --peer.")
        self._check_peer()

    def _check_peer(self):
        try:
            words = None if self.peer is None else shlex.split(self.peer)
        except ValueError as error:
            raise UsageError(
                f"peer: got {self.peer}, which is not a command ({error}); mend its quotes."
            ) from None
        if words is None:
            return
        need(
            len(words) > 0 and shutil.which(words[0]) is not None,
            "peer",
            repr(self.peer),
            "a program that exists",
        )
        for word in words[1:]:
            need(
                not word.endswith(".py") or Path(word).is_file(), "peer", word, "a file that exists"
            )
