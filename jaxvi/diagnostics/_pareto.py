"""Pareto smoothed importance weights, and how heavy their tail is."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int

from jaxvi._types import Scalar

_FEWEST = 5  # draws of a tail that a fit needs
_FLAT = 0.01  # nats that a tail too small for a fit may span and still be called flat
_PRIOR_SIZE, _PRIOR_K = 10.0, 0.5  # the shape's prior: ten draws' worth of k = 1/2
_PRIOR_SCALE = 3.0  # of Zhang and Stephens, in units of the first quartile


class ParetoSmoothed(NamedTuple):
    """Smoothed log weights on the scale of the raw ones, and what they are worth.

    `khat` is the shape of the generalised Pareto tail: the weights have about 1 / khat finite
    moments. Above `khat_threshold(num_draws)` nothing estimated from them can be trusted.
    `ess` is the number of independent draws they are worth, (sum w)^2 / sum w^2; with a khat
    above the threshold it is too large. `log_mean` is the log of the mean weight: where the
    weights are p / q, the log evidence. `tail_size` is the number of weights smoothed.
    """

    log_weights: Float[Array, "draws"]
    khat: Scalar
    ess: Scalar
    log_mean: Scalar
    tail_size: Int[Array, ""]


def khat_threshold(num_draws: int) -> float:
    r"""The largest khat at which `num_draws` weights do, $\min(1 - 1 / \log_{10} S, 0.7)$.

    Up to it the error of a smoothed estimate falls with the draws at a practical rate: 0.5 at
    100 draws, 0.67 at 1,000, 0.7 from 2,155 on (Vehtari et al. 2024).

    Raises:
        ValueError: fewer than 2 draws.

    Example:
        >>> round(khat_threshold(1000), 3)
        0.667
    """
    if num_draws < 2:
        raise ValueError(
            f"num_draws: expected at least 2; got {num_draws}; try the number of weights."
        )
    return min(1.0 - 1.0 / math.log10(num_draws), 0.7)


def pareto_smooth(log_weights: Float[Array, "draws"], *, smooth: bool = True) -> ParetoSmoothed:
    r"""Smooth the largest of importance weights by a generalised Pareto fit to their tail.

    Of S weights, the $\min(S / 5, 3 \sqrt S)$ largest are replaced by the expected order
    statistics of the fit, none above the largest raw one; that trades a little bias for a lot
    of variance (Vehtari et al. 2024). The fit is that of Zhang and Stephens (2009), with a weak
    prior that pulls khat to 1/2. Weights of zero (-inf) count neither in S nor in the tail: so
    many draws fell where p is zero, and the others are as they would be without them.

    khat is inf, and nothing is smoothed, where no honest number can be given: with a NaN or an
    infinite weight (`ess` and `log_mean` are NaN then), with fewer than 25 weights above zero, or
    where fewer than 5 stand out from others that are all equal. It is 0 where the largest weights
    are equal, which shows no tail at all.

    Pure; map it over rows with `jax.vmap`. Cost: a sort, and a fit of O(S^(3/4)).

    Args:
        log_weights: log p - log q at draws of q, up to a constant.
        smooth: False leaves the weights as they are and tells khat alone.

    Example:
        >>> light = pareto_smooth(jax.random.uniform(key, (1000,)))
        >>> bool(light.khat < khat_threshold(1000))
        True
    """
    num_draws, dtype = log_weights.size, log_weights.dtype
    zero, infinite = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype)
    broken = jnp.any(jnp.isnan(log_weights) | (log_weights == jnp.inf))
    largest = jnp.max(log_weights)
    top = jnp.where(jnp.isfinite(largest), largest, zero)
    order = jnp.argsort(log_weights)
    ranked = log_weights[order] - top
    most = max(_tail_size(num_draws), 1)
    wanted = _tail_size_of(jnp.sum(log_weights > -jnp.inf), most)
    # the largest weight below the tail; what equals it has no excess, and is not of the tail
    below = jnp.where(wanted < num_draws, ranked[num_draws - wanted - 1], -infinite)
    tail = ranked[num_draws - most :]
    inside = (jnp.arange(most) >= most - wanted) & (tail > below)
    tail_size = jnp.sum(inside)
    khat, sigma = _fit(_excess(tail, below, inside), inside, tail_size)
    flat = (wanted >= _FEWEST) & (tail_size < _FEWEST) & (below > -_FLAT)
    fitted = (tail_size >= _FEWEST) & ~broken & jnp.isfinite(khat) & (sigma > 0.0)
    khat = jnp.where(fitted, khat, jnp.where(flat & ~broken, zero, infinite))
    if not smooth:
        return _summary(log_weights, khat, broken, jnp.zeros((), jnp.int32))
    probability = (jnp.arange(most) - (most - tail_size) + 0.5).astype(dtype) / tail_size
    quantile = _quantile(jnp.where(inside, probability, 0.5), khat, sigma)
    smoothed = jnp.minimum(jnp.logaddexp(below, jnp.log(quantile)), 0.0) + top
    places = order[num_draws - most :]
    new = jnp.where(fitted & inside, smoothed, log_weights[places])
    result = log_weights.at[places].set(new)
    return _summary(result, khat, broken, jnp.where(fitted, tail_size, 0))


def _summary(
    log_weights: Float[Array, "draws"], khat: Scalar, broken: Bool[Array, ""], tail_size: Array
) -> ParetoSmoothed:
    """What the weights are worth as they stand."""
    total = logsumexp(log_weights)
    ess = jnp.exp(2.0 * total - logsumexp(2.0 * log_weights))
    ess = jnp.where(total == -jnp.inf, jnp.zeros_like(ess), ess)
    unknown = jnp.full_like(ess, jnp.nan)
    return ParetoSmoothed(
        log_weights,
        khat,
        jnp.where(broken, unknown, ess),
        jnp.where(broken, unknown, total - math.log(log_weights.size)),
        tail_size.astype(jnp.int32),
    )


def _tail_size(num_draws: int) -> int:
    return int(min(num_draws / 5, 3.0 * math.sqrt(num_draws)))


def _tail_size_of(num_positive: Int[Array, ""], most: int) -> Int[Array, ""]:
    # whole numbers: 3 sqrt(S) = sqrt(9 S), whose rounding no squares of float32 disturb
    root = jnp.sqrt(9.0 * num_positive.astype(float) + 0.5).astype(jnp.int32)
    return jnp.minimum(jnp.minimum(num_positive // 5, root), most)


def _excess(
    tail: Float[Array, "tail"], below: Scalar, inside: Bool[Array, "tail"]
) -> Float[Array, "tail"]:
    """exp(tail) - exp(below), exact for small differences; above 0 though it may underflow."""
    away = -jnp.exp(tail) * jnp.expm1(below - tail)
    least = float(jnp.finfo(tail.dtype).tiny) ** 0.9
    return jnp.where(inside, jnp.maximum(away, least), 0.0)


def _fit(
    excess: Float[Array, "tail"], inside: Bool[Array, "tail"], tail_size: Int[Array, ""]
) -> tuple[Scalar, Scalar]:
    """(k, sigma) of the generalised Pareto distribution, for an ascending sample.

    The likelihood's profile in b = -k / sigma is averaged over a grid under a prior.
    """
    dtype, most = excess.dtype, excess.size
    size = jnp.maximum(tail_size, 1).astype(dtype)
    quartile = excess[jnp.minimum(most - tail_size + (tail_size + 2) // 4 - 1, most - 1)]
    points = jnp.arange(1, 31 + math.isqrt(most))
    num_points = (30 + jnp.floor(jnp.sqrt(size))).astype(dtype)
    spread = 1.0 - jnp.sqrt(num_points / (points.astype(dtype) - 0.5))
    b = spread / (_PRIOR_SCALE * quartile) + 1.0 / excess[-1]

    def shape(b: Scalar) -> Scalar:
        return jnp.sum(jnp.where(inside, jnp.log1p(-b * excess), 0.0)) / size

    k = jax.vmap(shape)(b)
    profile = size * (jnp.log(-b / k) - k - 1.0)
    counted = (points <= num_points) & jnp.isfinite(profile)
    weight = jax.nn.softmax(jnp.where(counted, profile, -jnp.inf))
    best = jnp.sum(jnp.where(counted, weight * b, 0.0))
    found = shape(best)
    sigma = -found / best
    return (size * found + _PRIOR_SIZE * _PRIOR_K) / (size + _PRIOR_SIZE), sigma


def _quantile(probability: Float[Array, "tail"], k: Scalar, sigma: Scalar) -> Float[Array, "tail"]:
    exponent = -jnp.log1p(-probability)
    safe = jnp.where(k == 0.0, jnp.ones_like(k), k)
    return sigma * jnp.where(k == 0.0, exponent, jnp.expm1(safe * exponent) / safe)
