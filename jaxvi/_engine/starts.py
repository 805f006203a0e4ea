"""Starts of lanes: drawn at random, given by the user, or taken from another fit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxvi._compilation import ONCE, light_jit
from jaxvi._engine.loop import Lane, start_lane
from jaxvi._engine.setup import Setup
from jaxvi._numerics import Keys
from jaxvi._types import Data, Phi
from jaxvi.families import HasGaussianInit
from jaxvi.target import values_and_gradients

_START_TRIES = 20


class WarmStart(NamedTuple):
    """A start from another fit: its phi if the family is the same, else a Gaussian's moments."""

    loc: Float[Array, "dim"]
    phi: Phi | None
    scale_tril: Float[Array, "dim dim"] | None


class Starts(NamedTuple):
    """The arguments of `start_lanes`: points, scales of drawn starts, data, another fit."""

    z: Float[Array, "*all dim"] | None
    scale: Float[Array, "*each"]
    data: Data
    warm: WarmStart | None


def initial_lane(
    setup: Setup,
    key: Key[Array, ""],
    lane: Int[Array, ""],
    z: Float[Array, "dim"] | None,
    start_scale: Float[Array, ""],
    data: Data,
    jitter: Bool[Array, ""] | bool = False,
) -> Lane:
    """A lane at `z`, or at the first start drawn under its own key where all is finite.

    With `jitter`, a draw is `z` plus `start_scale` times a normal, whose sign changes from lane to
    lane of a pair; without z it comes from the target's own `start`, or around the origin. Each
    failed try halves the distance to the centre.
    """
    dtype = setup.target.dtype(data)

    def key_of(owner: Int[Array, ""], number: int | Int[Array, ""]) -> Key[Array, ""]:
        """Key of one of the tries of a lane, or of a pair of lanes; the last is that of phi."""
        return jax.random.fold_in(key, owner * (_START_TRIES + 1) + number)

    def begin(found: Float[Array, "dim"], usable: Bool[Array, ""]) -> Lane:
        phi = setup.family.init(key_of(lane, _START_TRIES), setup.target.dim, start=found)
        return start_lane(setup, phi, usable, data)

    if z is not None and jitter is False:  # no search, and less to compile
        return begin(z, _is_usable(setup, z, data))

    def propose(attempt: Int[Array, ""]) -> Float[Array, "dim"]:
        if z is None and setup.target.start is not None:
            return setup.target.draw_start(key_of(lane, attempt), data).astype(dtype)
        spread = jnp.asarray(start_scale, dtype) * 0.5 ** attempt.astype(dtype)
        # always float32: a start needs no more, and normals of float64 take long to compile
        key_try = key_of(lane // 2, attempt)
        normal = jax.random.normal(key_try, (setup.target.dim,), jnp.float32)
        # every second lane mirrors the one before: a mode on one side is not missed by both
        step = jnp.where(lane % 2 == 0, spread, -spread) * normal.astype(dtype)
        return step if z is None else jnp.where(jitter, z + step, z)

    def search(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        attempt, _, _ = carry
        candidate = propose(attempt)
        return attempt + 1, candidate, _is_usable(setup, candidate, data)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        return ~carry[2] & (carry[0] < _START_TRIES)

    nothing = (jnp.zeros((), jnp.int32), jnp.zeros(setup.target.dim, dtype), jnp.zeros((), bool))
    _, found, usable = lax.while_loop(unfinished, search, nothing)
    return begin(found, usable)


def _is_usable(setup: Setup, z: Float[Array, "dim"], data: Data) -> Bool[Array, ""]:
    """Whether the log density and its gradient are finite at z."""
    value, grad = values_and_gradients(setup.target, z[None], data)
    return jnp.isfinite(value[0]) & jnp.isfinite(grad).all()


def _warm_lane(
    setup: Setup, key: Key[Array, ""], lane: Int[Array, ""], warm: WarmStart, data: Data
) -> Lane:
    """A lane that starts at another fit's q; other parts of phi are drawn by the lane's key."""
    phi = warm.phi
    if phi is None:
        assert isinstance(setup.family, HasGaussianInit)  # checked by `results.warm_start`
        assert warm.scale_tril is not None
        own = jax.random.fold_in(key, lane)
        phi = setup.family.init_gaussian(own, warm.loc, warm.scale_tril)
    return start_lane(setup, phi, _is_usable(setup, warm.loc, data), data)


@light_jit(ONCE, static_argnames=("setup", "num_lanes"))
def start_lanes(
    keys: Keys,
    z: Float[Array, "*lanes dim"] | None,
    start_scale: Float[Array, "*each"],
    data: Data,
    warm: WarmStart | None = None,
    *,
    setup: Setup,
    num_lanes: int,
) -> Lane:
    """Lanes for all restarts, each at its start.

    z of shape (dim,) is where lane 0 starts, the others being scattered around it; z of shape
    (lanes, dim) gives every lane's own; None draws them all. A `warm` start is that of all
    lanes. `start_scale` is one for all, or one for each.
    """
    lanes = jnp.arange(num_lanes, dtype=jnp.int32)
    if z is not None and num_lanes == 1:
        z = z.reshape(1, -1)
    return lanes_at_starts(setup, keys, lanes, z, start_scale, data, warm)


def lanes_at_starts(
    setup: Setup,
    keys: Keys,
    lanes: Int[Array, "lanes"],
    z: Float[Array, "*all dim"] | None,
    start_scale: Float[Array, "*each"],
    data: Data,
    warm: WarmStart | None,
) -> Lane:
    """Lanes for the restarts with these numbers; z and scales are those of all restarts."""
    if warm is not None:
        return jax.vmap(lambda lane: _warm_lane(setup, keys.start, lane, warm, data))(lanes)
    batched = z is not None and z.ndim == 2
    scales = start_scale[lanes] if start_scale.ndim else jnp.broadcast_to(start_scale, len(lanes))

    def one(lane: Array, scale: Array, z: Array | None) -> Lane:
        jitter = False if batched else lane > 0
        return initial_lane(setup, keys.start, lane, z, scale, data, jitter)

    if z is not None and batched:
        return jax.vmap(one)(lanes, scales, z[lanes])
    return jax.vmap(one, (0, 0, None))(lanes, scales, z)
