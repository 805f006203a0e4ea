"""Chains that go on from draws of q until they don't drift: their last states are draws."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi.diagnostics import Drift, Movement
from jaxvi.diagnostics._movement import compare, whitening
from jaxvi.target import Target
from jaxvi.verdict import WORST_LOG_SD, WORST_MEAN

SMALL = 0.03  # sds and logs of sds: an error not worth mending
_FORGOTTEN = 0.2  # correlation with the start
_SURE = 0.8  # of what "ok" has to rule out


class Polished(NamedTuple):
    """Last states of chains in the target's coordinates, how they moved, the share they accept."""

    z: Float[Array, "draws dim"]
    drift: Drift
    acceptance: float


def is_still(drift: Drift) -> bool:
    """No drift that is both clear and worth mending, and little memory of the start."""
    return max(drift.at_least()) < SMALL and memory(drift) < _FORGOTTEN


def memory(drift: Drift) -> float:
    """The largest correlation with the start."""
    return float(np.nanmax(drift.memory))


def of_drift(drift: Drift) -> str:
    """The largest drifts in words."""
    mean, log_sd = np.abs(drift.mean), np.abs(drift.log_sd)
    return (
        f"means drift by up to {np.nanmax(mean):.2f} sd, sds by "
        f"{100.0 * math.expm1(np.nanmax(log_sd)):.0f} %, memory {memory(drift):.2f}"
    )


def polish(
    key: Key[Array, ""],
    target: Target,
    moved: Movement,
    rounds: int,
    go_on: Callable[[], bool],
) -> Polished:
    """Rounds of 8 kept states, each round twice as long as the one before, until all is still.

    Every round is whitened by the states of the one before: where q is too narrow, its own scales
    would keep the chains from moving where it matters.
    """
    space, chains, x, start = moved.space, moved.chains, moved.x, moved.start
    drift, scale, seen = moved.drift, moved.scale, space.seen(moved.x)
    for round_ in range(rounds):
        if not go_on():
            break
        wider = whitening(x.reshape(-1, target.dim))
        scale = wider if bool(np.isfinite(np.asarray(wider)).all()) else scale
        start = chains.z
        chains, x = space.advance(jax.random.fold_in(key, round_), chains, scale, 2**round_)
        before, seen = seen, space.seen(x)
        was_still = is_still(drift) and round_ > 0
        drift = compare(target, before.reshape(-1, target.dim), space.seen(start), seen)
        # what two rounds leave unsure is for more chains to tell, not for longer ones
        if is_still(drift) and (was_still or _is_sure(drift)):
            break
    return Polished(seen.reshape(-1, target.dim), drift, float(chains.acceptance))


def _is_sure(drift: Drift) -> bool:
    """Whether so small a drift can be told from what would matter."""
    mean, log_sd = drift.at_most()
    return mean < _SURE * WORST_MEAN and log_sd < _SURE * WORST_LOG_SD
