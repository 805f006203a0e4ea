"""Trust-region control of a Gaussian's steps, by predicted and actual gains of the bound."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvi._numerics import Packed, pytrees
from jaxvi._types import Phi, Scalar

_FIRST_RADIUS = 3.0  # in units of sqrt(dim), whitened
_MIN_COMPARED_GAIN_NATS = 20.0  # predicted gains up to it are not compared with actual ones
_CLEAR_STANDARD_ERRORS = 6.0  # by which a fall of the bound must exceed its noise


class TrustRegion(Packed):
    """Limits of the next step, and the predicted gain of the last one."""

    radius: Scalar  # of the mean's step: whitened, in units of sqrt(dim)
    step_fraction: Scalar  # of the full step, at most 1
    bound: Scalar  # at the last q
    error: Scalar  # the bound's standard error
    predicted_gain: Scalar  # of the step from the last q, nats


def start_trust_region(dtype: jnp.dtype) -> TrustRegion:
    """A first trust region, without a step to compare with."""
    zero = jnp.zeros((), dtype)
    return TrustRegion.of(
        radius=zero + _FIRST_RADIUS,
        step_fraction=zero + 1.0,
        bound=_lowest(zero),
        error=zero,
        predicted_gain=zero,
    )


def _lowest(like: Scalar) -> Scalar:
    """A bound below all others; finite, as states must be."""
    return jnp.full_like(like, jnp.finfo(like.dtype).min)


def bound_and_error(values: Float[Array, "draws"]) -> tuple[Scalar, Scalar]:
    """Mean and standard error of the draws' values; an upper bound for mirrored draws."""
    return values.mean(), values.std() / math.sqrt(max(len(values) - 1, 1))


def update_trust_region(
    region: TrustRegion, bound: Scalar, error: Scalar
) -> tuple[TrustRegion, Bool[Array, ""]]:
    """Trust region for the next step, and whether the last step must be undone.

    The radius grows if the last step's actual gain was near its predicted one. Predicted gains of
    a few nats are not compared, nor are small falls of the bound, which is noisy. If the bound fell
    clearly although little gain was predicted, the covariance update is at fault: the whole step
    becomes shorter.
    """
    actual_gain = bound - region.bound
    compared = region.predicted_gain > _MIN_COMPARED_GAIN_NATS
    good = compared & (actual_gain > 0.25 * region.predicted_gain)
    poor = compared & ~(actual_gain > 0.0)
    noise = jnp.sqrt(error**2 + region.error**2)
    fell = (compared & ~(actual_gain > -region.predicted_gain)) | (
        actual_gain < -_MIN_COMPARED_GAIN_NATS - _CLEAR_STANDARD_ERRORS * noise
    )
    factor = jnp.where(good, 2.0, jnp.where(compared & fell, 0.125, jnp.where(poor, 0.5, 1.0)))
    radius = jnp.clip(region.radius * factor, 0.1, 1e6).astype(region.radius.dtype)
    step_fraction = jnp.where(
        fell, 0.5 * region.step_fraction, jnp.minimum(1.2 * region.step_fraction, 1.0)
    )
    return region.replace(radius=radius, step_fraction=jnp.maximum(step_fraction, 0.02)), fell


def accept_or_undo(
    here: tuple[Phi, Phi, TrustRegion],
    moved: Phi,
    narrower: Phi,
    seen: tuple[Bool[Array, ""], Bool[Array, ""], Scalar, Scalar, Scalar],
) -> tuple[Phi, Phi, TrustRegion]:
    """phi, the phi before it, and the trust region after a step that is taken or undone.

    Args:
        here: phi, the last phi and the updated trust region before the step.
        moved: phi after the step.
        narrower: phi to use instead if draws were not finite.
        seen: whether all was finite, whether the last step must be undone, the bound, its standard
            error and the predicted gain.
    """
    phi, last, region = here
    usable, fell, bound, error, predicted_gain = seen
    taken = usable & ~fell
    after = region.replace(  # a step after an undone one is not compared
        bound=jnp.where(taken, bound, _lowest(bound)),
        error=jnp.where(taken, error, 0.0),
        predicted_gain=jnp.where(taken, predicted_gain, 0.0),
    )
    next_phi = pytrees.where(fell, last, pytrees.where(usable, moved, narrower))
    return next_phi, pytrees.where(taken, phi, last), after


def share(length: Scalar, rate: Scalar, radius: Scalar, dim: int) -> Scalar:
    """Fraction of a step of given whitened length: `rate`, or less to stay within the radius."""
    return jnp.minimum(rate, radius * math.sqrt(dim) / jnp.maximum(length, 1e-30))
