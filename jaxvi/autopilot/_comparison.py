"""Whether a new fit's q replaces the current one: compares importance weights and bounds."""

from typing import Any

from jaxvi._sampling import noncentered
from jaxvi.autopilot._base import Context, State, percent
from jaxvi.results import Fit

MAX_BOUND_LOSS_NATS = 2.0  # of a q with better weights; bounds are noisy


def with_better_q(
    context: Context,
    state: State,
    new: Fit,
    name: str,
    start: Fit,
    *,
    is_taken: bool = False,
    **changes: Any,
) -> State:
    """The state with `new`'s q where its weights are more uniform or it is taken anyway.

    `changes` are fields of the state that go with the new q. Relative effective sample sizes near
    zero are noise: then the bound, compared with that of `start`, decides.
    """
    q = new.q
    if q.target is not context.target:  # it was fitted in non-centred coordinates
        q = noncentered(q, context.target, new.data[0])
    weights = context.weights(q)
    assert state.weights is not None
    no_worse = new.bound >= start.bound - MAX_BOUND_LOSS_NATS
    better = is_taken or (no_worse and weights.relative_ess > state.weights.relative_ess)
    note = f"relative effective sample size {percent(weights.relative_ess)}"
    note += "" if better else "; left"
    context.record(name, new, note, before=start, khat=weights.khat)
    return state.with_q(q, weights, **changes) if better else state


def is_poor(state: State, min_relative_ess: float, even_if_vouched: bool) -> bool:
    """Whether a better q should be tried: one mode, weights checked, and relative ESS too low."""
    if state.weights is None or state.num_modes > 1 or state.interrupted:
        return False
    is_open = state.checked and (state.errors is None or even_if_vouched)
    return is_open and state.weights.relative_ess < min_relative_ess
