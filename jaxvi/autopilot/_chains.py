"""Stage `chains`: short Hamiltonian chains from q's draws, which show whether these are right.

It applies if nothing vouches for q's draws, or if chains are asked for. Chains that drift show by
how much q is off; they go on until they don't drift, and their last states become the draws. It
sets the errors, the draws, and how the chains mixed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._numerics import fold_in
from jaxvi._sampling import MAX_LEAPFROG_STEPS, min_leapfrog_steps
from jaxvi.autopilot._base import Context, Stage, State
from jaxvi.diagnostics import (
    Drift,
    Groups,
    ShortChains,
    acceptance,
    compare,
    describe_drift,
    is_still,
    largest_start_correlation,
    short_chains,
    whitening,
)
from jaxvi.hierarchical import nested_short_chains
from jaxvi.results import MAX_LOG_SD_ERROR, MAX_MEAN_ERROR_SDS, CorrectedDraws, errors_of
from jaxvi.target import Target

_NUM_ROUNDS_OF_ALL_CHAINS = 2  # if these don't suffice, longer chains help, not more
_MAX_SURE_LIMIT_SHARE = 0.8  # of the errors that the verdict "ok" has to rule out
_MIN_FUNNEL_ROUNDS = 3  # a funnel is left and entered slowly
_MIN_DRIFT_SE = 2.0  # of a drift at which chains go on


@dataclass(frozen=True)
class Chains(Stage):
    """Short chains from q's draws and, where they drift, longer ones until they are at rest.

    Args:
        num_chains: chains.
        max_rounds: rounds of longer chains, at most.
        polish: "auto" runs longer chains if short ones drift; True always; False never.
    """

    name: ClassVar[str] = "chains"

    num_chains: int = 500
    max_rounds: int = 4
    polish: bool | str = "auto"

    def applies(self, state: State) -> bool:
        """Whether chains have not run, and are asked for or nothing vouches for the draws."""
        if state.weights is None or state.chains_ran:
            return False
        return state.errors is None or self.polish is True

    def run(self, context: Context, state: State) -> State:
        """Run short chains from q's draws, and longer ones if they drift."""
        key_look, key_polish = jax.random.split(context.key(self.name))
        look = self._look(context, state, key_look)
        drift, accepted, draws = look.drift, look.acceptance, state.draws
        note, weights = describe_drift(drift), state.weights
        assert weights is not None
        at_rest = self.polish is not True and is_still(drift, _MIN_DRIFT_SE)
        if self.polish is not False and not at_rest:
            polished = polish(
                key_polish, context.target, look, self._rounds(state), context.in_time
            )
            drift, accepted = polished.drift, polished.acceptance
            draws = CorrectedDraws(polished.z, None, "chains")
            note = f"q: {note}; end: {describe_drift(drift)}"
        context.record(self.name, weights, note)
        if state.nested is not None:
            drift = drift.less_sure(state.nested.of_values.error)
        return replace(
            state,
            draws=draws,
            errors=errors_of(drift, "chains"),
            start_correlation=largest_start_correlation(drift),
            acceptance=accepted,
            chains_ran=True,
        )

    def _rounds(self, state: State) -> range:
        """Allowed numbers of rounds, from the fewest to the most."""
        least = min(_MIN_FUNNEL_ROUNDS, self.max_rounds) if state.hyperparameters else 1
        return range(least, self.max_rounds + 1)

    def _look(self, context: Context, state: State, key: Key[Array, ""]) -> ShortChains:
        """Short chains from draws of q."""
        if state.nested is not None:
            return nested_short_chains(
                key, context.target, state.nested, num_chains=self.num_chains
            )
        q = state.fit.q
        at = (key, context.target, q.family, q.phi, context.data)
        return short_chains(*at, num_chains=self.num_chains, num_batches=state.num_batches)


class Polished(NamedTuple):
    """Last states of chains, unconstrained; drift of the last round; acceptance rate."""

    z: Float[Array, "draws dim"]
    drift: Drift
    acceptance: float


def polish(
    key: Key[Array, ""],
    target: Target,
    moved: ShortChains,
    rounds: range,
    go_on: Callable[[], bool],
) -> Polished:
    """Run rounds of chains, each longer than the one before, until none drifts.

    `rounds` are the allowed numbers: at least the first, at most the last. All chains run for 64
    and for 128 leapfrog steps, of which 8 states are kept. If that is not enough, half of them run
    for 512, 1024, ... with 16 states kept: as many states for half of the gradients.

    Every round is whitened by the states of the one before: where q is too narrow, its own scales
    would keep the chains from moving where it matters.
    """
    space, groups, x = moved.space, moved.groups, moved.x
    drift, scale, seen = moved.drift, moved.scale, space.seen(moved.x)
    for round_ in range(rounds[-1]):
        if not go_on():
            break
        wider = whitening(np.asarray(x).reshape(-1, target.dim))
        scale = wider if bool(np.isfinite(np.asarray(wider)).all()) else scale
        groups = groups if round_ != _NUM_ROUNDS_OF_ALL_CHAINS else groups[: (len(groups) + 1) // 2]
        parts = 1 if round_ < _NUM_ROUNDS_OF_ALL_CHAINS else 2
        start = np.concatenate([np.asarray(chains.z) for chains in groups])
        states = []
        for part in range(parts):
            own = fold_in(key, 2 * round_ + part)
            groups, x = space.advance(own, groups, scale, _thin(groups, 2**round_))
            states.append(np.asarray(x))
        x = jnp.asarray(np.concatenate(states))
        before, seen = seen, space.seen(x)
        was_still = is_still(drift) and round_ > 0
        drift = compare(target, before.reshape(-1, target.dim), space.seen(start), seen)
        # if two rounds leave the drift uncertain, more chains would help, not longer ones
        enough = round_ + 1 >= rounds[0]
        if enough and is_still(drift) and (was_still or _is_sure(drift)):
            break
    return Polished(seen.reshape(-1, target.dim), drift, acceptance(groups))


def _thin(groups: Groups, thin: int) -> int:
    """Transitions per state kept: more if they are short, for equal numbers of leapfrog steps."""
    shortest = int(min_leapfrog_steps(groups[0].log_step))
    return max(1, round(thin * 2 * MAX_LEAPFROG_STEPS / (MAX_LEAPFROG_STEPS + shortest)))


def _is_sure(drift: Drift) -> bool:
    """Whether the drift, plus its Monte Carlo error, is clearly below the limits of "ok"."""
    mean, log_sd = drift.at_most()
    return (
        mean < _MAX_SURE_LIMIT_SHARE * MAX_MEAN_ERROR_SDS
        and log_sd < _MAX_SURE_LIMIT_SHARE * MAX_LOG_SD_ERROR
    )
