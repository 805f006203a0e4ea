"""Covariance types of a Gaussian mixture (full, tied, diagonal, spherical) and their updates.

Rows of data are columns here, `(D, rows)`, and are centred. A covariance type defines quadratic
features of a row. A step then needs two matrix products with the features: one gives every
component's log density, the other the sums from which its parameters follow.
"""

import abc
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from jaxvi._numerics import log_det_lower, outer_square
from jaxvi._types import Scalar


class Covariance(abc.ABC):
    """A covariance type: features, log-determinants and updates.

    `Sums.second` holds the sums of its features, a row for each component.
    """

    @abc.abstractmethod
    def features(self, x: Float[Array, "dim rows"]) -> Float[Array, "quadratics rows"]:
        """Quadratic features of every row."""

    @abc.abstractmethod
    def precisions_cholesky(self, covariances: Array) -> Array:
        """Upper triangular U with U U^T the precision; of variances the inverse square roots."""

    @abc.abstractmethod
    def log_det(self, chol: Array, dim: int) -> Float[Array, "*components"]:
        """log |U|, half the log-determinant of the precision."""

    @abc.abstractmethod
    def coefficients(
        self, means: Float[Array, "components dim"], chol: Array
    ) -> tuple[Float[Array, "components quadratics"], Float[Array, "components dim"]]:
        """Coefficients of quadratic and linear features: -1/2 P by features, and P m."""

    @abc.abstractmethod
    def covariances(self, sums: Any, means: Float[Array, "components dim"], prior: Any) -> Array:
        """The updated covariances, before they are divided by the degrees of freedom.

        `means` are those of the rows of each component, `sums` its `Sums`, `prior` the mixture's.
        """

    def common(self, x: Float[Array, "dim rows"], chol: Array) -> Float[Array, "*rows"]:
        """The term that all components' log densities share and the features leave out."""
        return jnp.zeros((), x.dtype)

    def degrees_of_freedom(self, sums: Any, prior: Any) -> Float[Array, "*components"]:
        """Degrees of freedom of every component's Wishart factor."""
        return prior.degrees_of_freedom + sums.size


