"""Functions compiled ahead of time, once for each form of their arguments."""

from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree


class CachedJit:
    """A function that is compiled when it is prepared for arguments, or else when it is first
    called with such.

    Arguments are trees of arrays, or of shapes where it is prepared; other leaves, such as the
    activation function of a layer, are constants of what is compiled.

    **Arguments:**

    - `function`: what is compiled.
    - `options`: those of `jax.jit`.
    """

    def __init__(self, function: Callable, **options: Any):
        self._function = function
        self._options = options
        self._jobs: dict[Hashable, Future[jax.stages.Compiled]] = {}

    def prepare(self, compiler: Executor, *arguments: Any):
        """Trace the function here and let `compiler` compile it, unless that was done for arguments
        of this form.
        """
        arrays, constants = eqx.partition(arguments, _is_array)
        form = _form(arrays, constants)
        if not self._has(form):
            self._jobs[form] = compiler.submit(self._lowered(arrays, constants).compile)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns for these arguments."""
        arrays, constants = eqx.partition(arguments, _is_array)
        form = _form(arrays, constants)
        if not self._has(form):
            program = self._lowered(arrays, constants).compile()
            self._jobs[form] = Future()
            self._jobs[form].set_result(program)
        return self._jobs[form].result()(*arrays)

    def _lowered(
        self, arrays: tuple[PyTree, ...], constants: tuple[PyTree, ...]
    ) -> jax.stages.Lowered:
        def of_arrays(*arrays: PyTree) -> Any:
            return self._function(*eqx.combine(arrays, constants))

        return jax.jit(of_arrays, **self._options).lower(*arrays)

    def _has(self, form: Hashable) -> bool:
        # A job that was cancelled, or failed, is done anew when it is asked for again.
        job = self._jobs.get(form)
        return job is not None and not (job.done() and (job.cancelled() or job.exception()))

    @property
    def programs(self) -> list[jax.stages.Compiled]:
        """The compiled programs; waits for those that are being compiled."""
        return [job.result() for job in self._jobs.values()]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def _form(arrays: PyTree, constants: PyTree) -> Hashable:
    leaves, structure = jax.tree.flatten(arrays)
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    values = tuple((type(leaf), leaf) for leaf in jax.tree.leaves(constants))
    return structure, shapes, jax.tree.structure(constants), values
