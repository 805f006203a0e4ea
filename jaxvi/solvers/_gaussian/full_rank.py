"""Natural-gradient updates of full-rank Gaussians, with dense curvature."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvi._types import Noise, Scalar
from jaxvi.families import FullRank, FullRankParams
from jaxvi.solvers._base import Problem
from jaxvi.solvers._gaussian.base import Update, _diagonal, _mean_products, growth
from jaxvi.solvers._gaussian.step_control import share


class Dense(Update):
    """Update of `FullRank`: the curvature is the whitened matrix W = L^T A L."""

    def num_innovations(self, dim: int) -> int:
        """Means and scales by coordinate, and both along the columns of L."""
        return 4 * dim

    def num_axes(self, dim: int) -> int:
        """Number of dimensions: the curvature is dense."""
        return dim

    def from_gradients(
        self, phi: FullRankParams, noise: Noise, gradients: Float[Array, "draws dim"]
    ) -> Float[Array, "dim dim"]:
        """I - E[e (s + e)^T] over the draws, symmetrised."""
        score = gradients @ FullRank().scale_tril(phi)
        product = noise.T @ (score + noise) / len(noise)
        return jnp.eye(phi.loc.size, dtype=phi.loc.dtype) - 0.5 * (product + product.T)

    def from_hessians(
        self,
        phi: FullRankParams,
        z: Float[Array, "some dim"],
        noise: Noise,
        slope: tuple[Float[Array, "dim"], Scalar],
        problem: Problem,
    ) -> Float[Array, "dim dim"]:
        """Hessian products with the columns of L, or as few as a sparse Hessian needs."""
        factor = FullRank().scale_tril(phi)
        if self.sparsity is None:
            products = _mean_products(problem, z, factor.T)
        else:
            products = factor.T @ self.sparsity.mean_hessian(problem, z)
        whitened = -products @ factor
        return 0.5 * (whitened + whitened.T)

    def diagonal(self, curvature: Float[Array, "dim dim"]) -> Float[Array, "dim"]:
        """Curvature along the columns of L."""
        return jnp.diagonal(curvature)

    def apply(
        self,
        phi: FullRankParams,
        gradient: Float[Array, "dim"],
        curvature: Float[Array, "dim dim"],
        rate: Scalar,
        radius: Scalar,
    ) -> tuple[FullRankParams, Float[Array, "innovations"], Scalar]:
        """A step to the precision L^-T Q growth(w) Q^T L^-1 with W = Q diag(w) Q^T."""
        factor = FullRank().scale_tril(phi)
        relative, axes = jnp.linalg.eigh(curvature, symmetrize_input=False)
        shrunk = axes / jnp.sqrt(growth(relative, rate))[None]
        covariance = shrunk @ shrunk.T  # after the step, whitened as before it
        root = jnp.linalg.cholesky(covariance, symmetrize_input=False)
        score = gradient @ factor
        step = covariance @ score
        gain = jnp.maximum(score @ step, 0.0)
        part = share(jnp.sqrt(gain), rate, radius, phi.loc.size)
        unwhitened_step, unwhitened_score = (factor @ jnp.stack([step, score], axis=1)).T
        lower = jnp.tril(factor @ root, -1)
        moved = FullRankParams(
            phi.loc + part * unwhitened_step, phi.log_diag + jnp.log(_diagonal(root)), lower
        )
        variance = jnp.sum(factor**2, axis=-1)
        excess = jnp.sum((factor @ curvature) * factor, axis=-1) / variance - 1.0
        halves = 0.5 * excess, score, 0.5 * (_diagonal(curvature) - 1.0)
        innovation = jnp.concatenate([unwhitened_score / jnp.sqrt(variance), *halves])
        return moved, innovation, part * gain

    def narrow(self, phi: FullRankParams, factor: Scalar) -> FullRankParams:
        """phi with L multiplied by the factor."""
        return FullRankParams(phi.loc, phi.log_diag + jnp.log(factor), factor * phi.lower)
