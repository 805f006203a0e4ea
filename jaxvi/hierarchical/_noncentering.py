"""Finds which coordinates set the scale of latents, and takes the scales out."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxvi._types import Data
from jaxvi.families import FullRankParams, NoncenteringParams
from jaxvi.hierarchical._curvature_slopes import _FEW, _MANY, _NOTABLE, _STRONG, _slopes, _third
from jaxvi.target import Target

_LEAST_RATE = 0.4  # of a scale; a log of one has 1 or 2
_ALIKE = 0.25  # of that rate, by which those of the middle half of dependents may differ
_LEFT = 0.01  # of a pivot: below it the latents explain the coordinate


def find_noncentering(
    key: Key[Array, ""], target: Target, phi: FullRankParams, data: Data = None
) -> NoncenteringParams | None:
    r"""The noncentering that third derivatives ask for at a dense Gaussian fit; None where none.

    With h_i the second derivative of log p in z_i, averaged over q, the slope of the log precision
    of z_i in z_k is (dh_i / dz_k) / h_i. z_k is a hyperparameter where that of all its dependents
    together moves log p by more than 0.3 nats for a standard deviation of z_k. The part B of the
    precision that goes with the hyperparameter is $U^T D U$, U unit triangular: residuals r = U z
    are what the dependents's scale is the scale of. That finds the mean of a group of effects and
    the autoregression of a random walk without being told. What is subtracted from them is exactly
    where that part has no slope: an offset that is only nearly right is a wall in the funnel's
    neck. So is a dependent that is scaled by less than its hyperparameter's rate because data hold
    it as well; the rate is that of the hyperparameter's part alone, -2 for the logarithm of a
    standard deviation, seen a standard deviation further. A dependent of several hyperparameters
    goes with the one that is least sure.

    Cost: 3 `dim` third derivatives at 8 draws, each about 5 gradients.

    Args:
        key: a random key.
        target: the log density.
        phi: parameters of `FullRank`.
        data: handed to the log density.

    Example:
        >>> def funnel(z):
        ...     return -0.5 * z[0] ** 2 - 0.5 * jnp.sum(z[1:] ** 2) * jnp.exp(-z[0]) - 2 * z[0]
        >>> target = jaxvi.Target(funnel, jaxvi.Real((5,)))
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> found = find_noncentering(key, target, fit.q.phi)
        >>> found.rates[1:, 0].round(1)
        Array([-1., -1., -1., -1.], dtype=float32)
    """
    found = _slopes(key, target, phi, data)
    if found is None:
        return None
    slopes, sd, z, steps = found
    eye = jnp.eye(target.dim, dtype=z.dtype)
    hyperparameters, slopes = _hyperparameters(slopes, sd)
    if not hyperparameters.size:
        return None
    signs = -np.sign(slopes.sum(axis=0))  # +1 for the log of a scale
    latents = np.ones(target.dim)
    latents[hyperparameters] = 0.0
    of = jnp.asarray((slopes != 0.0) * signs[None], z.dtype)
    rows = (eye, of, steps, jnp.asarray(latents, z.dtype))
    found = _third(z, *rows, data, target=target)
    slope, third, moment = (np.array(x, float) for x in found)
    step = np.where(latents == 0.0, sd, 0.0)
    further = _third(z + jnp.asarray(step, z.dtype)[None], *rows, data, target=target)[1]
    own = np.diagonal(third)
    change = np.diagonal(np.array(further, float)) / np.where(own == 0.0, np.nan, own)
    rates = _rates(slopes[:, hyperparameters] != 0.0, change, sd[hyperparameters])
    known = rates.any(axis=0)
    if not known.any():
        return None
    third[:, hyperparameters] = 0.0
    third[~rates.any(axis=1)] = 0.0
    unit, pivots = _residuals(third)
    inverse = np.linalg.inv(unit)
    dependent = pivots > 0.0
    # the hyperparameters' part has gradient T z - T c, and slopes along rows of dependents alone
    level = inverse.T @ np.where(rates.any(axis=1), moment - slope, 0.0)
    offset = np.where(dependent, level / np.where(dependent, pivots, 1.0), 0.0)
    if not np.isfinite(offset).all():
        return None
    rates = np.where(dependent[:, None], rates, 0.0)[:, known]
    loc = np.asarray(phi.loc, float)
    return _packed(unit, inverse, offset, hyperparameters[known], loc, rates, z.dtype)


def _hyperparameters(
    slopes: Float[np.ndarray, "dim dim"], sd: Float[np.ndarray, "dim"]
) -> tuple[Int[np.ndarray, "hyperparameters"], Float[np.ndarray, "dim dim"]]:
    """Which coordinates drive, and the slopes of their dependents in them; latents are zero."""
    sign = np.sign((slopes * np.abs(slopes)).sum(axis=0))
    same = np.where(slopes * sign[None] > 0.0, slopes, 0.0)
    largest = np.abs(same).max(axis=0, keepdims=True)
    notable = np.abs(same) > np.maximum(_NOTABLE * largest, _NOTABLE)
    same = np.where(notable, same, 0.0)
    effect = sd * np.sqrt(0.5 * (same**2).sum(axis=0))
    order = [int(k) for k in np.argsort(-effect) if effect[k] > _STRONG]
    chosen: list[int] = []
    for k in order[:_MANY]:
        if not same[k, chosen].any():  # a dependent stays one
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
    """U and D of `part` = U^T D U: rows of dependents are known, those of latents only by symmetry.

    Dependents that touch fewest latents come first, so that residuals stay few-termed; D is zero
    where the latents explain a coordinate, and for those that are not dependents.
    """
    own = np.diagonal(part).copy()
    dependent = own > 0.0
    schur = np.where(dependent[:, None] & dependent[None], 0.5 * (part + part.T), 0.0)
    schur += np.where(dependent[:, None] & ~dependent[None], part, 0.0)
    schur += np.where(~dependent[:, None] & dependent[None], part.T, 0.0)
    size = np.sqrt(np.where(dependent, own, np.inf))
    tiny = 1e-6 * np.where(
        np.isfinite(size), size, size[dependent].mean() if dependent.any() else 1.0
    )
    unit, pivots, left = (
        np.eye(len(part)),
        np.zeros(len(part)),
        set(np.flatnonzero(dependent).tolist()),
    )
    limit = tiny * (size[dependent].mean() if dependent.any() else 1.0)
    at_first = (np.abs(schur) > limit[:, None]).sum(axis=1)
    while left:
        rows = np.asarray(sorted(left))
        touches = (np.abs(schur[rows]) > limit[rows, None]).sum(axis=1)
        i = int(rows[np.lexsort((at_first[rows], touches))[0]])
        left.discard(i)
        if schur[i, i] > _LEFT * own[i]:
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

    `change` is what the hyperparameter's part of a dependent's curvature is multiplied by where all
    hyperparameters are a `step` further. Of a scale that is the same for all dependents, whatever
    else holds them.
    """
    rates = np.zeros(of.shape)
    for k, dependents in enumerate(of.T):
        seen = change[dependents & (change > 0.0)]
        if len(seen) <= 0.5 * dependents.sum():
            continue
        low, rate, high = np.quantile(np.log(seen) / step[k], [0.25, 0.5, 0.75])
        if abs(rate) >= _LEAST_RATE and high - low <= _ALIKE * abs(rate):
            rates[dependents, k] = rate
    return rates


def _packed(
    unit: Any, inverse: Any, offset: Any, hyperparameters: Any, loc: Any, rates: Any, dtype: Any
) -> NoncenteringParams:
    """Arrays of few different shapes, so that fits share programs."""
    dim = len(loc)
    room = min(_FEW if len(hyperparameters) <= _FEW else _MANY, dim)
    pick, centre, padded = np.zeros((room, dim)), np.zeros(room), np.zeros((dim, room))
    pick[np.arange(len(hyperparameters)), hyperparameters] = 1.0
    centre[: len(hyperparameters)] = loc[hyperparameters]
    padded[:, : len(hyperparameters)] = rates
    arrays = (unit, inverse, offset, pick, centre, padded)
    return NoncenteringParams(*(jnp.asarray(x, dtype) for x in arrays))
