"""Stage `nested_laplace`: hyperparameters by importance sampling, latents by Laplace's method.

It applies if q is a dense Gaussian with poor weights. If few coordinates set the curvature in
others, it sets the nested Laplace approximation as q, with its weights and draws.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Int

from jaxvi._numerics import on_device
from jaxvi._sampling import Approximation
from jaxvi.autopilot._base import Context, Stage, State, percent
from jaxvi.autopilot._comparison import MAX_BOUND_LOSS_NATS, is_poor
from jaxvi.diagnostics import MIN_RELATIVE_ESS
from jaxvi.families import FullRank
from jaxvi.hierarchical import Nested, NestedLaplace, find_hyperparameters, nested_laplace
from jaxvi.results import CorrectedDraws

_MIN_VALUES_RELATIVE_ESS = 0.1  # of values of hyperparameters; below it they are of no use


@dataclass(frozen=True)
class NestedLaplaceStage(Stage):
    """The nested Laplace approximation, if few coordinates set the scales of others.

    It is not taken if its bound is clearly below the Gaussian's, as for a density with kinks, or
    if its weights are uneven and a flow can follow.

    Args:
        min_relative_ess: of q's weights, below which it is tried.
        even_if_vouched: whether it is tried though weights vouch for q's draws.
        max_dim: largest dimension: Hessians in all latents, at some thousand values.
        flow_max_dim: largest dimension in which a flow may follow.
    """

    name: ClassVar[str] = "nested_laplace"

    min_relative_ess: float = 0.55
    even_if_vouched: bool = False
    max_dim: int = 256
    flow_max_dim: int = 30

    def applies(self, state: State) -> bool:
        """Whether q is a dense Gaussian with poor weights."""
        if not is_poor(state, self.min_relative_ess, self.even_if_vouched) or state.q is not None:
            return False
        setup = state.fit.setup
        return isinstance(setup.family, FullRank) and setup.target.dim <= self.max_dim

    def run(self, context: Context, state: State) -> State:
        """Find hyperparameters, approximate, and take the approximation if it is good enough."""
        gauss = state.fit
        key_search, key_fit = jax.random.split(context.key(self.name))
        phi = gauss.lane(gauss.best).phi
        found = find_hyperparameters(key_search, context.target, phi, context.data)
        if not found.size:
            return state
        nested = nested_laplace(
            key_fit, context.target, phi, found, context.data, go_on=context.in_time
        )
        given = _given(context, found)
        if nested is None or nested.of_values.relative_ess < _MIN_VALUES_RELATIVE_ESS:
            context.record(self.name, gauss, f"{given}: the latents are far from Gaussian")
            return state
        return self._taken_or_left(context, state, nested, given)

    def _taken_or_left(self, context: Context, state: State, nested: Nested, given: str) -> State:
        gauss, weights = state.fit, nested.weighed
        may_flow = context.target.dim <= self.flow_max_dim
        flow_serves = may_flow and weights.relative_ess < MIN_RELATIVE_ESS
        taken = weights.bound >= gauss.bound - MAX_BOUND_LOSS_NATS and not flow_serves
        note = f"{given}: relative effective sample size {percent(weights.relative_ess)}"
        note += "" if taken else "; left"
        context.record(self.name, weights, note, before=gauss, khat=weights.khat)
        if not taken:
            return state
        q = Approximation(context.target, NestedLaplace(context.target), nested.phi)
        # these draws exist already, and new ones are costly
        draws = CorrectedDraws(on_device(weights.z), None, "q")
        return state.with_q(q, weights, nested=nested, draws=draws)


def _given(context: Context, hyperparameters: Int[np.ndarray, "hyperparameters"]) -> str:
    """A note for the log: names of the hyperparameters."""
    names = context.target.coordinate_names()
    some = [names[i] for i in hyperparameters]
    return "given " + ", ".join(some[:3]) + (", ..." if len(some) > 3 else "")
