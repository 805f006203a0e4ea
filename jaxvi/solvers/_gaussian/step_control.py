"""How far a solver that moves a whole Gaussian may go in one step."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvi._numerics import Packed, pytrees
from jaxvi._types import Phi, Scalar

_RADIUS = 3.0
_WORTH_JUDGING = 20.0  # nats
_CLEARLY = 6.0  # standard errors


class Trust(Packed):
    """How far a step may go: by what the last one promised and what it gave."""

    radius: Scalar  # of the mean's step: whitened, in units of sqrt(dim)
    pace: Scalar  # share of the whole step, at most 1
    bound: Scalar  # at the last q
    error: Scalar  # its standard error
    promised: Scalar  # gain of the step from there


def start_trust(dtype: jnp.dtype) -> Trust:
    """Nothing promised yet."""
    zero = jnp.zeros((), dtype)
    return Trust.of(
        radius=zero + _RADIUS, pace=zero + 1.0, bound=_lowest(zero), error=zero, promised=zero
    )


def _lowest(like: Scalar) -> Scalar:
    """What anything is a gain on; finite, as states must be."""
    return jnp.full_like(like, jnp.finfo(like.dtype).min)


def bound_and_error(values: Float[Array, "draws"]) -> tuple[Scalar, Scalar]:
    """Mean and standard error; of mirrored draws the error is less."""
    return values.mean(), values.std() / math.sqrt(max(len(values) - 1, 1))


def judge(trust: Trust, bound: Scalar, error: Scalar) -> tuple[Trust, Bool[Array, ""]]:
    """A longer radius where the last step kept its promise; whether it must be undone.

    Promises of a few nats are not judged, nor small falls: bounds are noisy. A bound that falls
    clearly though little was promised or lost in the mean is the scales' doing, so that all of
    the step is made shorter.
    """
    gain = bound - trust.bound
    judged = trust.promised > _WORTH_JUDGING
    kept = judged & (gain > 0.25 * trust.promised)
    broken = judged & ~(gain > 0.0)
    noise = jnp.sqrt(error**2 + trust.error**2)
    fell = (judged & ~(gain > -trust.promised)) | (gain < -_WORTH_JUDGING - _CLEARLY * noise)
    factor = jnp.where(kept, 2.0, jnp.where(judged & fell, 0.125, jnp.where(broken, 0.5, 1.0)))
    radius = jnp.clip(trust.radius * factor, 0.1, 1e6).astype(trust.radius.dtype)
    pace = jnp.where(fell, 0.5 * trust.pace, jnp.minimum(1.2 * trust.pace, 1.0))
    return trust.replace(radius=radius, pace=jnp.maximum(pace, 0.02)), fell


def settle(
    here: tuple[Phi, Phi, Trust],
    moved: Phi,
    narrower: Phi,
    seen: tuple[Bool[Array, ""], Bool[Array, ""], Scalar, Scalar, Scalar],
) -> tuple[Phi, Phi, Trust]:
    """phi, the last phi and the trust after a step.

    `here` is the same before it, the trust already judged; `moved` is where the step goes,
    `narrower` where to go instead if draws were not finite; `seen` says whether all was finite,
    whether the last step must be undone, the bound, its standard error and the gain that is
    promised. Where the last step did badly, to where draws are not finite among others, it is
    undone.
    """
    phi, last, trust = here
    usable, fell, bound, error, promised = seen
    going = usable & ~fell
    after = trust.replace(  # what comes after an undone step is not compared with anything
        bound=jnp.where(going, bound, _lowest(bound)),
        error=jnp.where(going, error, 0.0),
        promised=jnp.where(going, promised, 0.0),
    )
    next_phi = pytrees.where(fell, last, pytrees.where(usable, moved, narrower))
    return next_phi, pytrees.where(going, phi, last), after


def share(length: Scalar, rate: Scalar, radius: Scalar, dim: int) -> Scalar:
    """Of a step of whitened length: `rate`, or less so that it stays within the radius."""
    return jnp.minimum(rate, radius * math.sqrt(dim) / jnp.maximum(length, 1e-30))
