"""Stage `flow`: a coupling flow, which bends where a Gaussian cannot.

It applies if q's weights are poor, dimensions are few, and q is not a nested Laplace approximation.
It sets the flow as q if its weights are more uniform.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import optax
from jaxtyping import Array, Key

from jaxvi.autopilot._base import Context, Stage, State
from jaxvi.autopilot._comparison import is_poor, with_better_q
from jaxvi.families import CouplingFlow
from jaxvi.noise import Antithetic
from jaxvi.objectives import ELBO
from jaxvi.results import Fit
from jaxvi.solvers import Stochastic

_CYCLE_STEPS, _FIRST_LEARNING_RATE, _NUM_DRAWS = 1_000, 5e-3, 128  # of a cycle
_ENOUGH_RELATIVE_ESS = 0.95  # of a flow that needs no further cycle
_SOLVER = Stochastic(
    optax.adam,
    learning_rate=optax.cosine_decay_schedule(_FIRST_LEARNING_RATE, _CYCLE_STEPS),
    clip_norm=10.0,
    tolerance=None,
    average=False,
)


@dataclass(frozen=True)
class Flow(Stage):
    """A coupling flow from the Gaussian, in cycles of falling learning rates, where it is better.

    Args:
        min_relative_ess: of q's weights, below which it is tried.
        even_if_vouched: whether it is tried though weights vouch for q's draws.
        max_cycles: cycles of 1,000 steps.
        max_dim: largest dimension.
    """

    name: ClassVar[str] = "flow"

    min_relative_ess: float = 0.55
    even_if_vouched: bool = False
    max_cycles: int = 4
    max_dim: int = 30

    def applies(self, state: State) -> bool:
        """Whether q's weights are poor, in few dimensions."""
        poor = is_poor(state, self.min_relative_ess, self.even_if_vouched)
        small = poor and state.fit.setup.target.dim <= self.max_dim
        return small and state.nested is None and self.max_cycles > 0

    def run(self, context: Context, state: State) -> State:
        """Fit in cycles until weights are uniform enough or the time is up."""
        base = state.noncentered or replace(state.fit, approximation=None)
        start = base
        for key in jax.random.split(context.key(self.name), self.max_cycles):
            flow = _fit(context, key, base, start)
            state = replace(state, interrupted=state.interrupted or flow.interrupted)
            state = with_better_q(context, state, flow, self.name, start)
            assert state.weights is not None
            is_good = state.weights.relative_ess >= _ENOUGH_RELATIVE_ESS
            stopped = flow.interrupted or not context.in_time()
            if is_good or stopped or not math.isfinite(flow.bound):
                break
            start = flow
        return state


def _fit(context: Context, key: Key[Array, ""], base: Fit, start: Fit) -> Fit:
    """Fit a flow to the target of `base` from `start`, in one cycle of a falling learning rate."""
    return context.fit(
        key,
        base.setup.target,
        family=CouplingFlow(),
        objective=ELBO(num_draws=_NUM_DRAWS, stick_the_landing=True),
        solver=_SOLVER,
        noise=Antithetic(),
        data=base.data,
        start=start,
        max_steps=_CYCLE_STEPS,
    )
