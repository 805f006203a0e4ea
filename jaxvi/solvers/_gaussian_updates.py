"""How curvature changes a Gaussian: dense, and diagonal plus low rank.

Curvature stands for A = -E_q[Hessian of log p], in units of q: in the form that each family needs,
from Hessian-vector products or, by Stein's identity, from gradients. An update is what natural
gradients change; an innovation is what the full step would change, in standard deviations of q.
"""

import abc
import math
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvi._types import Noise, Phi, Scalar
from jaxvi.families import Family, FullRank, LowRank, MeanField
from jaxvi.families._full_rank import FullRankParams
from jaxvi.families._low_rank import LowRankParams
from jaxvi.families._mean_field import MeanFieldParams
from jaxvi.solvers._base import Problem
from jaxvi.solvers._factor_analysis import em_step, inverse_half, inverse_products
from jaxvi.solvers._guard import share
from jaxvi.solvers._sparsity import Sparsity
from jaxvi.solvers._trust_region import solve_within

_MOST_CURVATURE = 10.0  # relative to q's own precision
_MOST_PRODUCTS = 60  # of the mean's conjugate gradients
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


class Dense(Update):
    """`FullRank`: the curvature is W = L^T A L."""

    def num_innovations(self, dim: int) -> int:
        """Means and scales by coordinate, and both along the columns of L."""
        return 4 * dim

    def num_axes(self, dim: int) -> int:
        """All."""
        return dim

    def from_gradients(
        self, phi: FullRankParams, noise: Noise, gradients: Float[Array, "draws dim"]
    ) -> Float[Array, "dim dim"]:
        """I - E[e (s + e)^T], made symmetric."""
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
        """Products with the columns of L, or what a sparse Hessian needs."""
        factor = FullRank().scale_tril(phi)
        if self.sparsity is None:
            products = _mean_products(problem, z, factor.T)
        else:
            products = factor.T @ self.sparsity.mean_hessian(problem, z)
        whitened = -products @ factor
        return 0.5 * (whitened + whitened.T)

    def diagonal(self, curvature: Float[Array, "dim dim"]) -> Float[Array, "dim"]:
        """Along the columns of L."""
        return jnp.diagonal(curvature)

    def apply(
        self,
        phi: FullRankParams,
        gradient: Float[Array, "dim"],
        curvature: Float[Array, "dim dim"],
        rate: Scalar,
        radius: Scalar,
    ) -> tuple[FullRankParams, Float[Array, "innovations"], Scalar]:
        """The new precision is L^-T Q growth(w) Q^T L^-1 with W = Q diag(w) Q^T."""
        factor = FullRank().scale_tril(phi)
        relative, axes = jnp.linalg.eigh(curvature, symmetrize_input=False)
        shrunk = axes / jnp.sqrt(growth(relative, rate))[None]
        covariance = shrunk @ shrunk.T  # after the step, whitened as before it
        root = jnp.linalg.cholesky(covariance, symmetrize_input=False)
        score = gradient @ factor
        step = covariance @ score
        gain = jnp.maximum(score @ step, 0.0)
        part = share(jnp.sqrt(gain), rate, radius, phi.loc.size)
        far, near = (factor @ jnp.stack([step, score], axis=1)).T
        lower = jnp.tril(factor @ root, -1)
        moved = FullRankParams(phi.loc + part * far, phi.log_diag + jnp.log(_diagonal(root)), lower)
        variance = jnp.sum(factor**2, axis=-1)
        excess = jnp.sum((factor @ curvature) * factor, axis=-1) / variance - 1.0
        halves = 0.5 * excess, score, 0.5 * (_diagonal(curvature) - 1.0)
        innovation = jnp.concatenate([near / jnp.sqrt(variance), *halves])
        return moved, innovation, part * gain

    def narrow(self, phi: FullRankParams, factor: Scalar) -> FullRankParams:
        """L times the factor."""
        return FullRankParams(phi.loc, phi.log_diag + jnp.log(factor), factor * phi.lower)


class Patches(NamedTuple):
    """What a step of factor analysis needs of A: psi_i A_ii, and A F."""

    diagonal: Float[Array, "dim"]
    products: Float[Array, "dim rank"]


class Separate(NamedTuple):
    """What an independent Gaussian needs of A: its diagonal times the variances, and a Newton step.

    The step of the mean is in units of q's scales.
    """

    diagonal: Float[Array, "dim"]
    step: Float[Array, "dim"]


