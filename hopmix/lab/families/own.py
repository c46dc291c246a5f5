"""Arms, probes and sections of the user's own: what a Python file, or a program, gives by name."""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from hopmix._numerics.dtypes import cast
from hopmix._tree import trainable
from hopmix.lab.errors import UsageError, one_line
from hopmix.lab.families.arm import Arm, is_shape
from hopmix.lab.fields import is_entry
from hopmix.models._interface import apply_batch

IN_PYTHON = {"arms": "python:arms", "probes": "python:probes"}
"""The entries of what a program gave as objects."""

Arms = Sequence[Arm] | Callable[[tuple[int, int, int], int], Sequence[Arm]]
"""Arms, or a function from the shape of an image (height, width, colours) and the number of classes
to arms."""


class Own(NamedTuple):
    """What an entry such as `my_study.py:arms` gives.

    - `entry`: the text.
    - `value`: the object of that name.
    - `digest`: of the file, or "" for what a program gave.
    """

    entry: str
    value: Any
    digest: str = ""


def load(field: str, entry: str) -> Own:
    """What an entry gives; the file is run once, with its own folder to import from.

    **Arguments:**

    - `field`: the option that names it, for messages.
    - `entry`: `FILE.py:NAME`.

    **Raises:** `UsageError` where there is no such file or name, or running it fails.
    """
    file, _, name = entry.rpartition(":")
    path = Path(file).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        told = error.strerror or type(error).__name__
        raise UsageError(f"{field}: {file} can't be read ({told}); name a Python file.") from None
    digest = hashlib.sha256(content).hexdigest()[:16]
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    module = _run(field, path, f"_own_{place}_{digest}")
    if not hasattr(module, name):
        known = [one for one in vars(module) if not one.startswith("_")]
        raise UsageError(
            f"{field}: {file} has no {name!r}; it has {', '.join(known[-8:]) or 'no names'}."
        )
    return Own(entry, getattr(module, name), digest)


def _run(field: str, path: Path, name: str) -> ModuleType:
    if name in sys.modules:  # its classes are the same for arms and probes
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{field}: {path} is no Python file; name one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where classes of the file look for their module
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # it stays: functions of the file may import when they are called
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    # Whatever the file raises, exits included, is a mistake in it.
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(
            f"{field}: {path} can't be imported ({one_line(error)}); mend it and try again."
        ) from error
    return module


def own_entries(entries: Sequence[str]) -> list[str]:
    """Those of the entries of a study that are no kinds of ours."""
    return [entry for entry in entries if is_entry(entry)]


def load_own(field: str, entries: Sequence[str]) -> dict[str, Own]:
    """What the entries of the user's own give, by entry.

    **Arguments:**

    - `field`: the option that names them, "arms" or "probes".

    **Raises:** `UsageError` as `load` does, and for what only a program can give.
    """
    wanted = own_entries(entries)
    need_file(field, wanted)
    return {entry: load(field, entry) for entry in wanted}


def need_file(field: str, entries: Sequence[str]):
    """Raise `UsageError` for what only a program can give."""
    if IN_PYTHON[field] in entries:
        raise UsageError(
            f"{field}: this study was begun in Python with {field} of its own, which no file "
            f"names; go on with run_study(..., {field}={field}, resume=True), or read it with "
            f"open_run."
        )


def items_of(field: str, own: Own, kind: type | tuple[type, ...], name: str) -> list[Any]:
    """The objects of one kind that an entry gives, alone or in a sequence.

    **Arguments:**

    - `field`: the option that names them; `name`: what the kind is called, for messages.

    **Raises:** `UsageError` for anything else.
    """
    value = [own.value] if isinstance(own.value, kind) else own.value
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UsageError(
            f"{field}: {own.entry} is {type(value).__name__}; it must be a list of {name}."
        )
    wrong = [type(one).__name__ for one in value if not isinstance(one, kind)]
    if wrong or not value:
        held = f"a {wrong[0]}" if wrong else "nothing"
        raise UsageError(f"{field}: {own.entry} holds {held}; give one or more {name}.")
    return list(value)


def arms_of(own: Own, image: tuple[int, int, int], classes: int) -> list[Arm]:
    """The arms that an entry gives for images of a shape and so many classes.

    **Raises:** `UsageError` for anything else than arms.
    """
    if not callable(own.value):
        return items_of("arms", own, Arm, "hopmix.lab.Arm")
    try:
        made = own.value(image, classes)
    except Exception as error:
        raise UsageError(f"arms: {own.entry} fails ({one_line(error)}); mend it.") from error
    return items_of("arms", own._replace(value=made), Arm, "hopmix.lab.Arm")


def own_arms(
    entries: Sequence[str], own: Mapping[str, Own], image: tuple[int, int, int], classes: int
) -> dict[str, list[Arm]]:
    """The arms that the entries of the user's own give, by entry, as far as these are there."""
    given = [entry for entry in own_entries(entries) if entry in own]
    return {entry: arms_of(own[entry], image, classes) for entry in given}


