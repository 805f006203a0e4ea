"""Compiled programs that advance a batch of lanes and read their parameters."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxvi._compilation import ONCE, STEPS, light_jit
from jaxvi._engine.loop import Lane, run_lanes
from jaxvi._engine.setup import AnySetup
from jaxvi._numerics import Keys
from jaxvi._types import Data, Phi


@light_jit(STEPS, static_argnames=("setup", "rows"), donate_argnames=("lanes",))
def advance_lanes(
    keys: Keys,
    lanes: Lane,
    first_step: Int[Array, ""],
    last_step: Int[Array, ""],
    data: Data,
    *,
    setup: AnySetup,
    rows: int,
) -> tuple[Lane, Float[Array, "rows lanes"], Int[Array, ""]]:
    """Advance all lanes by a chunk, at most `rows` blocks; returns lanes, bounds, the next step."""
    indices = jnp.arange(lanes.status.shape[0], dtype=jnp.int32)
    own = noise_keys(keys, indices, setup)
    return run_lanes(setup, own, lanes, first_step, last_step, rows, data)


def noise_keys(keys: Keys, lanes: Int[Array, "lanes"], setup: AnySetup) -> Key[Array, "..."]:
    """The key of the noise: one if lanes share their noise, else one for each of these lanes."""
    if setup.shared:
        return keys.noise
    return jax.vmap(jax.random.fold_in, (None, 0))(keys.noise, lanes)


@light_jit(ONCE, static_argnames="setup")
def lane_results(lanes: Lane, *, setup: AnySetup) -> Phi:
    """The current variational parameters of every lane."""
    return jax.vmap(setup.solver.result)(lanes.state)
