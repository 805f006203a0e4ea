"""Draws of q with log weights log p - log q, by one program for ranking and for diagnostics."""

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

_MAX_DRAWS = 8_192  # of all lanes together
_MIN_DRAWS_PER_LANE = 32
_SLICE_DRAWS = 512  # of one lane at a time: as many points as a few optimisation steps evaluate
_MAX_NUMBERS = 2**25  # 256 MiB of float64


class Drawn(NamedTuple):
    """Draws z of every lane's q, their constrained parameters, and log p(z) - log q(z)."""

    z: Float[Array, "lanes draws dim"]
    params: Float[Array, "lanes draws params"]
    log_weights: Float[Array, "lanes draws"]


def draws_each(num_lanes: int, dim: int) -> int:
    """Number of draws of every lane in one call, within limits of number and memory."""
    most = min(_MAX_DRAWS, _MAX_NUMBERS // (2 * dim))
    return max(most // num_lanes, _MIN_DRAWS_PER_LANE)


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
    """`num` weighted draws of q for every row of `phis`; `common`: all lanes use the same noise."""
    first = jax.tree.leaves(phis)[0]
    noise = draw_noise(key, family, len(first) * num, target.dim, first.dtype)
    choices: dict[str, Any] = {"target": target, "family": family, "common": common}
    return weigh_draws(noise, phis, data, **choices)


@light_jit(STEPS, static_argnames=("family", "num", "dim", "dtype"))
def draw_noise(
    key: Key[Array, ""], family: Family, num: int, dim: int, dtype: jnp.dtype
) -> Float[Array, "num noise"]:
    """Draw a family's base noise, `num` rows of it.

    A separate program: it does not depend on the density, so that other programs have less to
    compile, and it is compiled while the density is traced.
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
    """Weighted draws from noise that is split among lanes; `common`: all use the first part."""
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
    """`weigh_draws` as a compiled program."""
    first = jax.tree.leaves(phis)[0]
    noise = noise.reshape(len(first), -1, noise.shape[1])
    noise = jnp.where(common, noise[:1], noise)

    def one(phi: Phi, row: Array) -> Drawn:
        z, log_q = transform_and_log_prob(family, phi, row)
        params = ravel_pytree(target.constrain(z))[0].astype(first.dtype)
        return Drawn(z, params, log_probs(target, z[None], data)[0] - log_q)

    def of_lane(phi_and_noise: tuple[Phi, Array]) -> Drawn:
        phi, rows = phi_and_noise
        return lax.map(partial(one, phi), rows, batch_size=min(_SLICE_DRAWS, len(rows)))

    # lane by lane: mapped over both axes at once, products of matrices compile for longer
    return lax.map(of_lane, (phis, noise))


def lower_draws(
    key: Key[Array, ""], phis: Any, data: Data, target: Target, family: Family, num: int
) -> jax.stages.Lowered:
    """Lower the program of `draw_with_log_weights` for `phis` of these shapes, without noise."""
    first = jax.tree.leaves(phis)[0]
    rows, dim = len(first) * num, target.dim
    noise = jax.eval_shape(lambda key: draw_noise(key, family, rows, dim, first.dtype), key)
    return _weigh_draws.lower(noise, np.bool_(True), phis, data, target, family)


def tiled(phi: Phi, num: int) -> Phi:
    """`num` copies of one phi, so that a program for as many lanes can be used."""
    copies = jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (num, *leaf.shape)), phi)
    return jax.device_put(copies)  # without compiling
