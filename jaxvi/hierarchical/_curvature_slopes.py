"""How coordinates change the curvature in latents: third derivatives."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from jaxvi._arguments import typed_key
from jaxvi._compilation import ONCE, light_jit
from jaxvi._numerics import generator_of
from jaxvi._types import Data
from jaxvi.families import FullRankParams, scale_tril_on_host
from jaxvi.target import Target, hessian_products

_PAIRS = 4  # mirrored draws at which third derivatives are averaged
_STRONG = (
    0.3  # nats that the dependents's scales alone move the density about, as a hyperparameter moves
)
_NOTABLE = 0.1  # slope of a dependent, and relative to the largest
_FEW, _MANY = 8, 64  # hyperparameters there is room for
_ORDER = 0.25  # of machine epsilon: differences lose 4 digits of 16 and 2 of 7, as does their step


class _Slopes(NamedTuple):
    """Slopes of the log of each curvature (row) in each coordinate, and how they were seen.

    That is: q's standard deviations, draws of it, and steps for differences along a coordinate.
    """

    slopes: Float[np.ndarray, "dim dim"]
    sd: Float[np.ndarray, "dim"]
    z: Float[Array, "draws dim"]
    steps: Float[Array, "dim"]


def _slopes(key: Key[Array, ""], target: Target, phi: FullRankParams, data: Data) -> _Slopes | None:
    """None where some are not finite."""
    dtype = phi.loc.dtype
    factor = scale_tril_on_host(phi.log_diag, phi.lower)
    # by NumPy: nothing is compiled for a few draws
    half = generator_of(typed_key(key)).normal(size=(_PAIRS, target.dim))
    mirrored = np.concatenate([half, -half]) @ factor.T
    z = jnp.asarray(np.asarray(phi.loc, float)[None] + mirrored, dtype)
    # in sds given all latents: along one coordinate alone no more is near
    own = 1.0 / np.linalg.norm(np.linalg.inv(factor), axis=0)
    steps = jnp.asarray(float(jnp.finfo(dtype).eps) ** _ORDER * own, dtype)
    eye, everywhere = jnp.eye(target.dim, dtype=dtype), jnp.ones(target.dim, dtype)
    found = _third(z, eye, eye, steps, everywhere, data, target=target)
    curvature, third, _ = (np.array(x, float) for x in found)
    if not (np.isfinite(curvature).all() and np.isfinite(third).all()):
        return None
    concave = curvature < 0.0
    slopes = np.where(concave[:, None], third / np.where(concave, curvature, 1.0)[:, None], 0.0)
    np.fill_diagonal(slopes, 0.0)
    return _Slopes(slopes, np.linalg.norm(factor, axis=1), z, steps)


@light_jit(ONCE, static_argnames="target")
def _third(
    z: Float[Array, "draws dim"],
    left: Float[Array, "rows dim"],
    right: Float[Array, "rows dim"],
    steps: Float[Array, "rows"],
    latents: Float[Array, "dim"],
    data: Data,
    *,
    target: Target,
) -> tuple[Float[Array, "rows"], Float[Array, "rows dim"], Float[Array, "rows"]]:
    """For rows v of left and u of right, means over z of v^T H(z) u and its gradient g in z.

    And of g^T z, over coordinates where `latents` is one. The gradient is by differences of Hessian
    products, `steps` v to both sides, and the value their mean: where log p is quadratic along v
    both are exact. Third derivatives by JAX are a larger program, which no other has use for.
    """

    def one(row: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        v, u, step = row
        away = (step * v)[None]
        places = jnp.concatenate([z + away, z - away])
        vectors = jnp.broadcast_to(u, (len(places), 1, u.size))
        products = hessian_products(target, places, vectors, data)[:, 0]
        gradients = (products[: len(z)] - products[len(z) :]) / (2.0 * step)
        moments = jnp.sum(gradients * (z * latents[None]), axis=1)
        return products.mean(axis=0) @ v, gradients.mean(axis=0), moments.mean()

    return lax.map(one, (left, right, steps), batch_size=min(8, len(left)))
