"""Automatic non-centring: finds coordinates that set the scales of others, and divides by these."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxvi._types import Data
from jaxvi.families import FullRankParams, NoncenteringParams
from jaxvi.hierarchical._curvature_slopes import (
    MIN_SLOPE,
    STRONG_EFFECT,
    curvature_slopes,
    third_derivatives,
)
from jaxvi.target import Target

_PADDED_SIZES = 8, 64  # hyperparameters that there is room for
_MIN_RATE = 0.4  # slope of a log precision in a hyperparameter; in a log scale it is 1 or 2
_MAX_RATE_IQR = 0.25  # interquartile range of dependents' rates, relative to the median
_MIN_PIVOT = 0.01  # relative to the diagonal: below it other coordinates explain this one


def find_noncentering(
    key: Key[Array, ""], target: Target, phi: FullRankParams, data: Data = None
) -> NoncenteringParams | None:
    r"""A non-centred parameterisation, found from third derivatives at a dense Gaussian fit.

    With h_i the second derivative of log p in z_i, averaged over q, the slope of the log precision
    of z_i in z_k is (dh_i / dz_k) / h_i. z_k is a hyperparameter, and z_i its dependents, where the
    slopes of all z_i together change log p by more than 0.3 nats for one standard deviation of z_k.

    The part of the precision matrix that is proportional to the hyperparameter's precision is
    $U^T D U$ with U unit triangular. The hyperparameter is the log scale of the residuals r = U z:
    differences from a group's mean, or the innovations of an autoregression. The offset c of
    r - c is where the gradient of that part is zero. The rate is the slope of the log of that part
    alone, without the data's part, measured one standard deviation away; it is -2 for the log of a
    standard deviation. Offset and rate must be exact: an error in either leaves part of the funnel.
    A dependent of several hyperparameters goes with the one of the largest standard deviation.

    Cost: 3 `dim` third derivatives at 8 draws, each about 5 gradients.

    Args:
        key: a random key.
        target: the log density.
        phi: parameters of `FullRank`.
        data: handed to the log density.

    Returns:
        Parameters of `Noncentering`; None where no coordinate sets the scale of others.

    Example:
        >>> def funnel(z):
        ...     return -0.5 * z[0] ** 2 - 0.5 * jnp.sum(z[1:] ** 2) * jnp.exp(-z[0]) - 2 * z[0]
        >>> target = jaxvi.Target(funnel, jaxvi.Real((5,)))
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> found = find_noncentering(key, target, fit.q.phi)
        >>> found.rates[1:, 0].round(1)
        Array([-1., -1., -1., -1.], dtype=float32)
    """
    found = curvature_slopes(key, target, phi, data)
    if found is None:
        return None
    slopes, sd, z, steps = found
    eye = jnp.eye(target.dim, dtype=z.dtype)
    hyperparameters, slopes = _with_dependents(slopes, sd)
    if not hyperparameters.size:
        return None
    signs = -np.sign(slopes.sum(axis=0))  # +1 where the hyperparameter is a log scale
    latents = np.ones(target.dim)
    latents[hyperparameters] = 0.0
    of = jnp.asarray((slopes != 0.0) * signs[None], z.dtype)
    rows = (eye, of, steps, jnp.asarray(latents, z.dtype))
    found = third_derivatives(z, *rows, data, target=target)
    slope, third, moment = (np.array(x, float) for x in found)
    step = np.where(latents == 0.0, sd, 0.0)
    shifted = z + jnp.asarray(step, z.dtype)[None]
    further = third_derivatives(shifted, *rows, data, target=target)[1]
    diagonal = np.diagonal(third)
    change = np.diagonal(np.array(further, float)) / np.where(diagonal == 0.0, np.nan, diagonal)
    rates = _rates(slopes[:, hyperparameters] != 0.0, change, sd[hyperparameters])
    known = rates.any(axis=0)
    if not known.any():
        return None
    third[:, hyperparameters] = 0.0
    third[~rates.any(axis=1)] = 0.0
    unit, pivots = _residuals(third)
    inverse = np.linalg.inv(unit)
    dependent = pivots > 0.0
    # the gradient of the hyperparameters' part is T z - T c; only dependents' rows have slopes
    level = inverse.T @ np.where(rates.any(axis=1), moment - slope, 0.0)
    offset = np.where(dependent, level / np.where(dependent, pivots, 1.0), 0.0)
    if not np.isfinite(offset).all():
        return None
    rates = np.where(dependent[:, None], rates, 0.0)[:, known]
    loc = np.asarray(phi.loc, float)
    return _packed(unit, inverse, offset, hyperparameters[known], loc, rates, z.dtype)


def _with_dependents(
    slopes: Float[np.ndarray, "dim dim"], sd: Float[np.ndarray, "dim"]
) -> tuple[Int[np.ndarray, "hyperparameters"], Float[np.ndarray, "dim dim"]]:
    """Hyperparameters, and the slopes of their dependents in them; all other slopes are zero."""
    sign = np.sign((slopes * np.abs(slopes)).sum(axis=0))
    same = np.where(slopes * sign[None] > 0.0, slopes, 0.0)
    largest = np.abs(same).max(axis=0, keepdims=True)
    notable = np.abs(same) > np.maximum(MIN_SLOPE * largest, MIN_SLOPE)
    same = np.where(notable, same, 0.0)
    effect = sd * np.sqrt(0.5 * (same**2).sum(axis=0))
    order = [int(k) for k in np.argsort(-effect) if effect[k] > STRONG_EFFECT]
    chosen: list[int] = []
    for k in order[: _PADDED_SIZES[1]]:
        if not same[k, chosen].any():  # a dependent of one chosen before is no hyperparameter
            chosen.append(k)
    kept = np.zeros_like(same)
    kept[:, chosen] = same[:, chosen]
    kept[chosen] = 0.0
    widest = np.where(kept != 0.0, sd[None], 0.0).argmax(axis=1)
    kept = np.where(np.arange(len(sd))[None] == widest[:, None], kept, 0.0)
    hyperparameters = np.asarray([k for k in chosen if kept[:, k].any()], int)
    return hyperparameters, kept


def _residuals(
    part: Float[np.ndarray, "dim dim"],
) -> tuple[Float[np.ndarray, "dim dim"], Float[np.ndarray, "dim"]]:
    """Factors U and D of `part` = U^T D U, where D is zero for coordinates that do not depend.

    Rows of dependents are known; those of other coordinates follow from symmetry. Dependents that
    are coupled to fewest coordinates are eliminated first, so that residuals have few terms. D is
    zero, too, where the other coordinates explain a dependent.
    """
    diagonal = np.diagonal(part).copy()
    dependent = diagonal > 0.0
    schur = np.where(dependent[:, None] & dependent[None], 0.5 * (part + part.T), 0.0)
    schur += np.where(dependent[:, None] & ~dependent[None], part, 0.0)
    schur += np.where(~dependent[:, None] & dependent[None], part.T, 0.0)
    size = np.sqrt(np.where(dependent, diagonal, np.inf))
    mean_size = size[dependent].mean() if dependent.any() else 1.0
    negligible = 1e-6 * np.where(np.isfinite(size), size, mean_size) * mean_size
    unit, pivots = np.eye(len(part)), np.zeros(len(part))
    left = set(np.flatnonzero(dependent).tolist())
    couplings_at_first = (np.abs(schur) > negligible[:, None]).sum(axis=1)
    while left:
        rows = np.asarray(sorted(left))
        couplings = (np.abs(schur[rows]) > negligible[rows, None]).sum(axis=1)
        i = int(rows[np.lexsort((couplings_at_first[rows], couplings))[0]])
        left.discard(i)
        if schur[i, i] > _MIN_PIVOT * diagonal[i]:
            pivots[i] = schur[i, i]
            unit[i] = schur[i] / pivots[i]
            schur = schur - np.outer(unit[i], schur[i])
        schur[i], schur[:, i] = 0.0, 0.0
    return unit, pivots


def _rates(
    of: Bool[np.ndarray, "dim hyperparameters"],
    change: Float[np.ndarray, "dim"],
    step: Float[np.ndarray, "hyperparameters"],
) -> Float[np.ndarray, "dim hyperparameters"]:
    """Slopes of dependents' log precisions in their hyperparameters; zero where there is none.

    `change` is the factor by which the hyperparameter's part of a dependent's curvature changes
    when all hyperparameters move by `step`. All dependents of a hyperparameter get the median rate,
    whatever the data say about them; none gets one where the rates differ too much.
    """
    rates = np.zeros(of.shape)
    for k, dependents in enumerate(of.T):
        factors = change[dependents & (change > 0.0)]
        if len(factors) <= 0.5 * dependents.sum():
            continue
        low, rate, high = np.quantile(np.log(factors) / step[k], [0.25, 0.5, 0.75])
        if abs(rate) >= _MIN_RATE and high - low <= _MAX_RATE_IQR * abs(rate):
            rates[dependents, k] = rate
    return rates


def _packed(
    unit: Any, inverse: Any, offset: Any, hyperparameters: Any, loc: Any, rates: Any, dtype: Any
) -> NoncenteringParams:
    """The parameters, padded to one of two sizes so that fits share compiled programs."""
    dim = len(loc)
    small, large = _PADDED_SIZES
    room = min(small if len(hyperparameters) <= small else large, dim)
    pick, centre, padded = np.zeros((room, dim)), np.zeros(room), np.zeros((dim, room))
    pick[np.arange(len(hyperparameters)), hyperparameters] = 1.0
    centre[: len(hyperparameters)] = loc[hyperparameters]
    padded[:, : len(hyperparameters)] = rates
    arrays = (unit, inverse, offset, pick, centre, padded)
    return NoncenteringParams(*(jnp.asarray(x, dtype) for x in arrays))
