"""Functions compiled ahead of time, once for each form of their arguments."""

from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from typing import Any

import jax


class AheadOfTime:
    """A function that is compiled when it is prepared for arguments, or else when it is first called with such.

    `options` are those of `jax.jit`; arguments are trees of arrays, or of shapes where it is prepared.
    """

    def __init__(self, function: Callable, **options: Any):
        self._function = jax.jit(function, **options)
        self._jobs: dict[Hashable, Future[jax.stages.Compiled]] = {}

    def prepare(self, compiler: Executor, *arguments: Any):
        """Trace the function here and let `compiler` compile it, unless that was done for arguments of this form."""
        form = _form(arguments)
        if not self._has(form):
            self._jobs[form] = compiler.submit(self._function.lower(*arguments).compile)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns for these arguments."""
        form = _form(arguments)
        if not self._has(form):
            program, self._jobs[form] = self._function.lower(*arguments).compile(), Future()
            self._jobs[form].set_result(program)
        return self._jobs[form].result()(*arguments)

    def _has(self, form: Hashable) -> bool:
        # A job that was cancelled, or failed, is done anew when it is asked for again.
        job = self._jobs.get(form)
        return job is not None and not (job.done() and (job.cancelled() or job.exception()))

    @property
    def programs(self) -> list[jax.stages.Compiled]:
        """The compiled programs; waits for those that are being compiled."""
        return [job.result() for job in self._jobs.values()]


def _form(tree: Any) -> Hashable:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
