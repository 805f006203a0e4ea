"""Monotonic rational-quadratic splines on an interval, the identity outside it."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import nn
from jaxtyping import Array, Float

from jaxvi._numerics import running_sum

_MIN_BIN_SHARE = 1e-3  # of the interval
_MIN_SLOPE = 1e-3
_RAW_UNIT_SLOPE = math.log(math.expm1(1.0 - _MIN_SLOPE))  # softplus of it is 1 - _MIN_SLOPE


class Knots(NamedTuple):
    """Knots of splines: left ends and sizes of the bins in x and in y, slopes at both ends."""

    start: Float[Array, "n 2 bins"]
    size: Float[Array, "n 2 bins"]
    slope: Float[Array, "n 2 bins"]


class _Bin(NamedTuple):
    """The bin of each coordinate: its lower left corner, its size, the slopes at its ends."""

    x: Float[Array, "n"]
    y: Float[Array, "n"]
    width: Float[Array, "n"]
    height: Float[Array, "n"]
    left: Float[Array, "n"]
    right: Float[Array, "n"]


def num_spline_params(num_bins: int) -> int:
    """Number of parameters of a spline: widths, heights, and slopes between the bins."""
    return 3 * num_bins - 1


def spline_knots(raw: Float[Array, "n params"], num_bins: int, bound: float) -> Knots:
    """Knots from raw parameters; zeros give the identity. The outermost slopes are 1."""
    share = nn.softmax(raw[:, : 2 * num_bins].reshape(-1, 2, num_bins), axis=-1)
    size = 2.0 * bound * (_MIN_BIN_SHARE + (1.0 - _MIN_BIN_SHARE * num_bins) * share)
    inner = _MIN_SLOPE + nn.softplus(raw[:, 2 * num_bins :] + _RAW_UNIT_SLOPE)
    one = jnp.ones((raw.shape[0], 1), raw.dtype)
    ends = jnp.concatenate([one, inner, one], axis=-1)
    slope = jnp.stack([ends[:, :-1], ends[:, 1:]], axis=1)
    return Knots(running_sum(size, exclusive=True) - bound, size, slope)


def spline_forward(
    knots: Knots, x: Float[Array, "n"], bound: float
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """The spline at every coordinate, with the log derivative: `(y, log dy/dx)`."""
    inside = jnp.clip(x, -bound, bound)
    here = _find(knots, knots.start[:, 0], inside)
    t = (inside - here.x) / here.width
    rise, log_slope = _rise(here, t)
    outside = jnp.abs(x) > bound
    y = jnp.where(outside, x, here.y + here.height * rise)
    return y, jnp.where(outside, jnp.zeros_like(x), log_slope)


def spline_inverse(
    knots: Knots, y: Float[Array, "n"], bound: float
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """The inverse spline, `(x, log dx/dy)`: the root of a quadratic, in its stable form."""
    inside = jnp.clip(y, -bound, bound)
    here = _find(knots, knots.start[:, 1], inside)
    slope = here.height / here.width
    up = (inside - here.y) / here.height
    bend = up * (here.left + here.right - 2.0 * slope)
    b = here.left - bend
    root = jnp.sqrt(jnp.maximum(b * b + 4.0 * (slope - here.left + bend) * slope * up, 0.0))
    t = 2.0 * slope * up / (b + root)
    outside = jnp.abs(y) > bound
    x = jnp.where(outside, y, here.x + here.width * t)
    return x, jnp.where(outside, jnp.zeros_like(y), -_rise(here, t)[1])


def _find(knots: Knots, ends: Float[Array, "n bins"], value: Float[Array, "n"]) -> _Bin:
    """The bin of each value, by masked sums, since gathers have slow gradients."""
    above = value[:, None] >= ends[:, 1:]
    always = jnp.ones_like(above[:, :1])
    # the first bin has no lower end and the last one no upper, whatever the rounding
    mask = jnp.concatenate([always, above], -1) & ~jnp.concatenate([above, ~always], -1)
    parts = jnp.concatenate(knots, axis=1)
    chosen = jnp.sum(jnp.where(mask[:, None], parts, jnp.zeros((), value.dtype)), axis=-1)
    return _Bin(*(chosen[:, i] for i in range(6)))


def _rise(here: _Bin, t: Float[Array, "n"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """Share of the bin's height reached at the share t of its width, and the log slope there."""
    slope, rest = here.height / here.width, 1.0 - t
    both = t * rest
    bottom = slope + (here.left + here.right - 2.0 * slope) * both
    top = here.right * t * t + 2.0 * slope * both + here.left * rest * rest
    rise = (slope * t * t + here.left * both) / bottom
    return rise, jnp.log(top * (slope / bottom) ** 2)
