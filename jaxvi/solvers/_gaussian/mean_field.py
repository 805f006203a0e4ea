"""Natural-gradient updates of mean-field Gaussians: diagonal curvature, Newton step of the mean."""

import math
import sys
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvi._types import Noise, Scalar
from jaxvi.families import MeanFieldParams
from jaxvi.solvers._base import Problem
from jaxvi.solvers._deterministic.trust_region import solve_within
from jaxvi.solvers._gaussian.base import Update, _mean_products, _scaled_diagonal, growth
from jaxvi.solvers._gaussian.step_control import share

_MAX_PRODUCTS = 60  # of the mean's conjugate gradients


class DiagonalCurvature(NamedTuple):
    """Diagonal of A times the variances, and a Newton step of the mean in units of q's scales."""

    diagonal: Float[Array, "dim"]
    step: Float[Array, "dim"]


class Diagonal(Update):
    """Update of `MeanField`: the diagonal of A for the scales, all of A for the mean.

    The natural gradient of the mean is Jacobi's iteration, which takes as many steps as the
    posterior's condition number, or does not converge. The bound's Hessian in the mean is -A, so
    that conjugate gradients give Newton's step for a few products.
    """

    def num_innovations(self, dim: int) -> int:
        """Means and scales of all coordinates."""
        return 2 * dim

    def num_axes(self, dim: int) -> int:
        """No number of gradients is enough, since the mean's Newton step needs Hessian products."""
        return sys.maxsize

    def from_gradients(
        self, phi: MeanFieldParams, noise: Noise, gradients: Float[Array, "draws dim"]
    ) -> DiagonalCurvature:
        """Curvature 1 - E[e (s + e)]; the mean takes the natural-gradient step."""
        score = gradients * jnp.exp(phi.log_scale)[None]
        curvature = 1.0 - jnp.mean(noise * (score + noise), axis=0)
        return DiagonalCurvature(curvature, score.mean(axis=0) / growth(curvature, 1.0))

    def from_hessians(
        self,
        phi: MeanFieldParams,
        z: Float[Array, "some dim"],
        noise: Noise,
        slope: tuple[Float[Array, "dim"], Scalar],
        problem: Problem,
    ) -> DiagonalCurvature:
        """Curvature by Hessians, with an exact diagonal in low dimension or if sparse."""
        scale = jnp.exp(phi.log_scale)
        if self.sparsity is not None:
            hessian = self.sparsity.mean_hessian(problem, z)
            diagonal = -jnp.diagonal(hessian) * scale**2
        else:
            diagonal = _scaled_diagonal(problem, z, noise, scale)
        root = jnp.sqrt(growth(diagonal, 1.0))

        def product(v: Float[Array, "dim"]) -> Float[Array, "dim"]:
            return -_mean_products(problem, z, (scale * v / root)[None])[0] * scale / root

        gradient, radius = slope
        down = -gradient * scale / root
        target = 0.1 * jnp.linalg.norm(down)
        path = solve_within(product, down, radius * math.sqrt(scale.size), target, _MAX_PRODUCTS)
        return DiagonalCurvature(diagonal, path.step / root)

    def diagonal(self, curvature: DiagonalCurvature) -> Float[Array, "dim"]:
        """Diagonal of A times the variances."""
        return curvature.diagonal

    def apply(
        self,
        phi: MeanFieldParams,
        gradient: Float[Array, "dim"],
        curvature: DiagonalCurvature,
        rate: Scalar,
        radius: Scalar,
    ) -> tuple[MeanFieldParams, Float[Array, "innovations"], Scalar]:
        """phi after each precision is multiplied by its own factor, and the mean's step."""
        factor = growth(curvature.diagonal, rate)
        scale = jnp.exp(phi.log_scale)
        step = curvature.step
        part = share(jnp.linalg.norm(step), rate, radius, scale.size)
        moved = MeanFieldParams(
            phi.loc + part * scale * step, phi.log_scale - 0.5 * jnp.log(factor)
        )
        gain = jnp.maximum(jnp.sum(gradient * scale * step), 0.0)
        # in standard deviations of the posterior, which is wider than q where it is correlated
        shorter = jnp.minimum(jnp.sqrt(gain) / jnp.maximum(jnp.linalg.norm(step), 1e-30), 1.0)
        innovation = jnp.concatenate([shorter * step, 0.5 * (curvature.diagonal - 1.0)])
        return moved, innovation, part * gain

    def narrow(self, phi: MeanFieldParams, factor: Scalar) -> MeanFieldParams:
        """phi with all scales multiplied by the factor."""
        return MeanFieldParams(phi.loc, phi.log_scale + jnp.log(factor))
