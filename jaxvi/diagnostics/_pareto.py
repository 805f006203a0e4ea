"""Pareto smoothed importance sampling: smoothed weights and the tail shape k-hat."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvi._types import Scalar

# The functions below are written once for two array libraries: `xp` is jax.numpy where they are
# compiled and mapped, NumPy for arrays on the host, where compiling would cost more.

_MIN_TAIL_DRAWS = 5  # for a fit
_MAX_FLAT_TAIL_NATS = 0.01  # range of a tail of fewer draws that counts as flat
_PRIOR_SIZE, _PRIOR_K = 10.0, 0.5  # the shape's prior: ten draws' worth of k = 1/2
_PRIOR_SCALE = 3.0  # of Zhang and Stephens, in units of the first quartile


class ParetoSmoothed(NamedTuple):
    """Smoothed log weights on the scale of the raw ones, their tail shape and effective size.

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
    r"""The largest reliable khat for `num_draws` weights, $\min(1 - 1 / \log_{10} S, 0.7)$.

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
        smooth: False leaves the weights unchanged, and estimates khat only.

    Example:
        >>> light = pareto_smooth(jax.random.uniform(key, (1000,)))
        >>> bool(light.khat < khat_threshold(1000))
        True
    """
    return _smooth(jnp, log_weights, smooth)


def smooth_on_host(
    log_weights: Float[np.ndarray, "draws"],
) -> tuple[Float[np.ndarray, "draws"], float]:
    """Smoothed log weights and khat, computed on the host without compiling."""
    with np.errstate(all="ignore"):
        found = _smooth(np, log_weights, smooth=True)
    return np.asarray(found.log_weights), float(found.khat)


def _smooth(xp: Any, log_weights: Any, smooth: bool) -> ParetoSmoothed:
    """`pareto_smooth` by either array library."""
    num_draws, dtype = log_weights.size, log_weights.dtype
    broken = xp.any(xp.isnan(log_weights) | (log_weights == xp.inf))
    largest = xp.max(log_weights)
    top = xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    order = xp.argsort(log_weights)
    ranked = log_weights[order] - top
    most = max(_tail_size(num_draws), 1)
    wanted = _tail_size_of(xp, xp.sum(log_weights > -xp.inf), most)
    # the largest weight below the tail; what equals it has no excess, and is not of the tail
    last = xp.maximum(num_draws - wanted - 1, 0)
    below = xp.where(wanted < num_draws, ranked[last], xp.full_like(top, -xp.inf))
    tail = ranked[num_draws - most :]
    inside = (xp.arange(most) >= most - wanted) & (tail > below)
    tail_size = xp.sum(inside)
    khat, sigma = _fit(xp, _excess(xp, tail, below, inside), inside, tail_size)
    flat = (
        (wanted >= _MIN_TAIL_DRAWS) & (tail_size < _MIN_TAIL_DRAWS) & (below > -_MAX_FLAT_TAIL_NATS)
    )
    fitted = (tail_size >= _MIN_TAIL_DRAWS) & ~broken & xp.isfinite(khat) & (sigma > 0.0)
    unfitted = xp.where(flat & ~broken, xp.zeros_like(top), xp.full_like(top, xp.inf))
    khat = xp.where(fitted, khat, unfitted)
    if not smooth:
        return _summary(xp, log_weights, khat, broken, xp.zeros((), xp.int32))
    probability = (xp.arange(most) - (most - tail_size) + 0.5).astype(dtype)
    probability = probability / xp.maximum(tail_size, 1).astype(dtype)
    quantile = _quantile(xp, xp.where(inside, probability, 0.5).astype(dtype), khat, sigma)
    smoothed = xp.minimum(xp.logaddexp(below, xp.log(quantile)), 0.0) + top
    new = xp.where(fitted & inside, smoothed, log_weights[order[num_draws - most :]])
    rest = log_weights[order[: num_draws - most]]
    back = xp.argsort(order)  # where each draw stands in the order
    result = xp.concatenate([rest, new.astype(dtype)])[back]
    return _summary(xp, result, khat, broken, xp.where(fitted, tail_size, 0))


