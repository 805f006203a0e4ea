"""How far a solver that moves a whole Gaussian may go in one step."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxvi import _tree
from jaxvi._types import Phi, Scalar

_RADIUS = 3.0
_WORTH_JUDGING = 20.0  # nats


class Trust(NamedTuple):
    """How far the mean may go: by what the last step promised and what it gave."""

    radius: Scalar  # whitened, in units of sqrt(dim)
    bound: Scalar  # at the last q
    promised: Scalar  # gain of the step from there


def start_trust(dtype: jnp.dtype) -> Trust:
    """Nothing promised yet."""
    zero = jnp.zeros((), dtype)
    return Trust(zero + _RADIUS, zero, zero)


def judge(trust: Trust, bound: Scalar) -> tuple[Trust, Bool[Array, ""]]:
    """A longer radius where the last step kept its promise; whether it must be undone.

    Promises of a few nats are not judged: bounds are noisy.
    """
    gain = bound - trust.bound
    judged = trust.promised > _WORTH_JUDGING
    kept = judged & (gain > 0.25 * trust.promised)
    broken = judged & ~(gain > 0.0)
    fell = judged & ~(gain > -trust.promised)
    factor = jnp.where(kept, 2.0, jnp.where(fell, 0.125, jnp.where(broken, 0.5, 1.0)))
    radius = jnp.clip(trust.radius * factor, 0.1, 1e6).astype(trust.radius.dtype)
    return trust._replace(radius=radius), fell


def settle(
    here: tuple[Phi, Phi, Trust],
    moved: Phi,
    narrower: Phi,
    seen: tuple[Bool[Array, ""], Scalar, Scalar],
) -> tuple[Phi, Phi, Trust]:
    """phi, the last phi and the trust after a step.

    `here` is the same before it; `moved` is where the step goes, `narrower` where to go instead
    if draws were not finite; `seen` says whether all was finite, the bound and the gain that is
    promised. Where the last step broke its promise badly, it is undone.
    """
    phi, last, before = here
    usable, bound, promised = seen
    trust, fell = judge(before, bound)
    going = usable & ~fell
    after = Trust(
        trust.radius,
        jnp.where(going, bound, before.bound),
        jnp.where(going, promised, 0.0),
    )
    next_phi = _tree.where(usable, _tree.where(fell, last, moved), narrower)
    return next_phi, _tree.where(going, phi, last), after


def share(length: Scalar, rate: Scalar, radius: Scalar, dim: int) -> Scalar:
    """Of a step of whitened length: `rate`, or less so that it stays within the radius."""
    return jnp.minimum(rate, radius * math.sqrt(dim) / jnp.maximum(length, 1e-30))


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every number in a tree is finite."""
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
