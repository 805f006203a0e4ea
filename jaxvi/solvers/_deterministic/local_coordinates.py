"""Local coordinates around a q, in which a step of length 1 changes q by about one nat.

Newton steps and conjugate gradients use them, so that neither depends on the units of the
parameters, and a trust region is a ball.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxvi._types import Noise, Phi
from jaxvi.families import Family, cholesky_factor

Move: TypeAlias = Callable[[Float[Array, "size"]], Phi]
_MIN_RELATIVE_CHANGE = -0.9  # of a scale in one step
_MAX_FISHER_DRAWS = 64


def local_map(family: Family, phi: Phi, noise: Noise) -> Move:
    """A smooth map from flat coordinates to phi's that takes 0 to `phi`.

    A parameter is scaled by the root of its Fisher information under q, estimated at rows of
    noise. A parameter called log_... changes its exponential by a factor 1 + x, not e^x: a draw is
    then linear in the coordinates of a location-scale family, and the bound concave for a
    log-concave posterior (Domke 2020). No factor is below 0.1, however long the step. If phi has
    the `loc`, `log_diag` and dense `lower` of a map z = m + L x, these move relative to L, to
    m + L u and L T: the information is then the identity whatever the correlations, and a
    Gaussian posterior is spherical.
    """
    scales = _fisher_scales(family, phi, noise)
    _, unravel = ravel_pytree(phi)
    dense = has_dense_factor(phi)

    def move(flat: Float[Array, "size"]) -> Phi:
        step = jax.tree.map(jnp.multiply, scales, unravel(flat))
        moved = jax.tree_util.tree_map_with_path(_move_leaf, phi, step)
        return _move_factor(phi, moved, unravel(flat)) if dense else moved

    return move


def has_dense_factor(phi: Any) -> bool:
    """Whether phi, or its shapes, describe a map z = m + L x with a dense L, as in `FullRank`."""
    lower = getattr(phi, "lower", None)
    if lower is None or not (hasattr(phi, "loc") and hasattr(phi, "log_diag")):
        return False
    return lower.ndim == 2 and lower.shape == (phi.loc.size, phi.loc.size)


def _fisher_scales(family: Family, phi: Phi, noise: Noise) -> Phi:
    """1 / sqrt(E_q[(d log q / d phi_i)^2]), and 1 for what q does not depend on."""

    def score(row: Float[Array, "noise"]) -> Phi:
        z = lax.stop_gradient(family.transform(phi, row))
        return jax.grad(family.log_prob)(phi, z)

    scores = jax.vmap(score)(noise[: min(len(noise), _MAX_FISHER_DRAWS)])

    def one(leaf: Float[Array, "draws ..."]) -> Float[Array, "..."]:
        information = jnp.mean(leaf * leaf, axis=0)
        usable = (information > 0.0) & jnp.isfinite(information)
        return jnp.where(usable, lax.rsqrt(jnp.where(usable, information, 1.0)), 1.0)

    return lax.stop_gradient(jax.tree.map(one, scores))


def _move_leaf(path: Any, leaf: Float[Array, "..."], step: Float[Array, "..."]) -> Array:
    """A parameter after a step; logarithms change so that their exponentials are linear in it."""
    is_log = str(getattr(path[-1], "name", "")).startswith("log_")
    return leaf + (jnp.log1p(jnp.maximum(step, _MIN_RELATIVE_CHANGE)) if is_log else step)


def _move_factor(phi: Phi, moved: Phi, step: Phi) -> Phi:
    """`moved` with loc, log_diag and lower as they are after m + L u and L T."""
    factor = cholesky_factor(phi.log_diag, phi.lower)
    diagonal = jnp.maximum(0.5**0.5 * step.log_diag, _MIN_RELATIVE_CHANGE)
    # T - I, so that an accelerator rounds the step and not L
    change = jnp.tril(step.lower, -1) + jnp.diag(diagonal)
    above = jnp.triu(step.lower)  # no family uses it, but it has coordinates
    return moved._replace(
        loc=phi.loc + factor @ step.loc,
        log_diag=phi.log_diag + jnp.log1p(diagonal),
        lower=phi.lower + jnp.tril(factor @ change, -1) + above,
    )
