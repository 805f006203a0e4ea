"""Drift: how far chains have moved from the draws that they began at."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvi._sampling import (
    features,
)
from jaxvi.target import Target

CLEAR = 3.0  # standard errors
_CHANCE = 3.0  # standard errors of a correlation, of hundreds of which the largest counts
_TOLD = 0.08  # standard error of a log sd; of normals that of 80 draws
SMALL = 0.03  # sds and logs of sds: an error not worth mending
_FORGOTTEN = 0.15  # correlation with the start


class Drift(NamedTuple):
    """How far marginals moved, a row for every coordinate: of z first, then of the parameters.

    `mean` is in q's standard deviations, `log_sd` the log of the ratio of standard deviations; each
    with its standard error. `start_correlation` is the largest correlation, of ranks of values or
    of distances from the median, between where chains started and where they are, less what chance
    gives: 0 where they have forgotten. `sd_told` is false for parameters whose tails are so heavy
    that so many draws don't tell their sd.
    """

    mean: Float[np.ndarray, "coordinates"]
    mean_mcse: Float[np.ndarray, "coordinates"]
    log_sd: Float[np.ndarray, "coordinates"]
    log_sd_mcse: Float[np.ndarray, "coordinates"]
    start_correlation: Float[np.ndarray, "coordinates"]
    sd_told: Bool[np.ndarray, "coordinates"]

    def at_least(self, errors: float = CLEAR) -> tuple[float, float]:
        """Lower bounds, so many standard errors off, on the largest of means and log sds."""
        mean = np.abs(self.mean) - errors * self.mean_mcse
        log_sd = np.abs(self.log_sd) - errors * self.log_sd_mcse
        return float(np.nanmax([0.0, *mean])), float(np.nanmax([0.0, *log_sd[self.sd_told]]))

    def at_most(self) -> tuple[float, float]:
        """The same, three standard errors on: what can't be ruled out. NaN where nothing can."""
        mean = np.abs(self.mean) + CLEAR * self.mean_mcse
        log_sd = np.abs(self.log_sd) + CLEAR * self.log_sd_mcse
        return float(np.max(mean)), float(np.max(log_sd[self.sd_told]))

    def less_sure(self, other: "Drift") -> "Drift":
        """With the standard errors of another, independent one added."""
        mean = np.hypot(self.mean_mcse, other.mean_mcse)
        return self._replace(
            mean_mcse=mean, log_sd_mcse=np.hypot(self.log_sd_mcse, other.log_sd_mcse)
        )


def compare(
    target: Target,
    pool: Float[Array | np.ndarray, "pool dim"],
    start: Float[Array | np.ndarray, "chains dim"],
    z: Float[Array | np.ndarray, "kept chains dim"],
) -> Drift:
    """States `z` of chains from `start` against draws `pool` of q, all in the target's z.

    Chains are independent; states of one are not. On the host: as a program of its own this took
    0.5 s to compile, for each number of chains and states.
    """
    kept, num_chains, dim = z.shape
    of_q = features(target, pool)
    centre, scale = of_q.mean(axis=0), of_q.std(axis=0)
    constant = scale == 0.0  # as is a simplex of one part
    scale = np.where(constant, 1.0, scale)

    def standard(rows: Float[Array | np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows both"]:
        return (features(target, rows) - centre[None]) / scale[None]

    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        first, rows = standard(start), standard(z.reshape(-1, dim))
        mean = rows.mean(axis=0)
        square = (rows - mean[None]) ** 2
        by_chain = rows.reshape(kept, num_chains, -1).mean(axis=0)
        square_by_chain = square.reshape(kept, num_chains, -1).mean(axis=0)
        variance = np.where(constant, 1.0, square.mean(axis=0))
        own = ((of_q - centre[None]) / scale[None]) ** 2
        size, pool_size = float(num_chains), float(len(pool))
        mean_error = np.sqrt(by_chain.var(axis=0) / size + 1.0 / pool_size)
        spread = square_by_chain.var(axis=0) / variance**2 / size + own.var(axis=0) / pool_size
        last = rows.reshape(kept, num_chains, -1)[-1]
        correlation = np.maximum(
            _start_correlation(first, last), _start_correlation(_folded(first), _folded(last))
        )
        correlation = np.where(constant, 0.0, correlation)
        log_sd_error = 0.5 * np.sqrt(spread)
        told = (log_sd_error < _TOLD) | (np.arange(correlation.size) < dim)
        return Drift(mean, mean_error, 0.5 * np.log(variance), log_sd_error, correlation, told)


def _folded(
    rows: Float[np.ndarray, "chains coordinates"],
) -> Float[np.ndarray, "chains coordinates"]:
    """Distances from the median."""
    return np.abs(rows - np.median(rows, axis=0)[None])


def _start_correlation(
    one: Float[np.ndarray, "chains coordinates"], other: Float[np.ndarray, "chains coordinates"]
) -> Float[np.ndarray, "coordinates"]:
    """Correlation of ranks, which one chain far out doesn't decide, beyond that of chance."""
    num = len(one)

    def ranks(rows: np.ndarray) -> np.ndarray:
        order = np.argsort(rows, axis=0)
        found = np.empty_like(order)
        np.put_along_axis(found, order, np.arange(num)[:, None], axis=0)
        return found - 0.5 * (num - 1)

    one, other = ranks(one), ranks(other)
    found = np.sum(one * other, axis=0) / np.sum(one**2, axis=0)
    return np.sqrt(np.maximum(found**2 - _CHANCE**2 / num, 0.0))


def is_still(drift: Drift, errors: float = CLEAR) -> bool:
    """Whether chains are at rest: no drift clear by `errors` standard errors and worth mending."""
    return max(drift.at_least(errors)) < SMALL and largest_start_correlation(drift) < _FORGOTTEN


def is_small(drift: Drift) -> bool:
    """As it was seen, whatever its error: not worth mending."""
    return bool(max(np.abs(drift.mean).max(), np.abs(drift.log_sd).max()) < SMALL)


def largest_start_correlation(drift: Drift) -> float:
    """The largest correlation with the start."""
    return float(np.nanmax(drift.start_correlation))


def of_drift(drift: Drift) -> str:
    """The largest drifts in words."""
    mean, log_sd = np.abs(drift.mean), np.abs(drift.log_sd)
    return (
        f"means drift by up to {np.nanmax(mean):.2f} sd, sds by "
        f"{100.0 * math.expm1(np.nanmax(log_sd)):.0f} %, "
        f"correlation with the start {largest_start_correlation(drift):.2f}"
    )
