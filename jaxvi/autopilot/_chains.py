"""Chains that go on from draws of q until they don't drift: their last states are draws."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._numerics import fold_in
from jaxvi._sampling import MAX_LEAPFROG_STEPS, min_leapfrog_steps
from jaxvi.diagnostics import Drift, Groups, ShortChains, acceptance, compare, is_still, whitening
from jaxvi.results import WORST_LOG_SD, WORST_MEAN
from jaxvi.target import Target

_WIDE_ROUNDS = 2  # of all chains: what is left then takes long chains, not many
_SURE = 0.8  # of what "ok" has to rule out


class Polished(NamedTuple):
    """Last states of chains in the target's coordinates, how they moved, the share they accept."""

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
    """Rounds of chains, each longer than the one before, until all is still.

    `rounds` are counts: at least its first one, at most its last. All chains go on for 64 and for
    128 leapfrog steps, of which 8 states are kept. Where that is not enough, half of them go on for
    512, 1024, ... with 16 states kept: as many states for half of the gradients.

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
        groups = groups if round_ != _WIDE_ROUNDS else groups[: (len(groups) + 1) // 2]
        parts = 1 if round_ < _WIDE_ROUNDS else 2
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
        # what two rounds leave unsure is for more chains to tell, not for longer ones
        enough = round_ + 1 >= rounds[0]
        if enough and is_still(drift) and (was_still or _is_sure(drift)):
            break
    return Polished(seen.reshape(-1, target.dim), drift, acceptance(groups))


def _thin(groups: Groups, thin: int) -> int:
    """More transitions where they are short, so that a round takes as many leapfrog steps."""
    shortest = int(min_leapfrog_steps(groups[0].log_step))
    return max(1, round(thin * 2 * MAX_LEAPFROG_STEPS / (MAX_LEAPFROG_STEPS + shortest)))


def _is_sure(drift: Drift) -> bool:
    """Whether so small a drift can be told from what would matter."""
    mean, log_sd = drift.at_most()
    return mean < _SURE * WORST_MEAN and log_sd < _SURE * WORST_LOG_SD
