"""Finds which coordinates set the scale of others, and takes the scales out."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxvi._arguments import typed_key
from jaxvi._compilation import ONCE, light_jit
from jaxvi._numerics import generator_of
from jaxvi._types import Data
from jaxvi.families import FullRankParams, NoncenteringParams
from jaxvi.families._full_rank import scale_tril_on_host
from jaxvi.target import Target, hessian_products

_PAIRS = 4  # mirrored draws at which third derivatives are averaged
_STRONG = 0.3  # nats that the children's scales alone move the density about, as a driver moves
_NOTABLE = 0.1  # slope of a child, and relative to the largest
_LEAST_RATE = 0.4  # of a scale; a log of one has 1 or 2
_ALIKE = 0.25  # of that rate, by which those of the middle half of children may differ
_LEFT = 0.01  # of a pivot: below it the others explain the coordinate
_FEW, _MANY = 8, 64  # drivers there is room for
_ORDER = 0.25  # of machine epsilon: differences lose 4 digits of 16 and 2 of 7, as does their step


def find_noncentering(
    key: Key[Array, ""], target: Target, phi: FullRankParams, data: Data = None
) -> NoncenteringParams | None:
    r"""The noncentering that third derivatives ask for at a dense Gaussian fit; None where none.

    With h_i the second derivative of log p in z_i, averaged over q, the slope of the log precision
    of z_i in z_k is (dh_i / dz_k) / h_i. z_k is a driver where that of all its children together
    moves log p by more than 0.3 nats for a standard deviation of z_k. The part B of the precision
    that goes with the driver is $U^T D U$, U unit triangular: residuals r = U z are what the
    children's scale is the scale of. That finds the mean of a group of effects and the
    autoregression of a random walk without being told. What is subtracted from them is exactly
    where that part has no slope: an offset that is only nearly right is a wall in the funnel's
    neck. So is a child that is scaled by less than its driver's rate because data hold it as well;
    the rate is that of the driver's part alone, -2 for the logarithm of a standard deviation, seen
    a standard deviation further. A child of several drivers goes with the one that is least sure.

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
    drivers, slopes = _drivers(slopes, sd)
    if not drivers.size:
        return None
    signs = -np.sign(slopes.sum(axis=0))  # +1 for the log of a scale
    others = np.ones(target.dim)
    others[drivers] = 0.0
    of = jnp.asarray((slopes != 0.0) * signs[None], z.dtype)
    rows = (eye, of, steps, jnp.asarray(others, z.dtype))
    found = _third(z, *rows, data, target=target)
    slope, third, moment = (np.array(x, float) for x in found)
    step = np.where(others == 0.0, sd, 0.0)
    further = _third(z + jnp.asarray(step, z.dtype)[None], *rows, data, target=target)[1]
    own = np.diagonal(third)
    change = np.diagonal(np.array(further, float)) / np.where(own == 0.0, np.nan, own)
    rates = _rates(slopes[:, drivers] != 0.0, change, sd[drivers])
    known = rates.any(axis=0)
    if not known.any():
        return None
    third[:, drivers] = 0.0
    third[~rates.any(axis=1)] = 0.0
    unit, pivots = _residuals(third)
    inverse = np.linalg.inv(unit)
    child = pivots > 0.0
    # the drivers' part has the gradient T z - T c, and slopes along rows of children alone
    level = inverse.T @ np.where(rates.any(axis=1), moment - slope, 0.0)
    offset = np.where(child, level / np.where(child, pivots, 1.0), 0.0)
    if not np.isfinite(offset).all():
        return None
    rates = np.where(child[:, None], rates, 0.0)[:, known]
    loc = np.asarray(phi.loc, float)
    return _packed(unit, inverse, offset, drivers[known], loc, rates, z.dtype)