def _summary(xp: Any, log_weights: Any, khat: Any, broken: Any, tail_size: Any) -> ParetoSmoothed:
    """Effective sample size and mean weight, together with the weights and their khat."""
    total = _logsumexp(xp, log_weights)
    ess = xp.exp(2.0 * total - _logsumexp(xp, 2.0 * log_weights))
    ess = xp.where(total == -xp.inf, xp.zeros_like(ess), ess)
    unknown = xp.full_like(ess, xp.nan)
    return ParetoSmoothed(
        log_weights,
        khat,
        xp.where(broken, unknown, ess),
        xp.where(broken, unknown, total - math.log(log_weights.size)),
        tail_size.astype(xp.int32),
    )


def _logsumexp(xp: Any, x: Any) -> Any:
    """log sum exp(x) without overflow."""
    largest = xp.max(x)
    top = xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
    return xp.log(xp.sum(xp.exp(x - top))) + top


def _tail_size(num_draws: int) -> int:
    """Number of weights in the tail, min(S / 5, 3 sqrt(S))."""
    return int(min(num_draws / 5, 3.0 * math.sqrt(num_draws)))


def _tail_size_of(xp: Any, num_positive: Any, most: int) -> Any:
    """`_tail_size` of a number that is known at run time only."""
    # in whole numbers: 3 sqrt(S) = sqrt(9 S), whose rounding is exact for float32 squares too
    root = xp.sqrt(9.0 * num_positive.astype(float) + 0.5).astype(xp.int32)
    return xp.minimum(xp.minimum(num_positive // 5, root), most)


def _excess(xp: Any, tail: Any, below: Any, inside: Any) -> Any:
    """exp(tail) - exp(below), exact for small differences; above 0 though it may underflow."""
    away = -xp.exp(tail) * xp.expm1(below - tail)
    least = float(xp.finfo(tail.dtype).tiny) ** 0.9
    return xp.where(inside, xp.maximum(away, least), 0.0)


def _fit(xp: Any, excess: Any, inside: Any, tail_size: Any) -> tuple[Any, Any]:
    """(k, sigma) of the generalised Pareto distribution, for an ascending sample.

    The likelihood's profile in b = -k / sigma is averaged over a grid under a prior.
    """
    dtype, most = excess.dtype, excess.size
    size = xp.maximum(tail_size, 1).astype(dtype)
    quartile = excess[xp.minimum(most - tail_size + (tail_size + 2) // 4 - 1, most - 1)]
    points = xp.arange(1, 31 + math.isqrt(most))
    num_points = (30 + xp.floor(xp.sqrt(size))).astype(dtype)
    spread = 1.0 - xp.sqrt(num_points / (points.astype(dtype) - 0.5))
    b = spread / (_PRIOR_SCALE * quartile) + 1.0 / excess[-1]

    def shape(b: Any) -> Any:
        terms = xp.log1p(-b[:, None] * excess[None])
        return xp.sum(xp.where(inside[None], terms, 0.0), axis=-1) / size

    k = shape(b)
    profile = size * (xp.log(-b / k) - k - 1.0)
    counted = (points <= num_points) & xp.isfinite(profile)
    profile = xp.where(counted, profile, -xp.inf)
    weight = xp.exp(profile - xp.max(profile))
    best = xp.sum(xp.where(counted, weight * b, 0.0)) / xp.sum(weight)
    found = shape(best[None])[0]
    sigma = -found / best
    return (size * found + _PRIOR_SIZE * _PRIOR_K) / (size + _PRIOR_SIZE), sigma


def _quantile(xp: Any, probability: Any, k: Any, sigma: Any) -> Any:
    """Quantiles of the generalised Pareto distribution."""
    exponent = -xp.log1p(-probability)
    safe = xp.where(k == 0.0, xp.ones_like(k), k)
    return sigma * xp.where(k == 0.0, exponent, xp.expm1(safe * exponent) / safe)
