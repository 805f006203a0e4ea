"""Updates of a Gaussian by the curvature of log p: the interface of each family's algebra."""

import abc
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvi._types import Noise, Phi, Scalar
from jaxvi.solvers._base import Problem
from jaxvi.solvers._gaussian.hessian_sparsity import Sparsity

_MOST_CURVATURE = 10.0  # relative to q's own precision
_EXACT_UP_TO = 64  # dimensions whose Hessian's diagonal is not estimated by probes


class Update(abc.ABC):
    """The algebra of one family; of Hessians, the zeros may be known."""

    def __init__(self, sparsity: Sparsity | None = None) -> None:
        self.sparsity = sparsity

    @abc.abstractmethod
    def num_innovations(self, dim: int) -> int:
        """Length of the vector of innovations."""

    @abc.abstractmethod
    def num_axes(self, dim: int) -> int:
        """Rank of the curvature that `apply` uses: fewer gradients don't determine it."""

    @abc.abstractmethod
    def from_gradients(self, phi: Phi, noise: Noise, gradients: Float[Array, "draws dim"]) -> Any:
        """Curvature by Stein's identity.

        With s = L^T g, the score in whitened coordinates, A is I - E[e (s + e)^T] there: the
        control variate e e^T leaves no noise where q is right.
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
        """Curvature by Hessian-vector products at `z`.

        `slope` is the mean gradient of all draws, and the radius within which it may be followed.
        """

    @abc.abstractmethod
    def diagonal(self, curvature: Any) -> Float[Array, "dim"]:
        """The numbers by which two estimates are compared, about 1 where q is right."""

    @abc.abstractmethod
    def apply(
        self,
        phi: Phi,
        gradient: Float[Array, "dim"],
        curvature: Any,
        rate: Scalar,
        radius: Scalar,
    ) -> tuple[Phi, Float[Array, "innovations"], Scalar]:
        """phi after a step of size `rate`, the innovations at phi, the gain promised.

        The mean goes no further than `radius` sqrt(dim), whitened.
        """

    @abc.abstractmethod
    def narrow(self, phi: Phi, factor: Scalar) -> Phi:
        """phi with all scales times `factor`."""


def growth(relative: Float[Array, "*shape"], rate: Scalar | float) -> Float[Array, "*shape"]:
    """Factor of a precision whose curvature is `relative` to it: 1 + x + x^2 / 2, at least 1/2."""
    x = rate * (jnp.minimum(relative, _MOST_CURVATURE) - 1.0)
    x = jnp.maximum(x, -1.0)
    return 1.0 + x + 0.5 * x * x


def _diagonal(matrix: Float[Array, "dim dim"]) -> Float[Array, "dim"]:
    """`jnp.diagonal` without its gather, which XLA takes long to compile."""
    inside = jnp.eye(len(matrix), dtype=bool)
    return jnp.sum(jnp.where(inside, matrix, 0.0), axis=-1)


def _mean_products(
    problem: Problem, z: Float[Array, "some dim"], vectors: Float[Array, "k dim"]
) -> Float[Array, "k dim"]:
    """The mean Hessian times each vector."""
    repeated = jnp.broadcast_to(vectors[None], (len(z), *vectors.shape))
    return problem.hessian_products(z, repeated).mean(axis=0)


def _scaled_diagonal(
    problem: Problem, z: Float[Array, "some dim"], noise: Noise, scale: Float[Array, "dim"]
) -> Float[Array, "dim"]:
    """s_i^2 A_ii, exactly or by random signs (Hutchinson 1990): those of another draw's noise."""
    if scale.size <= _EXACT_UP_TO:
        products = _mean_products(problem, z, jnp.diag(scale))
        return -jnp.diagonal(products) * scale
    signs = jnp.where(jnp.roll(noise, 1, axis=0)[: len(z)] < 0, -1.0, 1.0).astype(scale.dtype)
    probes = signs * scale[None]
    products = problem.hessian_products(z, probes[:, None])[:, 0]
    return -jnp.mean(products * probes, axis=0)
