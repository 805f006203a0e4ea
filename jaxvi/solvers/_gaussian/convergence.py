"""When a solver that knows its own error has done: windows of innovations.

An innovation is what a step would change in the limit of full steps, in units of q's own standard
deviations: of the mean, and of the log standard deviations. Its expectation is zero at the
optimum and elsewhere about the way left, so that its average over a window says how far q is,
and the spread how far the average can be trusted.
"""

from statistics import NormalDist
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvi._numerics import Packed, pytrees
from jaxvi._types import Scalar

_FIRST_WINDOW = 10.0  # steps
_WINDOW_GROWTH = 1.5
_BY_CHANCE = 0.05  # probability that of many coordinates one seems to drift
_FAR_OFF = 0.3  # standard deviations of q
_SLOWEST = 0.05
_STILL_FALLING, _NOTHING = 0.5, 1e-5  # of the spread: from window to window, and at all
_MOST_FAILURES = 60  # steps in a row


class Clock(Packed):
    """Steps of the current window, its length, and the steps averaged since drift was seen."""

    steps: Scalar
    window: Scalar
    spread: Scalar  # root mean square of the innovations in the last complete window
    rate: Scalar  # of the steps while q drifts
    age: Scalar
    calm: Scalar  # 1 where there was no drift in the last complete window, else 0
    failures: Scalar  # steps in a row with draws that were not finite


class Monitor(NamedTuple):
    """Innovations and their squares, summed over the current window, and how long it has been."""

    sums: Float[Array, "2 innovations"]
    clock: Clock


class Verdict(NamedTuple):
    """What a complete window says; but for `lost`, all false while the window is open."""

    ended: Bool[Array, ""]
    converged: Bool[Array, ""]
    near: Bool[Array, ""]
    lost: Bool[Array, ""]  # too many steps in a row with draws that were not finite


def start_monitor(num_innovations: int, dtype: jnp.dtype) -> Monitor:
    """Nothing seen yet."""
    zero = jnp.zeros((), dtype)
    clock = Clock.of(
        steps=zero,
        window=zero + _FIRST_WINDOW,
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
    """One more step; a step with draws that were not finite empties the window."""
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
    """Constant while q drifts; then so that later steps amount to an average of all of them."""
    clock = monitor.clock
    return clock.rate / (1.0 + clock.rate * clock.age)


def close_window(monitor: Monitor, tolerance: float) -> tuple[Monitor, Verdict]:
    """At the end of a window: drift, calm or convergence.

    Where q still drifts and is far from right, or creeps, steps become full ones again; where it
    is near, it may be the steps' own noise that keeps it off, and they become shorter.

    Converged means: no innovation's average is both significant and above the tolerance; the
    wandering of the iterates, sqrt(rate / 2) times the spread, is below it, and so are the
    averages' standard errors (their root mean square; of many coordinates the noisiest may have
    three times as much); and the innovations no longer shrink, as they do to nothing where q's
    family holds the posterior itself.
    """
    clock = monitor.clock
    ends = clock.steps >= clock.window
    steps = jnp.maximum(clock.steps, 1.0)
    mean, square = monitor.sums / steps
    variance = jnp.maximum(square - mean * mean, 0.0)
    total, squares = jnp.sum(jnp.stack([variance, square]), axis=-1)
    # Noise of the steps pushes an innovation now one way, now the other; what is left of the way
    # pushes it one way. But noise also has a mean effect, of second order: where updates of all
    # coordinates bend each other, up to half its total variance.
    bend = 0.5 * rate(monitor) * total
    size, sd = jnp.abs(mean), jnp.sqrt(variance)
    by_chance = jnp.maximum(_significant(steps, mean.size) * sd / jnp.sqrt(steps), tolerance)
    creep = size - jnp.maximum(by_chance, jnp.maximum(sd, bend))
    # all at once: of every reduction XLA makes kernels of its own
    most = jnp.max(jnp.stack([variance, size, size - by_chance, creep]), axis=-1)
    drift = most[2] > 0.0
    error = jnp.sqrt(most[0] / steps)
    wander = jnp.sqrt(0.5 * rate(monitor) * most[0])
    sharp = jnp.sqrt(total / (mean.size * steps)) < tolerance
    sharp &= (error < 3.0 * tolerance) & (wander < tolerance)
    spread = jnp.sqrt(squares / mean.size)
    settled = (spread > _STILL_FALLING * clock.spread) | (spread < _NOTHING)
    longer = jnp.round(_WINDOW_GROWTH * clock.window)
    far = (most[1] > _FAR_OFF) | (most[3] > 0.0)
    paced = jnp.where(far, jnp.minimum(2.0 * clock.rate, 1.0), 0.5 * clock.rate)
    closed = clock.replace(
        steps=0.0,
        window=jnp.where(drift, _FIRST_WINDOW, longer),
        spread=spread,
        rate=jnp.where(drift, jnp.maximum(paced, _SLOWEST), clock.rate),
        age=jnp.where(drift, 0.0, clock.age),
        calm=~drift,
    )
    after = Monitor(jnp.where(ends, 0.0, monitor.sums), pytrees.where(ends, closed, clock))
    lost = clock.failures >= _MOST_FAILURES
    return after, Verdict(ends, ends & ~drift & sharp & settled, ends & ~far, lost)


def _significant(steps: Scalar, num: int) -> Scalar:
    """Student's t beyond which by chance the largest of `num` means of `steps` numbers seldom is.

    The expansion of Fisher and Cornish in the degrees of freedom (Abramowitz and Stegun 26.7.5).
    """
    z = NormalDist().inv_cdf(1.0 - 0.5 * _BY_CHANCE / num)
    free = jnp.maximum(steps - 1.0, 1.0)
    first = (z**3 + z) / 4.0
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    return z + first / free + second / free**2
