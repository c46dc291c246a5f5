r"""Certificate: which theorem covers an object, which of its assumptions hold, and a numerical
check of it.

- *Flow descent* (C01; with attention C13; for $V = W^\top D$ C10): with conservative synapses and
  convex Lagrangians of the layers that move, $\dot E = -\sum_a \tau_a \dot x_a^\top H_a \dot x_a
  \le 0$. Of a block only the visible layer moves.
- *Step descent* (C05): if the potential is convex too, one explicit step of a residual block lowers
  the energy for every step size, and one of a leaky block for every leak * step in $(0, 1 +
  \mu/\ell]$.
- *Step descent without convexity* (C06): if the potential is weakly convex, as with GELU units, up
  to a bound on the step.
"""

import dataclasses
import math
from typing import Any

from hopmix._assumptions import Assumption
from hopmix._block import Block
from hopmix._certificate.check import Check, check_descent, draw_states
from hopmix._certificate.concavity import concavity_bound
from hopmix._certificate.conservative_form import Ties, conservative_form, ties_of
from hopmix._certificate.flow import (
    conservative_affine,
    conservative_synapse,
    continuous,
    convex,
    free_groups,
    gradient_activation,
    one_rest,
    sound,
    tied_couplings,
)
from hopmix._certificate.small_breaking import BreakingBound, breaking_bound
from hopmix._certificate.softness import safe_step
from hopmix._memory import AssociativeMemory
from hopmix._numerics.dtypes import need_floats
from hopmix._system import AbstractSystem
from hopmix._types import Layer, PRNGKey, Scalar


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What is known about the descent of a block or a memory; made by `certify`.

    It speaks of exact arithmetic and of the parameters as they are now.

    - `system`: the block or the memory.
    - `flow`: the assumptions of descent along the continuous flow.
    - `step`: the further assumptions of descent in every explicit step (empty for a memory).
    - `step_bound`: the largest step for which step descent is proved from every state; NaN where
      nothing is.
    - `concavity`: the $K$ of `concavity_bound`; 0 for convex potentials, NaN where it means
        nothing: for a memory, and where descent along the flow is not proved.
    - `flow_claim`, `step_claim`: the claims that these assumptions belong to, as in `theory/`.
    - `form`: the system whose `energy` falls: the one that was certified, unless its couplings are
        untied one by one and conservative all the same (`theory/C10-pseudo-energy.md`).
    """

    system: AbstractSystem = dataclasses.field(repr=False)
    flow: tuple[Assumption, ...]
    step: tuple[Assumption, ...] = ()
    step_bound: float = math.nan
    concavity: float = math.nan
    flow_claim: str = "C01"
    step_claim: str = "C05"
    form: AbstractSystem | None = dataclasses.field(default=None, repr=False)

    @property
    def descends_in_flow(self) -> bool:
        """Whether the energy is proved to fall along the continuous flow."""
        return all(a.verdict == "holds" for a in self.flow)

    @property
    def descends_in_steps(self) -> bool:
        """Whether the energy is proved to fall in every explicit step as taken, from every
        state.
        """
        return (
            bool(self.step)
            and self.descends_in_flow
            and all(a.verdict == "holds" for a in self.step)
        )

    @property
    def claim(self) -> str | None:
        """The strongest claim that covers the system, such as `"C05"`; `None` where none does."""
        if self.descends_in_steps:
            return self.step_claim
        if self.descends_in_flow:
            return self.flow_claim
        return None

    def energy(self, state: Any) -> Scalar:
        r"""The energy that the certificate is about, at one state.

        It is `system.energy`, except for gains, $V = W^\top D$, whose energy has $\sum_\alpha
        D_\alpha \Phi(h_\alpha)$ in place of $\sum_\alpha \Phi(h_\alpha)$.

        **Arguments:**

        - `state`: of the system, one example.

        **Raises:** `TypeError` for a serial block, which has none.

        **Source:** `theory/C10-pseudo-energy.md`.
        """
        return (self.form or self.system).energy(state)

    def step_bound_at(self, x: Layer) -> float:
        r"""The largest step of a block for which descent from the state `x` is proved.

        Where the softness of the visible divergence is known at a state, as for norms
        ($s(x)/\gamma$ with $s = \sqrt{\mathrm{var} + \epsilon}$ of the quietest group), it is often
        far above `step_bound`, which has to cover constant states too. For a block that repeats its
        step it is the least over the states that its own steps pass.

        **Arguments:**

        - `x`: the state of one example.

        **Raises:** `ValueError` for integers, and for anything but one example of a block.

        **Source:** `theory/C06-gelu.md`.
        """
        block: Any = self.form
        if self.step:  # of a block
            _need_example(block, x)
        if math.isnan(self.step_bound) or not self.concavity:
            return self.step_bound
        return max(self.step_bound, safe_step(block, x, self.concavity))

    def breaking_bound(self, x: Layer) -> BreakingBound:
        r"""Up to which $|V - W^\top|$ the rest at a state is proved to persist and to stay stable:
        `breaking_bound`.

        **Source:** `theory/C16-small-breaking.md`.
        """
        return breaking_bound(self.system, x)

    def check(
        self, key: PRNGKey, *, examples: int = 64, steps: int = 16, scale: float = 1.0
    ) -> Check:
        r"""Try descent and symmetry on random states, and report the worst case.

        A block takes its own steps; a memory takes Euler steps of a hundredth of its smallest time
        constant. A serial block has no energy; of it only the symmetry of its displacement is
        tried.

        **Arguments:**

        - `key`: of the random states, Gaussian of standard deviation `scale`.
        - `examples`, `steps`: how many states, and how many steps from each.
        """
        return self.check_from(draw_states(self.system, key, examples, scale), steps=steps)

    def check_from(self, states: Any, *, steps: int = 16) -> Check:
        """Try descent and symmetry from given states, stacked on a first axis, and report the worst
        case.

        **Arguments:**

        - `states`: on a first axis, in the form of those of the system.
        - `steps`: how many from each.
        """
        return check_descent(self.system, self.form or self.system, states, steps)

    def __str__(self) -> str:
        proved = lambda yes, claim: f"proved ({claim})" if yes else "not proved"
        lines = [f"energy descent along the flow: {proved(self.descends_in_flow, self.flow_claim)}"]
        if self.step:
            if math.isnan(self.step_bound):
                known = ""
            else:
                known = f" ({_steps_up_to(self.step_bound)} would be)"
            if self.descends_in_steps:
                bound = f", for {_steps_up_to(self.step_bound)}"
            else:
                bound = known
            lines.append(
                f"energy descent in every step: "
                f"{proved(self.descends_in_steps, self.step_claim)}{bound}"
            )
        lines += [f"  [{a.verdict}] {a.statement}: {a.reason}" for a in self.flow + self.step]
        limits = ["rounding (C18)", "other parameters than these", *self.system.not_covered]
        return "\n".join([*lines, f"not covered: {'; '.join(limits)}"])


def _need_example(block: Block, x: Layer):
    need_floats("The state", x)
    shape = block.potential.neurons.shape
    if x.shape != shape:
        raise ValueError(
            f"A bound at a state takes one example, of shape {shape}, got {x.shape}; loop over a "
            f"batch."
        )


def certify(system: AbstractSystem) -> Certificate:
    r"""State which descent theorem covers a block or a memory, assumption by assumption.

    Parameters must be concrete numbers: certify a model outside `jax.jit`.

    **Arguments:**

    - `system`: a `Block`, an `AssociativeMemory`, or a `SerialBlock`, which no theorem covers.

    **Raises:** `TypeError` for anything else; `hopmix.testing` has assertions for the models of
    others.
    """
    if not isinstance(system, AbstractSystem):
        raise TypeError(
            f"No theorem covers a {type(system).__name__}: certify a Block or an "
            f"AssociativeMemory, or try "
            "`hopmix.testing.assert_energy_descends` and `assert_conservative` on your own model."
        )
    if not system.has_energy:
        reason = (
            "a composition of two gradient steps is no gradient step, even with tied weights "
            "(C09); certify its "
            "`parts`, or use the parallel form"
        )
        return Certificate(
            system, (Assumption("the layer is one step of one potential", "fails", reason),)
        )
    if unsound := sound(system):
        return Certificate(system, tuple(unsound))
    if system.has_own_step:
        return _certify_block(system)
    return _certify_memory(system)


def _certify_memory(memory: Any) -> Certificate:
    ties = ties_of(memory)
    form = conservative_form(memory, ties)
    flow = _flow_assumptions(memory, form, ties, tuple(memory.neurons))
    return Certificate(memory, flow, flow_claim=_flow_claim(memory, ties), form=form)


def _certify_block(block: Any) -> Certificate:
    memory = block.potential.memory
    ties = ties_of(memory)
    form = conservative_form(block, ties)
    potential = form.potential
    flow = (
        *one_rest(potential),
        *_flow_assumptions(memory, potential.memory, ties, (potential.visible,)),
    )
    flow_claim = _flow_claim(memory, ties)
    if any(a.verdict != "holds" for a in flow):
        # the bound on K is one for tied weights, the steps are those of a flow
        reason = "it needs all of the above"
        step = (Assumption("explicit steps follow the flow", "unknown", reason),)
        return Certificate(block, flow, step, flow_claim=flow_claim, form=form)
    concavity = concavity_bound(potential)
    if math.isinf(concavity):
        bound = math.nan
    else:
        bound = _step_bound(block, concavity)
    return Certificate(
        block,
        flow,
        _step_assumptions(block, concavity, bound),
        bound,
        concavity,
        flow_claim,
        _step_claim(concavity, flow_claim),
        form,
    )


def _step_assumptions(block: Block, concavity: float, bound: float) -> tuple[Assumption, ...]:
    unknown = math.isinf(concavity)
    bounded = "no bound is known" if unknown else f"K = {concavity:.4g}"
    reason = (
        f"{block.step:g}, and descent from every state is proved for {_steps_up_to(bound)}; "
        f"n_iter any"
    )
    found = [
        Assumption("U + K/2 |g|^2 is convex", "unknown" if unknown else "holds", bounded),
        Assumption(
            "the step is within its bound", "holds" if block.step <= bound else "unknown", reason
        ),
    ]
    if block.drop_path:
        reason = f"drop_path = {block.drop_path:g}: each call with a key lowers another energy"
        found.append(Assumption("no branch is dropped", "unknown", reason))
    return tuple(found)


def _steps_up_to(bound: float) -> str:
    if math.isnan(bound):
        return "no step"
    if math.isinf(bound):
        return "steps of any size"
    return f"steps up to {bound:.4g}"


def _step_claim(concavity: float, flow_claim: str) -> str:
    if not concavity:
        return "C05"
    if flow_claim == "C13":
        return "C13"
    return "C06"


def _step_bound(block: Block, concavity: float) -> float:
    """The larger of what C06.3 proves for leak * step up to 1, and beyond it by the symmetry of the
    divergence.
    """
    lowest, highest = block.potential.neurons.lagrangian.curvature
    # 0 * inf: a convex potential needs no bound however curved the visible Lagrangian is.
    steepness = block.leak + (concavity * highest if concavity else 0.0)
    if not steepness:
        return math.inf
    within = min(2 / steepness, 1 / block.leak if block.leak else math.inf)
    symmetry = lowest / highest if 0 < highest < math.inf else 0.0
    return max(within, (1 + symmetry) / steepness)


def _flow_assumptions(
    memory: AssociativeMemory, form: AssociativeMemory, ties: Ties, moving: tuple[str, ...]
) -> tuple[Assumption, ...]:
    layers = form.neurons.items()
    return (
        *continuous(memory),
        *tied_couplings(ties),
        *(a for name in memory.synapses for a in conservative_synapse(memory, name)),
        *(
            a
            for name, n in layers
            for a in (*conservative_affine(name, n), *gradient_activation(name, n))
        ),
        *(
            a
            for name in moving
            for a in (convex(name, form.neurons[name]), *free_groups(name, form.neurons[name]))
        ),
    )


def _flow_claim(memory: AssociativeMemory, ties: Ties) -> str:
    if ties.gains:
        return "C10"
    return max((synapse.flow_claim for synapse in memory.synapses.values()), default="C01")
