"""Fresh draws of q with their log weights: one program, which ranks lanes and weighs the best."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.nn import logsumexp
from jaxtyping import Array, Bool, Float, Key

from jaxvi._light_jit import STEPS, light_jit
from jaxvi._log_probs import log_probs
from jaxvi._types import Data, Phi, Scalar
from jaxvi.families import CouplingFlow, Family, FullRank, MeanField, transform_and_log_prob
from jaxvi.families._full_rank import cholesky_factor
from jaxvi.target import Target

_MOST_DRAWS = 8_192  # of all lanes together
_FEWEST = 32  # of a lane
_SLICE = 512  # of one lane: as many points at a time as a few optimisation steps take
_MOST_NUMBERS = 2**25  # 256 MiB of float64
_DF = 5  # degrees of freedom of heavier draws


class Drawn(NamedTuple):
    """Draws z of every lane's q, the parameters they stand for, and log p(z) - log q(z)."""

    z: Float[Array, "lanes draws dim"]
    params: Float[Array, "lanes draws params"]
    log_weights: Float[Array, "lanes draws"]


def draws_each(num_lanes: int, dim: int) -> int:
    """Draws of every lane in one call."""
    most = min(_MOST_DRAWS, _MOST_NUMBERS // (2 * dim))
    return max(most // num_lanes, _FEWEST)


def draw_and_weigh(
    key: Key[Array, ""],
    phis: Phi,
    data: Data,
    *,
    target: Target,
    family: Family,
    num: int,
    common: bool = False,
    heavier: bool = False,
) -> Drawn:
    """`num` draws of the q of every row of `phis`; `common` ones are made of the same noise.

    `heavier` ones are of q with t's of 5 degrees of freedom in its base, half of them multivariate
    and half along the direction of one coordinate each, where `can_be_heavier`, and are weighed by
    that.
    """
    first = jax.tree.leaves(phis)[0]
    rows = noise_rows(len(first), num, target.dim, family)
    noise = draw_noise(key, family, rows, target.dim, first.dtype)
    how = np.array([common, heavier])
    return _draw_and_weigh(noise, how, phis, data, target, family, num)


@light_jit(STEPS, static_argnames=("family", "num", "dim", "dtype"))
def draw_noise(
    key: Key[Array, ""], family: Family, num: int, dim: int, dtype: jnp.dtype
) -> Float[Array, "num noise"]:
    """A family's base noise.

    A program of its own: it knows nothing of the density, so that the others have less to compile,
    and this one is compiled while the density is being traced.
    """
    return family.draw_noise(key, num, dim, dtype)


def noise_rows(num_lanes: int, num: int, dim: int, family: Family) -> int:
    """Rows of the noise for `num` draws of each lane, and the factors by which heavier ones are
    wider."""
    rows = num_lanes * num
    return rows + (-(-rows * _DF // dim) if can_be_heavier(family) else 0)


def can_be_heavier(family: Family) -> bool:
    """Whether q maps as many normals as there are coordinates, one to one."""
    return isinstance(family, FullRank | MeanField | CouplingFlow)


@light_jit(STEPS, static_argnames=("target", "family", "num"))
def _draw_and_weigh(
    drawn: Float[Array, "rows noise"],
    how: Bool[Array | np.ndarray, "2"],
    phis: Phi,
    data: Data,
    target: Target,
    family: Family,
    num: int,
) -> Drawn:
    first = jax.tree.leaves(phis)[0]
    dtype, lanes = first.dtype, len(first)
    common, heavier = how[0], how[1]
    rows, numbers = lanes * num, lanes * num * _DF
    noise = drawn[:rows].reshape(lanes, num, -1)
    noise = jnp.where(common, noise[:1], noise)
    if can_be_heavier(family):
        others = drawn[rows:].reshape(-1)[:numbers].reshape(lanes, num, _DF)
        wider = jnp.sqrt(_DF / jnp.sum(others**2, axis=-1, keepdims=True))
        noise = jnp.where(heavier, _widened(noise, wider, phis), noise)

    def one(phi: Phi, row: Array) -> Drawn:
        z, log_q = transform_and_log_prob(family, phi, row)
        if can_be_heavier(family):
            log_q += jnp.where(heavier, _heavier_over_normal(row, _directions(phi)), 0.0)
        params = ravel_pytree(target.constrain(z))[0].astype(dtype)
        return Drawn(z, params, log_probs(target, z[None], data)[0] - log_q)

    def of_lane(phi_and_noise: tuple[Phi, Array]) -> Drawn:
        phi, rows = phi_and_noise
        return lax.map(partial(one, phi), rows, batch_size=min(_SLICE, num))

    # lane by lane: mapped over both axes at once, products of matrices compile for longer
    return lax.map(of_lane, (phis, noise))


def _directions(phi: Any) -> Float[Array, "dim dim"]:
    """Unit vectors of noise, one a row, along which a coordinate of z varies, and others with it.

    Of a flow those of the Gaussian at its end, where its layers do nothing.
    """
    dim = phi.loc.size
    lower = getattr(phi, "lower", None)
    if lower is None or lower.shape[0] == 0:  # independent
        return jnp.eye(dim, dtype=phi.loc.dtype)
    factor = cholesky_factor(phi.log_diag, lower)
    return factor / jnp.linalg.norm(factor, axis=1, keepdims=True)


def _widened(
    noise: Float[Array, "lanes draws dim"], wider: Float[Array, "lanes draws 1"], phis: Any
) -> Float[Array, "lanes draws dim"]:
    """Every other row times its factor, the others along the direction of one coordinate in turn.

    A tail of one coordinate is not met by rows that are far out in all of them at once.
    """
    row = jnp.arange(noise.shape[0] * noise.shape[1]).reshape(noise.shape[:2])
    along = jax.vmap(lambda phi, row: _directions(phi)[row // 2 % noise.shape[2]])(phis, row)
    part = jnp.sum(noise * along, axis=-1, keepdims=True) * along
    return noise + (wider - 1.0) * jnp.where((row % 2 == 0)[..., None], noise, part)


def _heavier_over_normal(
    row: Float[Array, "noise"], directions: Float[Array, "dim noise"]
) -> Scalar:
    """Log density of heavier draws over a standard normal's.

    In equal parts a multivariate t of `_DF` degrees of freedom, and normals of which one direction
    has such a t.
    """
    each = logsumexp(_t_over_normal((directions @ row) ** 2, 1)) - math.log(row.size)
    return jnp.logaddexp(_t_over_normal(jnp.sum(row**2), row.size), each) - math.log(2.0)


def _t_over_normal(square: Float[Array, "*rows"], dim: int) -> Float[Array, "*rows"]:
    """Log density of a standard multivariate t over a normal's where the norm has this square."""
    half = 0.5 * (_DF + dim)
    constant = math.lgamma(half) - math.lgamma(0.5 * _DF) - 0.5 * dim * math.log(0.5 * _DF)
    return constant - half * jnp.log1p(square / _DF) + 0.5 * square


def lower_draws(
    key: Key[Array, ""], phis: Any, data: Data, target: Target, family: Family, num: int
) -> jax.stages.Lowered:
    """The program for `phis` of these shapes, but for its noise; as `draw_and_weigh`."""
    first = jax.tree.leaves(phis)[0]
    rows, dim = noise_rows(len(first), num, target.dim, family), target.dim
    noise = jax.eval_shape(lambda key: draw_noise(key, family, rows, dim, first.dtype), key)
    how = np.array([True, False])
    return _draw_and_weigh.lower(noise, how, phis, data, target, family, num)


def tiled(phi: Phi, num: int) -> Phi:
    """As many copies of one phi, so that a program of as many lanes serves it."""
    copies = jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (num, *leaf.shape)), phi)
    return jax.device_put(copies)  # nothing is compiled for it