class Diagonal(Update):
    """`MeanField`: the diagonal of A, and for the mean all of A by conjugate gradients.

    The natural gradient of the mean is Jacobi's iteration, which takes as many steps as the
    posterior's condition number, or doesn't converge. The bound's own Hessian in the mean is -A,
    so that Newton's step is to be had for a few products.
    """

    def num_innovations(self, dim: int) -> int:
        """Means and scales."""
        return 2 * dim

    def num_axes(self, dim: int) -> int:
        """Steps of the mean are better than gradients can make them."""
        return sys.maxsize

    def from_gradients(
        self, phi: MeanFieldParams, noise: Noise, gradients: Float[Array, "draws dim"]
    ) -> Separate:
        """1 - E[e (s + e)]; the mean's step is the natural one."""
        score = gradients * jnp.exp(phi.log_scale)[None]
        curvature = 1.0 - jnp.mean(noise * (score + noise), axis=0)
        return Separate(curvature, score.mean(axis=0) / growth(curvature, 1.0))

    def from_hessians(
        self,
        phi: MeanFieldParams,
        z: Float[Array, "some dim"],
        noise: Noise,
        slope: tuple[Float[Array, "dim"], Scalar],
        problem: Problem,
    ) -> Separate:
        """The diagonal is exact in low dimension or of a sparse Hessian, else by probes."""
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
        path = solve_within(product, down, radius * math.sqrt(scale.size), target, _MOST_PRODUCTS)
        return Separate(diagonal, path.step / root)

    def diagonal(self, curvature: Separate) -> Float[Array, "dim"]:
        """Of A, times the variances."""
        return curvature.diagonal

    def apply(
        self,
        phi: MeanFieldParams,
        gradient: Float[Array, "dim"],
        curvature: Separate,
        rate: Scalar,
        radius: Scalar,
    ) -> tuple[MeanFieldParams, Float[Array, "innovations"], Scalar]:
        """Each precision by its own factor."""
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
        """Scales times the factor."""
        return MeanFieldParams(phi.loc, phi.log_scale + jnp.log(factor))


class FactorAnalysis(Update):
    r"""`LowRank`: one EM step of factor analysis towards the natural gradient's covariance.

    The full natural gradient takes the covariance C = F F^T + Psi to S = C + r (C - C A C). An
    EM step (Rubin and Thayer 1982) fits F and Psi to S, and needs of S no more than its diagonal
    and S C^-1 F = F + r (F - C A F). Where it comes to rest the diagonal of C^-1 - A and
    (C^-1 - A) F are zero: that is where the bound's gradient vanishes.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def num_innovations(self, dim: int) -> int:
        """Means and scales, and the scales along the factors."""
        return 2 * dim + self.rank

    def num_axes(self, dim: int) -> int:
        """The factors, and the diagonal."""
        return self.rank + 1

    def from_gradients(
        self, phi: LowRankParams, noise: Noise, gradients: Float[Array, "draws dim"]
    ) -> Patches:
        """Stein's identity with C^-1 (z - m) in the place of the noise."""
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
        return Patches(variance * (inverse_diagonal - mixed), own - 0.5 * crossed / num)

    def from_hessians(
        self,
        phi: LowRankParams,
        z: Float[Array, "some dim"],
        noise: Noise,
        slope: tuple[Float[Array, "dim"], Scalar],
        problem: Problem,
    ) -> Patches:
        """Products with the factors, and the diagonal."""
        diagonal = _scaled_diagonal(problem, z, noise[:, self.rank :], jnp.exp(phi.log_scale))
        return Patches(diagonal, -_mean_products(problem, z, phi.factor.T).T)

    def diagonal(self, curvature: Patches) -> Float[Array, "dim"]:
        """psi_i A_ii."""
        return curvature.diagonal

    def apply(
        self,
        phi: LowRankParams,
        gradient: Float[Array, "dim"],
        curvature: Patches,
        rate: Scalar,
        radius: Scalar,
    ) -> tuple[LowRankParams, Float[Array, "innovations"], Scalar]:
        """One EM step from C to S."""
        psi, factor = jnp.exp(2.0 * phi.log_scale), phi.factor
        total = psi + jnp.sum(factor**2, axis=-1)

        def covariance_times(x: Float[Array, "dim k"]) -> Float[Array, "dim k"]:
            return psi[:, None] * x + factor @ (factor.T @ x)

        through = covariance_times(curvature.products)  # C A F
        cross = jnp.sum(factor * curvature.products, axis=-1)
        both = psi * (curvature.diagonal + cross) + jnp.sum(through * factor, axis=-1)
        relative = both / total  # diag(C A C) / diag(C)
        weights = inverse_products(phi, factor)  # C^-1 F
        bent = factor.T @ curvature.products
        along = jnp.diagonal(bent) / jnp.maximum(jnp.sum(factor * weights, axis=0), 1e-30)
        eased = jnp.minimum(rate, 0.7 / jnp.maximum(jnp.abs(along).max(), 1.0))
        seen = factor + eased * (factor - through)  # S C^-1 F
        variance = total / growth(relative, eased)
        new_factor, new_psi = em_step(factor, weights, seen, variance)
        new_psi = jnp.clip(new_psi, 0.2 * psi, 5.0 * psi)
        step = covariance_times(gradient[:, None])[:, 0]
        gain = jnp.maximum(gradient @ step, 0.0)
        part = share(jnp.sqrt(gain), eased, radius, total.size)
        loc = phi.loc + part * step
        moved = LowRankParams(loc, 0.5 * jnp.log(new_psi), new_factor)
        innovation = jnp.concatenate(
            [step / jnp.sqrt(total), 0.5 * (relative - 1.0), 0.5 * (along - 1.0)]
        )
        return moved, innovation, part * gain

    def narrow(self, phi: LowRankParams, factor: Scalar) -> LowRankParams:
        """Both parts times the factor."""
        return LowRankParams(phi.loc, phi.log_scale + jnp.log(factor), factor * phi.factor)


def update_for(family: Family, sparsity: Sparsity | None = None) -> Update:
    """The algebra of a Gaussian family."""
    if isinstance(family, FullRank):
        return Dense(sparsity)
    if isinstance(family, MeanField):
        return Diagonal(sparsity)
    assert isinstance(family, LowRank)  # the door said so
    return FactorAnalysis(family.rank)


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
