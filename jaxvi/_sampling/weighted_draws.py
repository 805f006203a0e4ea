"""Fresh draws of q with their log weights: one program, which ranks lanes and weighs the best."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key

from jaxvi._compilation import STEPS, light_jit
from jaxvi._types import Data, Phi
from jaxvi.families import Family, transform_and_log_prob
from jaxvi.target import Target, log_probs

_MOST_DRAWS = 8_192  # of all lanes together
_FEWEST = 32  # of a lane
_SLICE = 512  # of one lane: as many points at a time as a few optimisation steps take
_MOST_NUMBERS = 2**25  # 256 MiB of float64


class Drawn(NamedTuple):
    """Draws z of every lane's q, the parameters they stand for, and log p(z) - log q(z)."""

    z: Float[Array, "lanes draws dim"]
    params: Float[Array, "lanes draws params"]
    log_weights: Float[Array, "lanes draws"]


def draws_each(num_lanes: int, dim: int) -> int:
    """Draws of every lane in one call."""
    most = min(_MOST_DRAWS, _MOST_NUMBERS // (2 * dim))
    return max(most // num_lanes, _FEWEST)


def draw_with_log_weights(
    key: Key[Array, ""],
    phis: Phi,
    data: Data,
    *,
    target: Target,
    family: Family,
    num: int,
    common: bool = False,
) -> Drawn:
    """`num` draws of the q of every row of `phis`; `common` ones are made of the same noise."""
    first = jax.tree.leaves(phis)[0]
    noise = draw_noise(key, family, len(first) * num, target.dim, first.dtype)
    choices: dict[str, Any] = {"target": target, "family": family, "common": common}
    return weigh_draws(noise, phis, data, **choices)


@light_jit(STEPS, static_argnames=("family", "num", "dim", "dtype"))
def draw_noise(
    key: Key[Array, ""], family: Family, num: int, dim: int, dtype: jnp.dtype
) -> Float[Array, "num noise"]:
    """A family's base noise.

    A program of its own: it knows nothing of the density, so that the others have less to compile,
    and this one is compiled while the density is being traced.
    """
    return family.draw_noise(key, num, dim, dtype)


def weigh_draws(
    noise: Float[Array | np.ndarray, "rows noise"],
    phis: Phi,
    data: Data,
    *,
    target: Target,
    family: Family,
    common: bool = False,
) -> Drawn:
    """Draws made of these rows of noise, as many of each lane; `common` ones of the first."""
    return _weigh_draws(noise, np.bool_(common), phis, data, target, family)


@light_jit(STEPS, static_argnames=("target", "family"))
def _weigh_draws(
    noise: Float[Array, "rows noise"],
    common: Any,
    phis: Phi,
    data: Data,
    target: Target,
    family: Family,
) -> Drawn:
    first = jax.tree.leaves(phis)[0]
    noise = noise.reshape(len(first), -1, noise.shape[1])
    noise = jnp.where(common, noise[:1], noise)

    def one(phi: Phi, row: Array) -> Drawn:
        z, log_q = transform_and_log_prob(family, phi, row)
        params = ravel_pytree(target.constrain(z))[0].astype(first.dtype)
        return Drawn(z, params, log_probs(target, z[None], data)[0] - log_q)

    def of_lane(phi_and_noise: tuple[Phi, Array]) -> Drawn:
        phi, rows = phi_and_noise
        return lax.map(partial(one, phi), rows, batch_size=min(_SLICE, len(rows)))

    # lane by lane: mapped over both axes at once, products of matrices compile for longer
    return lax.map(of_lane, (phis, noise))


def lower_draws(
    key: Key[Array, ""], phis: Any, data: Data, target: Target, family: Family, num: int
) -> jax.stages.Lowered:
    """The program for `phis` of these shapes, but for its noise; as `draw_with_log_weights`."""
    first = jax.tree.leaves(phis)[0]
    rows, dim = len(first) * num, target.dim
    noise = jax.eval_shape(lambda key: draw_noise(key, family, rows, dim, first.dtype), key)
    return _weigh_draws.lower(noise, np.bool_(True), phis, data, target, family)


def tiled(phi: Phi, num: int) -> Phi:
    """As many copies of one phi, so that a program of as many lanes serves it."""
    copies = jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (num, *leaf.shape)), phi)
    return jax.device_put(copies)  # nothing is compiled for it
