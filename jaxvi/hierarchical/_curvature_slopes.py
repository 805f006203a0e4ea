"""How each coordinate changes the curvature of log p in the others, by third derivatives."""

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

_NUM_MIRRORED_PAIRS = 4  # of draws at which third derivatives are averaged
# Standard deviation, in nats, of the change of log p through the dependents' scales alone, when a
# hyperparameter moves by one standard deviation.
STRONG_EFFECT, NOTABLE_EFFECT = 0.3, 0.1
MIN_SLOPE = 0.1  # of a dependent's log curvature: absolute, and relative to the largest
MAX_HYPERPARAMETERS = 8
# Power of machine epsilon for the step of differences: rounding and truncation lose equally many
# digits, 4 of 16 and 2 of 7.
_STEP_ORDER = 0.25


class CurvatureSlopes(NamedTuple):
    """Derivatives of the log curvature in coordinate i (row) with respect to coordinate k (column).

    With what they were computed from: q's standard deviations `sd`, draws `z` of q, and `steps` for
    differences along each coordinate.
    """

    slopes: Float[np.ndarray, "dim dim"]
    sd: Float[np.ndarray, "dim"]
    z: Float[Array, "draws dim"]
    steps: Float[Array, "dim"]


def curvature_slopes(
    key: Key[Array, ""], target: Target, phi: FullRankParams, data: Data
) -> CurvatureSlopes | None:
    """Slopes of log curvatures, averaged over draws of q; None where some are not finite."""
    dtype = phi.loc.dtype
    factor = scale_tril_on_host(phi.log_diag, phi.lower)
    # by NumPy, so that nothing is compiled for a few draws
    half = generator_of(typed_key(key)).normal(size=(_NUM_MIRRORED_PAIRS, target.dim))
    mirrored = np.concatenate([half, -half]) @ factor.T
    z = jnp.asarray(np.asarray(phi.loc, float)[None] + mirrored, dtype)
    # steps go along one coordinate alone, so that their unit is its sd conditional on all others
    conditional_sd = 1.0 / np.linalg.norm(np.linalg.inv(factor), axis=0)
    steps = jnp.asarray(float(jnp.finfo(dtype).eps) ** _STEP_ORDER * conditional_sd, dtype)
    eye, everywhere = jnp.eye(target.dim, dtype=dtype), jnp.ones(target.dim, dtype)
    found = third_derivatives(z, eye, eye, steps, everywhere, data, target=target)
    curvature, third, _ = (np.array(x, float) for x in found)
    if not (np.isfinite(curvature).all() and np.isfinite(third).all()):
        return None
    concave = curvature < 0.0
    slopes = np.where(concave[:, None], third / np.where(concave, curvature, 1.0)[:, None], 0.0)
    np.fill_diagonal(slopes, 0.0)
    return CurvatureSlopes(slopes, np.linalg.norm(factor, axis=1), z, steps)


@light_jit(ONCE, static_argnames="target")
def third_derivatives(
    z: Float[Array, "draws dim"],
    left: Float[Array, "rows dim"],
    right: Float[Array, "rows dim"],
    steps: Float[Array, "rows"],
    latents: Float[Array, "dim"],
    data: Data,
    *,
    target: Target,
) -> tuple[Float[Array, "rows"], Float[Array, "rows dim"], Float[Array, "rows"]]:
    """Means over draws z of v^T H(z) u, of its gradient g in z, and of g^T z.

    H is the Hessian of log p; v are rows of `left`, u rows of `right`. g^T z is summed over the
    coordinates where `latents` is one. The gradient is a central difference of Hessian products,
    `steps` v to either side, and the value is their mean: where log p is quadratic along v both are
    exact. Third derivatives by JAX would be a larger program to compile.
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