class Full(Covariance):
    """One matrix for every component; features are the products of all pairs of columns."""

    def features(self, x: Float[Array, "dim rows"]) -> Float[Array, "quadratics rows"]:
        """The lower triangle of x x^T for every row."""
        first, second = np.tril_indices(x.shape[0])
        return x[first] * x[second]

    def precisions_cholesky(
        self, covariances: Float[Array, "components dim dim"]
    ) -> Float[Array, "components dim dim"]:
        """L^-T, with L the Cholesky factor of the covariance."""
        return inverse_root(covariances)

    def log_det(
        self, chol: Float[Array, "components dim dim"], dim: int
    ) -> Float[Array, "components"]:
        """The sum of the logarithms of U's diagonal."""
        return log_det_lower(chol)

    def coefficients(
        self, means: Float[Array, "components dim"], chol: Array
    ) -> tuple[Float[Array, "components quadratics"], Float[Array, "components dim"]]:
        """Coefficients by pair of columns; entries off the diagonal count twice."""
        precision = outer_square(chol)
        first, second = np.tril_indices(means.shape[1])
        twice = jnp.asarray(np.where(first == second, 0.5, 1.0), means.dtype)
        quadratic = -precision[:, first, second] * twice[None]
        return quadratic, jnp.einsum("kij,kj->ki", precision, means)

    def covariances(
        self, sums: Any, means: Float[Array, "components dim"], prior: Any
    ) -> Float[Array, "components dim dim"]:
        """S0 + scatter + size (reg_covar + shrunk squared distance from the prior mean)."""
        dim = means.shape[1]
        index = np.zeros((dim, dim), int)
        index[np.tril_indices(dim)] = np.arange(dim * (dim + 1) // 2)
        index = np.maximum(index, index.T)
        gap = means - prior.mean[None]
        share = _share(sums, prior)[:, None, None]
        size = sums.size[:, None, None]
        outer = means[:, :, None] * means[:, None, :]
        scatter = sums.second[:, index] - size * outer
        ridge = prior.reg_covar * jnp.eye(dim, dtype=means.dtype)[None]
        shift = share * gap[:, :, None] * gap[:, None, :]
        return prior.covariance[None] + scatter + size * (ridge + shift)


class Tied(Covariance):
    """One matrix for all components, whose quadratic form they share: no feature is needed."""

    def features(self, x: Float[Array, "dim rows"]) -> Float[Array, "quadratics rows"]:
        """No features: an array without rows."""
        return x[:0]

    def precisions_cholesky(self, covariances: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
        """L^-T, with L the Cholesky factor of the covariance."""
        return inverse_root(covariances)

    def log_det(self, chol: Float[Array, "dim dim"], dim: int) -> Scalar:
        """The sum of the logarithms of U's diagonal."""
        return log_det_lower(chol)

    def coefficients(
        self, means: Float[Array, "components dim"], chol: Array
    ) -> tuple[Float[Array, "components quadratics"], Float[Array, "components dim"]]:
        """The linear coefficients; there are no quadratic ones."""
        return means[:, :0], means @ outer_square(chol)

    def covariances(
        self, sums: Any, means: Float[Array, "components dim"], prior: Any
    ) -> Float[Array, "dim dim"]:
        """The update of `Full`, averaged over components; the data's scatter is `sums.cross`."""
        num, dim = means.shape
        gap = means - prior.mean[None]
        inner = sums.cross - (means * sums.size[:, None]).T @ means
        shift = (gap * (sums.size * _share(sums, prior))[:, None]).T @ gap
        ridge = jnp.sum(sums.size) * prior.reg_covar * jnp.eye(dim, dtype=means.dtype)
        return prior.covariance + (inner + shift + ridge) / num

    def common(self, x: Float[Array, "dim rows"], chol: Array) -> Float[Array, "rows"]:
        """The shared quadratic term, -1/2 x^T P x."""
        return -0.5 * jnp.sum((chol.T @ x) ** 2, axis=0)

    def degrees_of_freedom(self, sums: Any, prior: Any) -> Scalar:
        """Degrees of freedom of the one Wishart factor."""
        return prior.degrees_of_freedom + jnp.sum(sums.size) / sums.size.shape[0]


class Diag(Covariance):
    """Variances by column for every component; features are the squared columns."""

    def features(self, x: Float[Array, "dim rows"]) -> Float[Array, "quadratics rows"]:
        """The squared columns of every row."""
        return x**2

    def precisions_cholesky(self, covariances: Array) -> Array:
        """Inverse square roots of the variances."""
        return 1.0 / jnp.sqrt(covariances)

    def log_det(self, chol: Float[Array, "components dim"], dim: int) -> Float[Array, "components"]:
        """The sum of the logarithms over columns."""
        return jnp.sum(jnp.log(chol), axis=1)

    def coefficients(
        self, means: Float[Array, "components dim"], chol: Array
    ) -> tuple[Float[Array, "components quadratics"], Float[Array, "components dim"]]:
        """Coefficients by column: -1/2 of the precisions, and precisions times means."""
        precision = chol**2
        return -0.5 * precision, precision * means

    def covariances(
        self, sums: Any, means: Float[Array, "components dim"], prior: Any
    ) -> Float[Array, "components dim"]:
        """The diagonal of the update of `Full`."""
        gap = (means - prior.mean[None]) ** 2
        size = sums.size[:, None]
        scatter = sums.second - size * means**2
        shift = _share(sums, prior)[:, None] * gap
        return prior.covariance[None] + scatter + size * (prior.reg_covar + shift)


class Spherical(Covariance):
    """One variance for every component; the feature is the squared length."""

    def features(self, x: Float[Array, "dim rows"]) -> Float[Array, "quadratics rows"]:
        """The sum of squares of every row."""
        return jnp.sum(x**2, axis=0, keepdims=True)

    def precisions_cholesky(self, covariances: Array) -> Array:
        """Inverse square roots of the variances."""
        return 1.0 / jnp.sqrt(covariances)

    def log_det(self, chol: Float[Array, "components"], dim: int) -> Float[Array, "components"]:
        """`dim` times the logarithm of the inverse square root."""
        return dim * jnp.log(chol)

    def coefficients(
        self, means: Float[Array, "components dim"], chol: Array
    ) -> tuple[Float[Array, "components quadratics"], Float[Array, "components dim"]]:
        """Coefficients with one precision for all columns."""
        precision = (chol**2)[:, None]
        return -0.5 * precision, precision * means

    def covariances(
        self, sums: Any, means: Float[Array, "components dim"], prior: Any
    ) -> Float[Array, "components"]:
        """The mean over columns of the update of `Diag`."""
        dim = means.shape[1]
        gap = jnp.mean((means - prior.mean[None]) ** 2, axis=1)
        scatter = sums.second[:, 0] / dim - sums.size * jnp.mean(means**2, axis=1)
        return (
            prior.covariance + scatter + sums.size * (prior.reg_covar + _share(sums, prior) * gap)
        )


KINDS: dict[str, Covariance] = {
    "full": Full(),
    "tied": Tied(),
    "diag": Diag(),
    "spherical": Spherical(),
}


def inverse_root(matrix: Float[Array, "*batch dim dim"]) -> Float[Array, "*batch dim dim"]:
    """Upper triangular U with U U^T the inverse; NaN where the matrix is not positive definite."""
    lower = jnp.linalg.cholesky(matrix)
    eye = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    return jnp.swapaxes(solve_triangular(lower, eye, lower=True), -1, -2)


def _share(sums: Any, prior: Any) -> Float[Array, "components"]:
    """Share of the squared distance from the prior mean that is added to the covariance."""
    return prior.mean_precision / (prior.mean_precision + sums.size)