def find_drivers(
    key: Key[Array, ""], target: Target, phi: FullRankParams, data: Data = None
) -> Int[np.ndarray, "drivers"]:
    r"""Coordinates that the curvature of log p in all others depends on, at a dense Gaussian fit.

    Given them the others are nearer to Gaussian: in a hierarchy they are its scales and
    correlations. With h_i the second derivative of log p in z_i, averaged over q, and s_k q's
    standard deviation of z_k, the effect of z_k is $s_k (\sum_i (h_i'/h_i)^2 / 2)^{1/2}$, primes
    being slopes in z_k: the root of twice the nats by which a Gaussian for the others is off
    where z_k is a standard deviation away. Of these sets the first is taken that is no more than 8
    and no more than half of all, and in which one has an effect above 0.1: those above 0.3 and all
    that are constrained; all that are constrained; those above 0.3 and of the constrained those
    above 0.1; those above 0.1.

    Args:
        key: a random key.
        target: the log density.
        phi: parameters of `FullRank`.
        data: handed to the log density.

    Returns:
        Their numbers, ascending; none where there is no such set.

    Example:
        >>> def funnel(z):
        ...     return -0.5 * z[0] ** 2 - 0.5 * jnp.sum(z[1:] ** 2) * jnp.exp(-z[0]) - 2 * z[0]
        >>> target = jaxvi.Target(funnel, jaxvi.Real((5,)))
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> find_drivers(key, target, fit.q.phi)
        array([0])
    """
    found = _slopes(key, target, phi, data)
    if found is None:
        return np.empty(0, int)
    effect = found.sd * np.sqrt(0.5 * (found.slopes**2).sum(axis=0))
    constrained = target.constrained_coordinates()
    strong, notable = effect > _STRONG, effect > _NOTABLE
    for chosen in (strong | constrained, constrained, strong | (notable & constrained), notable):
        if (chosen & notable).any() and chosen.sum() <= min(_FEW, target.dim // 2):
            return np.flatnonzero(chosen)
    return np.empty(0, int)


class _Slopes(NamedTuple):
    """Slopes of the log of each curvature (row) in each coordinate, and how they were seen.

    That is: q's standard deviations, draws of it, and steps for differences along a coordinate.
    """

    slopes: Float[np.ndarray, "dim dim"]
    sd: Float[np.ndarray, "dim"]
    z: Float[Array, "draws dim"]
    steps: Float[Array, "dim"]


def _slopes(key: Key[Array, ""], target: Target, phi: FullRankParams, data: Data) -> _Slopes | None:
    """None where some are not finite."""
    dtype = phi.loc.dtype
    factor = scale_tril_on_host(phi.log_diag, phi.lower)
    # by NumPy: nothing is compiled for a few draws
    half = generator_of(typed_key(key)).normal(size=(_PAIRS, target.dim))
    mirrored = np.concatenate([half, -half]) @ factor.T
    z = jnp.asarray(np.asarray(phi.loc, float)[None] + mirrored, dtype)
    # in sds given all others: along one coordinate alone no more is near
    own = 1.0 / np.linalg.norm(np.linalg.inv(factor), axis=0)
    steps = jnp.asarray(float(jnp.finfo(dtype).eps) ** _ORDER * own, dtype)
    eye, everywhere = jnp.eye(target.dim, dtype=dtype), jnp.ones(target.dim, dtype)
    found = _third(z, eye, eye, steps, everywhere, data, target=target)
    curvature, third, _ = (np.array(x, float) for x in found)
    if not (np.isfinite(curvature).all() and np.isfinite(third).all()):
        return None
    concave = curvature < 0.0
    slopes = np.where(concave[:, None], third / np.where(concave, curvature, 1.0)[:, None], 0.0)
    np.fill_diagonal(slopes, 0.0)
    return _Slopes(slopes, np.linalg.norm(factor, axis=1), z, steps)


def driver_names(target: Target, params: NoncenteringParams) -> tuple[str, ...]:
    """Names of the coordinates that set scales of others."""
    names = target.coordinate_names()
    return tuple(names[int(row.argmax())] for row in np.asarray(params.pick) if row.any())


@light_jit(ONCE, static_argnames="target")
def _third(
    z: Float[Array, "draws dim"],
    left: Float[Array, "rows dim"],
    right: Float[Array, "rows dim"],
    steps: Float[Array, "rows"],
    others: Float[Array, "dim"],
    data: Data,
    *,
    target: Target,
) -> tuple[Float[Array, "rows"], Float[Array, "rows dim"], Float[Array, "rows"]]:
    """For rows v of left and u of right, means over z of v^T H(z) u and its gradient g in z.

    And of g^T z, over coordinates where `others` is one. The gradient is by differences of Hessian
    products, `steps` v to both sides, and the value their mean: where log p is quadratic along v
    both are exact. Third derivatives by JAX are a larger program, which no other has use for.
    """

    def one(row: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        v, u, step = row
        away = (step * v)[None]
        places = jnp.concatenate([z + away, z - away])
        vectors = jnp.broadcast_to(u, (len(places), 1, u.size))
        products = hessian_products(target, places, vectors, data)[:, 0]
        gradients = (products[: len(z)] - products[len(z) :]) / (2.0 * step)
        moments = jnp.sum(gradients * (z * others[None]), axis=1)
        return products.mean(axis=0) @ v, gradients.mean(axis=0), moments.mean()

    return lax.map(one, (left, right, steps), batch_size=min(8, len(left)))


def _drivers(
    slopes: Float[np.ndarray, "dim dim"], sd: Float[np.ndarray, "dim"]
) -> tuple[Int[np.ndarray, "drivers"], Float[np.ndarray, "dim dim"]]:
    """Which coordinates drive, and the slopes of their children in them; others are zero."""
    sign = np.sign((slopes * np.abs(slopes)).sum(axis=0))
    same = np.where(slopes * sign[None] > 0.0, slopes, 0.0)
    largest = np.abs(same).max(axis=0, keepdims=True)
    notable = np.abs(same) > np.maximum(_NOTABLE * largest, _NOTABLE)
    same = np.where(notable, same, 0.0)
    effect = sd * np.sqrt(0.5 * (same**2).sum(axis=0))
    order = [int(k) for k in np.argsort(-effect) if effect[k] > _STRONG]
    chosen: list[int] = []
    for k in order[:_MANY]:
        if not same[k, chosen].any():  # a child stays one
            chosen.append(k)
    kept = np.zeros_like(same)
    kept[:, chosen] = same[:, chosen]
    kept[chosen] = 0.0
    widest = np.where(kept != 0.0, sd[None], 0.0).argmax(axis=1)
    kept = np.where(np.arange(len(sd))[None] == widest[:, None], kept, 0.0)
    drivers = np.asarray([k for k in chosen if kept[:, k].any()], int)
    return drivers, kept


def _residuals(
    part: Float[np.ndarray, "dim dim"],
) -> tuple[Float[np.ndarray, "dim dim"], Float[np.ndarray, "dim"]]:
    """U and D of `part` = U^T D U: rows of children are known, those of others only by symmetry.

    Children that touch fewest others come first, so that residuals stay few-termed; D is zero
    where the others explain a coordinate, and for those that are not children.
    """
    own = np.diagonal(part).copy()
    child = own > 0.0
    schur = np.where(child[:, None] & child[None], 0.5 * (part + part.T), 0.0)
    schur += np.where(child[:, None] & ~child[None], part, 0.0)
    schur += np.where(~child[:, None] & child[None], part.T, 0.0)
    size = np.sqrt(np.where(child, own, np.inf))
    tiny = 1e-6 * np.where(np.isfinite(size), size, size[child].mean() if child.any() else 1.0)
    unit, pivots, left = np.eye(len(part)), np.zeros(len(part)), set(np.flatnonzero(child).tolist())
    limit = tiny * (size[child].mean() if child.any() else 1.0)
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
    of: Bool[np.ndarray, "dim drivers"],
    change: Float[np.ndarray, "dim"],
    step: Float[np.ndarray, "drivers"],
) -> Float[np.ndarray, "dim drivers"]:
    """Slopes of the log precisions that the drivers give their children; zero of no driver.

    `change` is what the driver's part of a child's curvature is multiplied by where all drivers
    are a `step` further. Of a scale that is the same for all children, whatever else holds them.
    """
    rates = np.zeros(of.shape)
    for k, children in enumerate(of.T):
        seen = change[children & (change > 0.0)]
        if len(seen) <= 0.5 * children.sum():
            continue
        low, rate, high = np.quantile(np.log(seen) / step[k], [0.25, 0.5, 0.75])
        if abs(rate) >= _LEAST_RATE and high - low <= _ALIKE * abs(rate):
            rates[children, k] = rate
    return rates


def _packed(
    unit: Any, inverse: Any, offset: Any, drivers: Any, loc: Any, rates: Any, dtype: Any
) -> NoncenteringParams:
    """Arrays of few different shapes, so that fits share programs."""
    dim = len(loc)
    room = min(_FEW if len(drivers) <= _FEW else _MANY, dim)
    pick, centre, padded = np.zeros((room, dim)), np.zeros(room), np.zeros((dim, room))
    pick[np.arange(len(drivers)), drivers] = 1.0
    centre[: len(drivers)] = loc[drivers]
    padded[:, : len(drivers)] = rates
    arrays = (unit, inverse, offset, pick, centre, padded)
    return NoncenteringParams(*(jnp.asarray(x, dtype) for x in arrays))
