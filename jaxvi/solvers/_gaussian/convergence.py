"""Convergence of natural-gradient solvers, from averages of innovations over windows of steps.

An innovation is the change that a full step would make to the mean, in q's standard deviations, and
to the log standard deviations. Its expectation is zero at the optimum, and elsewhere about the
distance to it. So its average over a window estimates how far q is from the optimum, and its
spread gives the error of that estimate.
"""

from statistics import NormalDist
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvi._numerics import Packed, pytrees
from jaxvi._types import Scalar

_FIRST_WINDOW_STEPS = 10.0
_WINDOW_GROWTH = 1.5
_FALSE_DRIFT_PROBABILITY = 0.05  # that some coordinate seems to drift, of all
_FAR_SD = 0.3  # distance to the optimum, sds of q, from which steps become full ones again
_MIN_RATE = 0.05
_MIN_SETTLED_SPREAD_RATIO = 0.5  # of the spread in a window to that before: less is still falling
_NEGLIGIBLE_SPREAD = 1e-5  # sds of q
_MAX_FAILED_STEPS = 60  # in a row


class WindowState(Packed):
    """Counts and rates of the current window of steps, and of the last complete one."""

    steps: Scalar  # in the current window
    window: Scalar  # its length
    spread: Scalar  # root mean square of the innovations in the last complete window
    rate: Scalar  # of the steps while q drifts
    age: Scalar  # steps averaged since drift was last seen
    calm: Scalar  # 1 where there was no drift in the last complete window, else 0
    failures: Scalar  # steps in a row with draws that were not finite


class Monitor(NamedTuple):
    """Sums of innovations and of their squares over the current window, and its counts."""

    sums: Float[Array, "2 innovations"]
    clock: WindowState


class WindowOutcome(NamedTuple):
    """Conclusions at a window's end; all but `lost` are false while the window is open."""

    ended: Bool[Array, ""]
    converged: Bool[Array, ""]
    near: Bool[Array, ""]  # no innovation is far from zero
    lost: Bool[Array, ""]  # too many steps in a row with draws that were not finite


def start_monitor(num_innovations: int, dtype: jnp.dtype) -> Monitor:
    """A clock whose first window holds nothing yet."""
    zero = jnp.zeros((), dtype)
    clock = WindowState.of(
        steps=zero,
        window=zero + _FIRST_WINDOW_STEPS,
        spread=zero + 1.0,
        rate=zero + 1.0,
        age=zero,
        calm=zero,
        failures=zero,
    )
    return Monitor(jnp.zeros((2, num_innovations), dtype), clock)


def record(
    monitor: Monitor, innovation: Float[Array, "innovations"], usable: Bool[Array, ""]
) -> Monitor:
    """Add a step's innovation to the window; a step with non-finite draws empties the window."""
    sums, clock = monitor
    kept = jnp.where(usable, 1.0, 0.0).astype(sums.dtype)
    seen = jnp.stack([innovation, innovation * innovation])
    moved = clock.replace(
        steps=kept * (clock.steps + 1.0),
        age=kept * (clock.age + clock.calm),
        calm=kept * clock.calm,
        failures=(1.0 - kept) * (clock.failures + 1.0),
    )
    return Monitor(jnp.where(usable, sums + seen, 0.0), moved)


def rate(monitor: Monitor) -> Scalar:
    """Step size: constant while q drifts, then decreasing so that the iterate is an average."""
    clock = monitor.clock
    return clock.rate / (1.0 + clock.rate * clock.age)


def close_window(monitor: Monitor, tolerance: float) -> tuple[Monitor, WindowOutcome]:
    """Decide at the end of a window: drift, no drift, or convergence.

    If q still drifts and is far from the optimum, or moves slowly but steadily, steps become full
    ones again. If it is near, the noise of the steps may keep it away, and steps become shorter.

    Converged means three things. No innovation's average is both significant and above the
    tolerance. The noise of the iterates, sqrt(rate / 2) times the spread, is below the tolerance,
    and so is the root mean square of the averages' standard errors (the noisiest coordinate may
    have three times as much). And the innovations no longer shrink, as they do towards zero where
    q's family contains the posterior.
    """
    clock = monitor.clock
    ends = clock.steps >= clock.window
    steps = jnp.maximum(clock.steps, 1.0)
    mean, square = monitor.sums / steps
    variance = jnp.maximum(square - mean * mean, 0.0)
    total, squares = jnp.sum(jnp.stack([variance, square]), axis=-1)
    # Noise of the steps moves an innovation to either side; the distance to the optimum moves it
    # to one side. But noise also has a mean effect of second order: up to half its total variance,
    # where the updates of coordinates affect each other.
    bend = 0.5 * rate(monitor) * total
    size, sd = jnp.abs(mean), jnp.sqrt(variance)
    by_chance = jnp.maximum(_significant(steps, mean.size) * sd / jnp.sqrt(steps), tolerance)
    creep = size - jnp.maximum(by_chance, jnp.maximum(sd, bend))
    # one reduction for all: XLA compiles a kernel for each
    most = jnp.max(jnp.stack([variance, size, size - by_chance, creep]), axis=-1)
    drift = most[2] > 0.0
    error = jnp.sqrt(most[0] / steps)
    wander = jnp.sqrt(0.5 * rate(monitor) * most[0])
    sharp = jnp.sqrt(total / (mean.size * steps)) < tolerance
    sharp &= (error < 3.0 * tolerance) & (wander < tolerance)
    spread = jnp.sqrt(squares / mean.size)
    settled = (spread > _MIN_SETTLED_SPREAD_RATIO * clock.spread) | (spread < _NEGLIGIBLE_SPREAD)
    longer = jnp.round(_WINDOW_GROWTH * clock.window)
    far = (most[1] > _FAR_SD) | (most[3] > 0.0)
    new_rate = jnp.where(far, jnp.minimum(2.0 * clock.rate, 1.0), 0.5 * clock.rate)
    closed = clock.replace(
        steps=0.0,
        window=jnp.where(drift, _FIRST_WINDOW_STEPS, longer),
        spread=spread,
        rate=jnp.where(drift, jnp.maximum(new_rate, _MIN_RATE), clock.rate),
        age=jnp.where(drift, 0.0, clock.age),
        calm=~drift,
    )
    after = Monitor(jnp.where(ends, 0.0, monitor.sums), pytrees.where(ends, closed, clock))
    lost = clock.failures >= _MAX_FAILED_STEPS
    return after, WindowOutcome(ends, ends & ~drift & sharp & settled, ends & ~far, lost)


def _significant(steps: Scalar, num: int) -> Scalar:
    """Quantile of Student's t for the largest of `num` means of `steps` numbers.

    By chance it is exceeded with probability 0.05. Computed by the expansion of Fisher and Cornish
    in the degrees of freedom (Abramowitz and Stegun 26.7.5).
    """
    z = NormalDist().inv_cdf(1.0 - 0.5 * _FALSE_DRIFT_PROBABILITY / num)
    free = jnp.maximum(steps - 1.0, 1.0)
    first = (z**3 + z) / 4.0
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    return z + first / free + second / free**2
