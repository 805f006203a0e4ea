"""Log densities and constrained parameters at many points, in compiled blocks of rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxvi._compilation import STEPS, apply_in_blocks, light_jit
from jaxvi._types import Data
from jaxvi.target import Target, log_probs


def values_of(
    target: Target, z: Float[np.ndarray, "points dim"], data: Data
) -> Float[np.ndarray, "points"]:
    """The log density at many points, by one program for any number of them."""
    return apply_in_blocks(
        lambda rows: np.asarray(values_of_block(target, rows, data))[:, None], z
    )[:, 0]


@light_jit(STEPS, static_argnames="target")
def values_of_block(
    target: Target, z: Float[Array, "points dim"], data: Data
) -> Float[Array, "points"]:
    """The log density at one block of points."""
    return log_probs(target, z, data)


def features(
    target: Target, z: Float[Array | np.ndarray, "rows dim"]
) -> Float[np.ndarray, "rows coordinates"]:
    """Coordinates of every point: z, followed by the constrained parameters."""
    return apply_in_blocks(partial(_features, target), np.asarray(z))


@light_jit(STEPS, static_argnums=0)
def _features(target: Target, z: Float[Array, "rows dim"]) -> Float[Array, "rows coordinates"]:
    values = jax.vmap(lambda row: ravel_pytree(target.constrain(row))[0])(z)
    return jnp.concatenate([z, values.astype(z.dtype)], axis=-1)
