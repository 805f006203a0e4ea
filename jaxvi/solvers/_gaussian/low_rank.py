"""Natural-gradient updates of low-rank Gaussians, by a step of factor analysis."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvi._types import Noise, Scalar
from jaxvi.families import LowRank, LowRankParams
from jaxvi.solvers._base import Problem
from jaxvi.solvers._gaussian.base import Update, _mean_products, _scaled_diagonal, growth
from jaxvi.solvers._gaussian.factor_analysis import em_step, inverse_half, inverse_products
from jaxvi.solvers._gaussian.step_control import share


class LowRankCurvature(NamedTuple):
    """Parts of A that a step of factor analysis needs: psi_i A_ii, and A F."""

    diagonal: Float[Array, "dim"]
    products: Float[Array, "dim rank"]


class FactorAnalysis(Update):
    r"""Update of `LowRank`: one EM step of factor analysis to the natural gradient's covariance.

    The full natural gradient takes the covariance C = F F^T + Psi to S = C + r (C - C A C). An
    EM step (Rubin and Thayer 1982) fits F and Psi to S, and needs of S no more than its diagonal
    and S C^-1 F = F + r (F - C A F). At a fixed point the diagonal of C^-1 - A and
    (C^-1 - A) F are zero: there the bound's gradient vanishes.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def num_innovations(self, dim: int) -> int:
        """Means and scales of all coordinates, and scales along the factors."""
        return 2 * dim + self.rank

    def num_axes(self, dim: int) -> int:
        """One for each factor, and one for the diagonal."""
        return self.rank + 1

    def from_gradients(
        self, phi: LowRankParams, noise: Noise, gradients: Float[Array, "draws dim"]
    ) -> LowRankCurvature:
        """Curvature by Stein's identity, with C^-1 (z - m) in the place of the noise."""
        family = LowRank(self.rank)
        z = jax.vmap(family.transform, (None, 0))(phi, noise) - phi.loc[None]
        inverse = inverse_products(phi, z.T).T
        residual = gradients + inverse
        variance = jnp.exp(2.0 * phi.log_scale)
        own = inverse_products(phi, phi.factor)
        inverse_diagonal = 1.0 / variance - jnp.sum(
            (inverse_half(phi) / variance[:, None]) ** 2, axis=-1
        )
        num = len(noise)
        crossed = residual.T @ (inverse @ phi.factor) + inverse.T @ (residual @ phi.factor)
        mixed = jnp.mean(inverse * residual, axis=0)
        return LowRankCurvature(variance * (inverse_diagonal - mixed), own - 0.5 * crossed / num)

    def from_hessians(
        self,
        phi: LowRankParams,
        z: Float[Array, "some dim"],
        noise: Noise,
        slope: tuple[Float[Array, "dim"], Scalar],
        problem: Problem,
    ) -> LowRankCurvature:
        """Curvature from Hessian products with the factors, and the diagonal."""
        diagonal = _scaled_diagonal(problem, z, noise[:, self.rank :], jnp.exp(phi.log_scale))
        return LowRankCurvature(diagonal, -_mean_products(problem, z, phi.factor.T).T)

    def diagonal(self, curvature: LowRankCurvature) -> Float[Array, "dim"]:
        """Diagonal of A in units of psi: psi_i A_ii."""
        return curvature.diagonal

    def apply(
        self,
        phi: LowRankParams,
        gradient: Float[Array, "dim"],
        curvature: LowRankCurvature,
        rate: Scalar,
        radius: Scalar,
    ) -> tuple[LowRankParams, Float[Array, "innovations"], Scalar]:
        """phi after one EM step of factor analysis from C to S."""
        psi, factor = jnp.exp(2.0 * phi.log_scale), phi.factor
        total = psi + jnp.sum(factor**2, axis=-1)

        def covariance_times(x: Float[Array, "dim k"]) -> Float[Array, "dim k"]:
            return psi[:, None] * x + factor @ (factor.T @ x)

        through = covariance_times(curvature.products)  # C A F
        cross = jnp.sum(factor * curvature.products, axis=-1)
        both = psi * (curvature.diagonal + cross) + jnp.sum(through * factor, axis=-1)
        relative = both / total  # diag(C A C) / diag(C)
        weights = inverse_products(phi, factor)  # C^-1 F
        inner = factor.T @ curvature.products  # F^T A F
        along = jnp.diagonal(inner) / jnp.maximum(jnp.sum(factor * weights, axis=0), 1e-30)
        safe_rate = jnp.minimum(rate, 0.7 / jnp.maximum(jnp.abs(along).max(), 1.0))
        products = factor + safe_rate * (factor - through)  # S C^-1 F
        variance = total / growth(relative, safe_rate)
        new_factor, new_psi = em_step(factor, weights, products, variance)
        new_psi = jnp.clip(new_psi, 0.2 * psi, 5.0 * psi)
        step = covariance_times(gradient[:, None])[:, 0]
        gain = jnp.maximum(gradient @ step, 0.0)
        part = share(jnp.sqrt(gain), safe_rate, radius, total.size)
        loc = phi.loc + part * step
        moved = LowRankParams(loc, 0.5 * jnp.log(new_psi), new_factor)
        innovation = jnp.concatenate(
            [step / jnp.sqrt(total), 0.5 * (relative - 1.0), 0.5 * (along - 1.0)]
        )
        return moved, innovation, part * gain

    def narrow(self, phi: LowRankParams, factor: Scalar) -> LowRankParams:
        """phi with the diagonal scales and the factor multiplied by `factor`."""
        return LowRankParams(phi.loc, phi.log_scale + jnp.log(factor), factor * phi.factor)
