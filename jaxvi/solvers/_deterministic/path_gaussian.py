r"""Gaussians along a quasi-Newton path, with covariances of a diagonal and a few pairs.

The inverse Hessian after J pairs is $H = L L^T$ with $L = (I + S^T W) D$: D the roots of a
diagonal, S the J steps, W as many rows of weights. Each pair is one factor $I + s p^T$, the
product form of the BFGS update (Brodlie, Gourlay and Greenstadt 1973). So rounding cannot make the
covariance indefinite, and a draw and its density cost O(J dim).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxvi._types import Phi, Scalar
from jaxvi.families import (
    Family,
    HasGaussianInit,
    LowRank,
    LowRankParams,
    MeanField,
    MeanFieldParams,
    standard_normal_log_prob,
)

_MAX_FACTOR_ANALYSIS_DIM = 32  # above it factor analysis is slow
# accelerators would round float32 products to fewer bits
_dot = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


class PathGaussian(NamedTuple):
    """N(loc, L L^T) with L = (I + steps^T weights) diag(root)."""

    loc: Float[Array, "dim"]
    root: Float[Array, "dim"]
    steps: Float[Array, "memory dim"]
    weights: Float[Array, "memory dim"]
    log_det: Scalar  # of L


def path_gaussian(
    z: Float[Array, "dim"],
    grad: Float[Array, "dim"],
    diagonal: Float[Array, "dim"],
    steps: Float[Array, "memory dim"],
    changes: Float[Array, "memory dim"],
) -> PathGaussian:
    r"""The Gaussian of an iterate: $N(z + H \nabla \log p(z), H)$.

    Args:
        z: the iterate.
        grad: gradient of log p there.
        diagonal: diagonal of the inverse Hessian before the pairs.
        steps: changes of z, oldest first; rows of zeros stand for no pair.
        changes: changes of the gradient of -log p.
    """
    zero = jnp.zeros((), z.dtype)

    def add(
        carry: tuple[Array, Array, Array], row: Array
    ) -> tuple[tuple[Array, Array, Array], None]:
        curved, weights, log_det = carry  # curved: steps times the Hessian so far
        step, change, curved_step = steps[row], changes[row], curved[row]
        product, square = _dot("i,i", step, change), _dot("i,i", step, curved_step)
        used = product > 0.0
        product, square = jnp.where(used, product, 1.0), jnp.where(used, square, 1.0)
        p = jnp.where(used, curved_step / jnp.sqrt(product * square) - change / product, zero)
        new = p + _dot("ki,k->i", weights, _dot("ki,i->k", steps, p))
        removed = _dot("ki,i->k", curved, step) / square
        added = _dot("ki,i->k", steps, change) / product
        newer = curved - removed[:, None] * curved_step[None] + added[:, None] * change[None]
        curved = jnp.where(used, newer, curved)
        log_det = log_det + 0.5 * jnp.where(used, jnp.log(square / product), zero)
        return (curved, weights.at[row].set(new), log_det), None

    root = jnp.sqrt(diagonal)
    first = (steps / diagonal[None], jnp.zeros_like(steps), jnp.sum(jnp.log(root)))
    (_, weights, log_det), _ = lax.scan(add, first, jnp.arange(len(steps)))
    found = PathGaussian(z, root, steps, weights, log_det)
    pulled = grad + _dot("ki,k->i", weights, _dot("ki,i->k", steps, grad))
    return found._replace(loc=z + _deviation(found, root * pulled))


def conjugate_pairs(
    steps: Float[Array, "memory dim"], changes: Float[Array, "memory dim"]
) -> tuple[Float[Array, "memory dim"], Float[Array, "memory dim"]]:
    """Combinations of pairs with s_i . y_j = 0 for i != j, so that no update undoes another.

    BFGS updates by the original pairs agree with the last pair only, those by conjugate pairs with
    all of them; on a Gaussian target, as many as the dimension then give H exactly. From the newest
    back, each pair is made conjugate to the newer ones; one of which only rounding is left is
    dropped. Where curvature varies, old pairs may do harm.
    """
    min_rest = float(jnp.finfo(steps.dtype).eps) ** 0.5

    def free(pairs: tuple[Array, Array], row: Array) -> tuple[tuple[Array, Array], None]:
        left, right = pairs
        step, change = steps[row], changes[row]
        product = _dot("i,i", step, change)
        for _ in range(2):  # twice, to remove the rounding of the first
            along, against = _dot("ki,i->k", right, step), _dot("ki,i->k", left, change)
            step = step - _dot("k,ki->i", along, left)
            change = change - _dot("k,ki->i", against, right)
        rest = _dot("i,i", step, change)
        kept = (product > 0.0) & (rest > min_rest * product)
        scale = jnp.where(kept, lax.rsqrt(jnp.where(kept, rest, 1.0)), 0.0)
        return (left.at[row].set(scale * step), right.at[row].set(scale * change)), None

    none = jnp.zeros_like(steps)
    return lax.scan(free, (none, none), jnp.arange(len(steps)), reverse=True)[0]


def draw_path(
    q: PathGaussian, noise: Float[Array, "draws dim"]
) -> tuple[Float[Array, "draws dim"], Float[Array, "draws"]]:
    """Draws z and log q(z) from rows of standard normals."""
    z = q.loc[None] + jax.vmap(partial(_deviation, q))(noise)
    return z, jax.vmap(standard_normal_log_prob)(noise) - q.log_det


def family_member(family: Family, q: PathGaussian) -> Phi:
    """Member of a family that approximates q; q itself for `FullRank`.

    `MeanField` keeps the means and marginal variances, at O(memory^2 dim); so does `LowRank` above
    dimension 32, whose factor has the directions in which q is widest relative to its diagonal.
    For other families it is the member nearest to the dense q, at O(dim^3) and more.
    """
    if isinstance(family, MeanField):
        return MeanFieldParams(q.loc, 0.5 * jnp.log(_variances(q)))
    if isinstance(family, LowRank) and q.loc.size > _MAX_FACTOR_ANALYSIS_DIM:
        return _low_rank(family.rank, q)
    assert isinstance(family, HasGaussianInit)  # the solver's `check` has ensured it
    rows = jax.vmap(partial(_deviation, q))(jnp.eye(q.loc.size, dtype=q.loc.dtype))
    triangle = jnp.linalg.qr(rows, mode="r")  # rows are L^T, so that L L^T = R^T R
    sign = jnp.where(jnp.diagonal(triangle) < 0.0, -1.0, 1.0).astype(triangle.dtype)
    return family.init_gaussian(jax.random.key(0), q.loc, (sign[:, None] * triangle).T)


def _deviation(q: PathGaussian, noise: Float[Array, "dim"]) -> Float[Array, "dim"]:
    """L times noise: a deviation from the mean."""
    scaled = q.root * noise
    return scaled + _dot("ki,k->i", q.steps, _dot("ki,i->k", q.weights, scaled))


def _variances(q: PathGaussian) -> Float[Array, "dim"]:
    """Marginal variances: the diagonal of L L^T, without forming L."""
    scaled_weights = q.weights * q.root[None]
    gram = _dot("ki,li->kl", scaled_weights, scaled_weights)
    own = 2.0 * q.root * jnp.sum(q.steps * scaled_weights, axis=0)
    return q.root**2 + own + jnp.sum(q.steps * _dot("kl,li->ki", gram, q.steps), axis=0)


def _low_rank(rank: int, q: PathGaussian) -> LowRankParams:
    """Low-rank approximation: leading eigenvectors of L L^T in units of D, and remaining variances.

    In these units L L^T = I + C, where C has as many positive as negative eigenvalues, at most
    one of each a pair.
    """
    memory = len(q.steps)
    scaled_weights = q.weights * q.root[None]
    gram = _dot("ki,li->kl", scaled_weights, scaled_weights)
    basis, triangle = jnp.linalg.qr(jnp.concatenate([q.steps / q.root[None], scaled_weights]).T)
    eye = jnp.eye(memory, dtype=gram.dtype)
    core = jnp.block([[gram, eye], [eye, jnp.zeros_like(gram)]])
    values, vectors = jnp.linalg.eigh(triangle @ core @ triangle.T)
    kept = min(rank, values.size)
    factor = basis @ vectors[:, -kept:] * jnp.sqrt(jnp.maximum(values[-kept:], 0.0))[None]
    factor = q.root[:, None] * factor
    variances = _variances(q)
    least = float(jnp.finfo(variances.dtype).eps) * variances
    own = jnp.maximum(variances - jnp.sum(factor**2, axis=-1), least)
    factor = jnp.pad(factor, ((0, 0), (0, rank - kept)))
    return LowRankParams(q.loc, 0.5 * jnp.log(own), factor)
