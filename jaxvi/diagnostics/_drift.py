"""Drift of marginal moments from q's: by chains that start at draws of q, or by weights."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvi._sampling import features
from jaxvi.target import Target

CLEAR_STANDARD_ERRORS = 3.0  # by which a drift must differ from zero to count as one
_CHANCE_STANDARD_ERRORS = 3.0  # of a correlation; the largest of hundreds is used
_MAX_LOG_SD_MCSE = 0.08  # that of 80 normal draws
MAX_NEGLIGIBLE_DRIFT_SD = 0.03  # in means and log sds: not worth correcting
_MAX_START_CORRELATION = 0.15


class Drift(NamedTuple):
    """Changes of marginal means and sds from q's: coordinates of z first, then parameters.

    `mean` is in q's standard deviations, `log_sd` the log of the ratio of standard deviations; each
    with its standard error. `start_correlation` is the larger of two rank correlations between
    where chains started and where they are, of values and of distances from the median, less what
    chance gives: 0 where chains no longer depend on their start. `sd_told` is false for parameters
    whose tails are too heavy for an estimate of their sd from so many draws.
    """

    mean: Float[np.ndarray, "coordinates"]
    mean_mcse: Float[np.ndarray, "coordinates"]
    log_sd: Float[np.ndarray, "coordinates"]
    log_sd_mcse: Float[np.ndarray, "coordinates"]
    start_correlation: Float[np.ndarray, "coordinates"]
    sd_told: Bool[np.ndarray, "coordinates"]

    def at_least(self, errors: float = CLEAR_STANDARD_ERRORS) -> tuple[float, float]:
        """Lower confidence bounds on the largest drift of a mean and of a log sd."""
        mean = np.abs(self.mean) - errors * self.mean_mcse
        log_sd = np.abs(self.log_sd) - errors * self.log_sd_mcse
        return float(np.nanmax([0.0, *mean])), float(np.nanmax([0.0, *log_sd[self.sd_told]]))

    def at_most(self) -> tuple[float, float]:
        """Upper confidence bounds, by three standard errors; NaN if some drift is not finite."""
        mean = np.abs(self.mean) + CLEAR_STANDARD_ERRORS * self.mean_mcse
        log_sd = np.abs(self.log_sd) + CLEAR_STANDARD_ERRORS * self.log_sd_mcse
        return float(np.max(mean)), float(np.max(log_sd[self.sd_told]))

    def less_sure(self, other: "Drift") -> "Drift":
        """The drift with the standard errors of another, independent drift added."""
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
    """Drift of the states `z` of chains from `start`, relative to draws `pool` of q.

    All are in the target's coordinates. Standard errors assume that chains are independent, and
    allow for dependent states within one. Computed on the host: as a program it took 0.5 s to
    compile, for each number of chains and states.
    """
    kept, num_chains, dim = z.shape
    of_q = features(target, pool)
    centre, scale = of_q.mean(axis=0), of_q.std(axis=0)
    constant = scale == 0.0  # such as a simplex of one part
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
        variance_error = (
            square_by_chain.var(axis=0) / variance**2 / size + own.var(axis=0) / pool_size
        )
        last = rows.reshape(kept, num_chains, -1)[-1]
        correlation = np.maximum(
            _start_correlation(first, last), _start_correlation(_folded(first), _folded(last))
        )
        correlation = np.where(constant, 0.0, correlation)
        log_sd_error = 0.5 * np.sqrt(variance_error)
        sd_known = (log_sd_error < _MAX_LOG_SD_MCSE) | (np.arange(correlation.size) < dim)
        return Drift(mean, mean_error, 0.5 * np.log(variance), log_sd_error, correlation, sd_known)


def _folded(
    rows: Float[np.ndarray, "chains coordinates"],
) -> Float[np.ndarray, "chains coordinates"]:
    """Distances from the median of each coordinate."""
    return np.abs(rows - np.median(rows, axis=0)[None])


def _start_correlation(
    one: Float[np.ndarray, "chains coordinates"], other: Float[np.ndarray, "chains coordinates"]
) -> Float[np.ndarray, "coordinates"]:
    """Rank correlation, which is robust to outliers, less what chance gives."""
    num = len(one)

    def ranks(rows: np.ndarray) -> np.ndarray:
        order = np.argsort(rows, axis=0)
        found = np.empty_like(order)
        np.put_along_axis(found, order, np.arange(num)[:, None], axis=0)
        return found - 0.5 * (num - 1)

    one, other = ranks(one), ranks(other)
    found = np.sum(one * other, axis=0) / np.sum(one**2, axis=0)
    return np.sqrt(np.maximum(found**2 - _CHANCE_STANDARD_ERRORS**2 / num, 0.0))


def is_still(drift: Drift, errors: float = CLEAR_STANDARD_ERRORS) -> bool:
    """Whether no clear drift is worth correcting, and chains do not depend on their start."""
    return (
        max(drift.at_least(errors)) < MAX_NEGLIGIBLE_DRIFT_SD
        and largest_start_correlation(drift) < _MAX_START_CORRELATION
    )


def is_small(drift: Drift) -> bool:
    """Whether the estimated drift, whatever its error, is not worth correcting."""
    return bool(max(np.abs(drift.mean).max(), np.abs(drift.log_sd).max()) < MAX_NEGLIGIBLE_DRIFT_SD)


def largest_start_correlation(drift: Drift) -> float:
    """The largest correlation with the start among all coordinates."""
    return float(np.nanmax(drift.start_correlation))


def describe_drift(drift: Drift) -> str:
    """The largest drifts as a sentence for the log."""
    mean, log_sd = np.abs(drift.mean), np.abs(drift.log_sd)
    return (
        f"means drift by up to {np.nanmax(mean):.2f} sd, sds by "
        f"{100.0 * math.expm1(np.nanmax(log_sd)):.0f} %, "
        f"correlation with the start {largest_start_correlation(drift):.2f}"
    )