def check_arms(arms: Sequence[Arm], image: tuple[int, int, int], classes: int):
    """Try the models of arms, before any training.

    **Arguments:**

    - `arms`: of the user's own.
    - `image`: height, width and colours of the images; `classes`: how many logits are wanted.

    **Raises:** `UsageError` for a model that can't be made or applied, that has nothing to train,
    whose logits have another shape or are not finite, for a penalty of nothing, and for pairs that
    there are not.
    """
    for arm in arms:
        _check_parts(arm)
        _check_logits(arm, image, classes)


def _check_parts(arm: Arm):
    try:
        shapes = arm.shapes
        kinds = eqx.filter_eval_shape(lambda key: _Constants.of(arm.make(key)), jr.key(0))
    except Exception as error:
        raise UsageError(
            f"arms: make of {arm.name}, called with a key, fails ({one_line(error)}); mend it "
            f"there."
        ) from error
    if kinds.numpy:
        raise UsageError(
            f"arms: the model of {arm.name} holds arrays of NumPy; make them JAX arrays, in a "
            f"hopmix.Frozen if they are not to train."
        )
    if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in _arrays(shapes)):
        raise UsageError(
            f"arms: the model of {arm.name} holds complex arrays, which do not train; keep real "
            f"and imaginary parts apart."
        )
    leaves = jax.tree.leaves(eqx.filter(shapes, trainable(shapes)))
    if not any(is_shape(leaf) for leaf in leaves):
        raise UsageError(
            f"arms: the model of {arm.name} has no floating-point arrays, so nothing trains; let "
            f"make return an Equinox module with parameters."
        )
    try:
        sizes = arm.sizes
        eqx.filter_eval_shape(arm.couplings, eqx.filter(shapes, trainable(shapes)))
    except UsageError as error:
        raise UsageError(
            f"arms: {arm.name}: {error} (What is in a hopmix.Frozen never trains, and has no pair.)"
        ) from None
    stacked = [name for name, one in arm.shaped_couplings.items() if len(one.up.shape) != 2]
    if stacked:
        raise UsageError(
            f"arms: the coupling {stacked[0]} of {arm.name} is no matrix, as where layers are "
            f"stacked; keep a coupling for each layer."
        )
    if arm.strength and not sizes:
        raise UsageError(
            f"arms: {arm.name} has the strength {arm.strength:g}, but no coupling and no pairs "
            f"whose breaking it could penalise; leave it out."
        )


def _check_logits(arm: Arm, image: tuple[int, int, int], classes: int):
    images = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    try:
        logits = eqx.filter_eval_shape(_apply, arm.shapes, images)
    except Exception as error:
        size = " x ".join(map(str, image))
        raise UsageError(
            f"arms: the model of {arm.name} can't take images of {size} float32 values (height, "
            f"width, colours) ({one_line(error)}); mend it."
        ) from error
    if not is_shape(logits) or logits.shape != (2, classes):
        found = getattr(logits, "shape", type(logits).__name__)
        raise UsageError(
            f"arms: the model of {arm.name} gives {found} for a batch of 2 images; it must be "
            f"(2, {classes}), a logit for each class."
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise UsageError(
            f"arms: the model of {arm.name} gives {logits.dtype}; logits are real numbers, whose "
            f"gradients train it."
        )
    _check_gradient(arm, images)
    made = _tried(arm, image)
    if not bool(jnp.isfinite(made).all()):
        raise UsageError(
            f"arms: the model of {arm.name} gives logits that are not finite before any training; "
            f"mend its initial weights."
        )


def _check_gradient(arm: Arm, images: jax.ShapeDtypeStruct):
    """Trace what a step takes of a model: its gradient, with a key of what is random in it."""
    parameters, rest = eqx.partition(arm.shapes, trainable(arm.shapes))

    def summed(parameters: Any, images: Any) -> Any:
        model = cast(eqx.combine(parameters, rest), "float32")
        return jnp.sum(apply_batch(model, images, jr.key(0)))

    try:
        eqx.filter_eval_shape(jax.grad(summed), parameters, images)
    except Exception as error:
        raise UsageError(
            f"arms: the model of {arm.name} can't be trained, as it has no gradient or needs a "
            f"key that its __call__ does not take ({one_line(error)}); mend it, or let it take "
            f"key=None."
        ) from error


class _Constants(eqx.Module):
    """Which arrays of NumPy a model holds, which tracing makes arrays of JAX."""

    numpy: bool = eqx.field(static=True)

    @classmethod
    def of(cls, model: Any) -> "_Constants":
        """Looked for while the model is traced."""
        return cls(any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(model)))


def _arrays(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if is_shape(leaf)]


def _tried(arm: Arm, image: tuple[int, int, int]) -> Any:
    images = jr.normal(jr.key(1), (2, *image), jnp.float32)
    return eqx.filter_jit(lambda key: _apply(arm.make(key), images))(jr.key(0))


def _apply(model: Any, images: Any) -> Any:
    # In the precision of a study's weights, whatever that of the process is.
    return apply_batch(eqx.nn.inference_mode(cast(model, "float32")), images)


def digests(own: Mapping[str, Own]) -> dict[str, str]:
    """What a study records of the files that its own arms come from."""
    return {entry: one.digest for entry, one in own.items()}
