"""Interface of a natural-gradient update of a Gaussian family from the curvature of log p."""

import abc
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvi._types import Noise, Phi, Scalar
from jaxvi.solvers._base import Problem
from jaxvi.solvers._gaussian.hessian_sparsity import Sparsity

_MAX_RELATIVE_CURVATURE = 10.0  # relative to q's precision
_MAX_EXACT_DIAGONAL_DIM = 64  # above it the Hessian's diagonal is estimated by probes


class Update(abc.ABC):
    """The natural-gradient update of one Gaussian family, with the Hessian's zeros if known.

    A is minus the expected Hessian of log p, L a triangular factor of q's covariance.
    """

    def __init__(self, sparsity: Sparsity | None = None) -> None:
        self.sparsity = sparsity

    @abc.abstractmethod
    def num_innovations(self, dim: int) -> int:
        """Length of the vector of innovations: the changes that a full step would make."""

    @abc.abstractmethod
    def num_axes(self, dim: int) -> int:
        """Rank of the curvature that `apply` uses: fewer gradients do not determine it."""

    @abc.abstractmethod
    def from_gradients(self, phi: Phi, noise: Noise, gradients: Float[Array, "draws dim"]) -> Any:
        """Curvature from gradients, by Stein's identity.

        In whitened coordinates, with the noise e and the score s = L^T g, A is
        I - E[e (s + e)^T]. The control variate e e^T leaves no noise where q is right.
        """

    @abc.abstractmethod
    def from_hessians(
        self,
        phi: Phi,
        z: Float[Array, "some dim"],
        noise: Noise,
        slope: tuple[Float[Array, "dim"], Scalar],
        problem: Problem,
    ) -> Any:
        """Curvature from Hessian-vector products at `z`.

        `slope` is the mean gradient of all draws, and the trust-region radius of the mean's step.
        """

    @abc.abstractmethod
    def diagonal(self, curvature: Any) -> Float[Array, "dim"]:
        """Diagonal by which two curvature estimates are compared, about 1 where q is right."""

    @abc.abstractmethod
    def apply(
        self,
        phi: Phi,
        gradient: Float[Array, "dim"],
        curvature: Any,
        rate: Scalar,
        radius: Scalar,
    ) -> tuple[Phi, Float[Array, "innovations"], Scalar]:
        """phi after a step of size `rate`, the innovations at phi, and the predicted gain.

        The mean moves by at most `radius` sqrt(dim) in whitened coordinates.
        """

    @abc.abstractmethod
    def narrow(self, phi: Phi, factor: Scalar) -> Phi:
        """phi with all scales multiplied by `factor`."""


def growth(relative: Float[Array, "*shape"], rate: Scalar | float) -> Float[Array, "*shape"]:
    """Factor by which a step changes a precision, 1 + x + x^2 / 2, at least 1/2.

    x is `rate` times the excess of the curvature, in units of the precision, over 1.
    """
    x = rate * (jnp.minimum(relative, _MAX_RELATIVE_CURVATURE) - 1.0)
    x = jnp.maximum(x, -1.0)
    return 1.0 + x + 0.5 * x * x


def _diagonal(matrix: Float[Array, "dim dim"]) -> Float[Array, "dim"]:
    """`jnp.diagonal` without its gather, which is slow to compile."""
    inside = jnp.eye(len(matrix), dtype=bool)
    return jnp.sum(jnp.where(inside, matrix, 0.0), axis=-1)


def _mean_products(
    problem: Problem, z: Float[Array, "some dim"], vectors: Float[Array, "k dim"]
) -> Float[Array, "k dim"]:
    """Mean Hessian over the rows of z, times each vector."""
    repeated = jnp.broadcast_to(vectors[None], (len(z), *vectors.shape))
    return problem.hessian_products(z, repeated).mean(axis=0)


def _scaled_diagonal(
    problem: Problem, z: Float[Array, "some dim"], noise: Noise, scale: Float[Array, "dim"]
) -> Float[Array, "dim"]:
    """Diagonal of A times squared scales, exactly or by probes of random signs (Hutchinson 1990).

    The signs are those of another draw's noise.
    """
    if scale.size <= _MAX_EXACT_DIAGONAL_DIM:
        products = _mean_products(problem, z, jnp.diag(scale))
        return -jnp.diagonal(products) * scale
    signs = jnp.where(jnp.roll(noise, 1, axis=0)[: len(z)] < 0, -1.0, 1.0).astype(scale.dtype)
    probes = signs * scale[None]
    products = problem.hessian_products(z, probes[:, None])[:, 0]
    return -jnp.mean(products * probes, axis=0)
