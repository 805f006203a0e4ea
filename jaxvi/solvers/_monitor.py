"""When a solver that knows its own error has done: windows of innovations.

An innovation is what a step would change in the limit of full steps, in units of q's own standard
deviations: of the mean, and of the log standard deviations. Its expectation is zero at the
optimum and elsewhere about the way left, so that its average over a window says how far q is,
and the spread how far the average can be trusted.
"""

from statistics import NormalDist
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvi._types import Scalar

_FIRST_WINDOW = 10.0  # steps
_WINDOW_GROWTH = 1.5
_BY_CHANCE = 0.05  # probability that of many coordinates one seems to drift
_FAR_OFF = 0.3  # standard deviations of q
_SLOWEST = 0.05
_STILL_FALLING, _NOTHING = 0.5, 1e-5  # of the spread: from window to window, and at all
_MOST_FAILURES = 60  # steps in a row


class Monitor(NamedTuple):
    """Sums over the current window, its length, and the steps averaged since drift was seen."""

    total: Float[Array, "innovations"]
    square: Float[Array, "innovations"]
    steps: Scalar
    window: Scalar
    spread: Scalar  # root mean square of the innovations in the last complete window
    rate: Scalar  # of the steps while q drifts
    age: Scalar
    calm: Bool[Array, ""]  # no drift in the last complete window
    failures: Int[Array, ""]  # steps in a row with draws that were not finite


class Verdict(NamedTuple):
    """What a complete window says; but for `lost`, all false while the window is open."""

    ended: Bool[Array, ""]
    converged: Bool[Array, ""]
    near: Bool[Array, ""]
    lost: Bool[Array, ""]  # too many steps in a row with draws that were not finite


def start_monitor(num_innovations: int, dtype: jnp.dtype) -> Monitor:
    """Nothing seen yet."""
    zeros = jnp.zeros(num_innovations, dtype)
    zero = jnp.zeros((), dtype)
    return Monitor(
        total=zeros,
        square=zeros,
        steps=zero,
        window=zero + _FIRST_WINDOW,
        spread=zero + 1.0,
        rate=zero + 1.0,
        age=zero,
        calm=jnp.zeros((), bool),
        failures=jnp.zeros((), jnp.int32),
    )


def record(
    monitor: Monitor, innovation: Float[Array, "innovations"], usable: Bool[Array, ""]
) -> Monitor:
    """One more step; a step with draws that were not finite empties the window."""
    kept = jnp.where(usable, 1.0, 0.0).astype(monitor.steps.dtype)
    seen = jnp.where(usable, innovation, 0.0)
    return monitor._replace(
        total=kept * (monitor.total + seen),
        square=kept * (monitor.square + seen * seen),
        steps=kept * (monitor.steps + 1.0),
        age=kept * (monitor.age + monitor.calm),
        calm=monitor.calm & usable,
        failures=jnp.where(usable, 0, monitor.failures + 1),
    )


def rate(monitor: Monitor) -> Scalar:
    """Constant while q drifts; then so that later steps amount to an average of all of them."""
    return monitor.rate / (1.0 + monitor.rate * monitor.age)


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
    ends = monitor.steps >= monitor.window
    steps = jnp.maximum(monitor.steps, 1.0)
    mean = monitor.total / steps
    variance = jnp.maximum(monitor.square / steps - mean * mean, 0.0)
    error = jnp.sqrt(variance / steps)
    wander = jnp.sqrt(0.5 * rate(monitor) * variance)
    significant = jnp.abs(mean) > jnp.maximum(_significant(steps, mean.size) * error, tolerance)
    drift = jnp.any(significant)
    sharp = jnp.sqrt(jnp.mean(error**2)) < tolerance
    sharp &= jnp.all((error < 3.0 * tolerance) & (wander < tolerance))
    spread = jnp.sqrt(jnp.mean(monitor.square / steps))
    settled = (spread > _STILL_FALLING * monitor.spread) | (spread < _NOTHING)
    calm = jnp.where(ends, ~drift, monitor.calm)
    longer = jnp.round(_WINDOW_GROWTH * monitor.window)
    # Noise of the steps pushes an innovation now one way, now the other; what is left of the way
    # pushes it one way. But noise also has a mean effect, of second order: where updates of all
    # coordinates bend each other, up to half its total variance.
    bend = 0.5 * rate(monitor) * jnp.sum(variance)
    creeps = jnp.any(significant & (jnp.abs(mean) > jnp.maximum(jnp.sqrt(variance), bend)))
    far = (jnp.abs(mean).max() > _FAR_OFF) | creeps
    paced = jnp.where(far, jnp.minimum(2.0 * monitor.rate, 1.0), 0.5 * monitor.rate)
    paced = jnp.maximum(paced, _SLOWEST)
    closed = monitor._replace(
        total=jnp.where(ends, 0.0, monitor.total),
        square=jnp.where(ends, 0.0, monitor.square),
        steps=jnp.where(ends, 0.0, monitor.steps),
        window=jnp.where(ends, jnp.where(drift, _FIRST_WINDOW, longer), monitor.window),
        spread=jnp.where(ends, spread, monitor.spread),
        rate=jnp.where(ends & drift, paced, monitor.rate),
        age=jnp.where(ends & drift, 0.0, monitor.age),
        calm=calm,
    )
    lost = monitor.failures >= _MOST_FAILURES
    return closed, Verdict(ends, ends & ~drift & sharp & settled, ends & ~far, lost)


def _significant(steps: Scalar, num: int) -> Scalar:
    """Student's t beyond which by chance the largest of `num` means of `steps` numbers seldom is.

    The expansion of Fisher and Cornish in the degrees of freedom (Abramowitz and Stegun 26.7.5).
    """
    z = NormalDist().inv_cdf(1.0 - 0.5 * _BY_CHANCE / num)
    free = jnp.maximum(steps - 1.0, 1.0)
    first = (z**3 + z) / 4.0
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    return z + first / free + second / free**2
