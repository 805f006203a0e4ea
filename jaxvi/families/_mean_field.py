"""Gaussian family with independent coordinates (mean field)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxvi._arguments import check_field, number
from jaxvi._numerics import LOG_2PI
from jaxvi._types import Scalar
from jaxvi.families._base import (
    Moments,
    NormalNoiseFamily,
    marginal_scales,
    standard_normal_log_prob,
    start_or_normal,
)


class MeanFieldParams(NamedTuple):
    """Means, and logarithms of the standard deviations."""

    loc: Float[Array, "dim"]
    log_scale: Float[Array, "dim"]


@dataclass(frozen=True)
class MeanField(NormalNoiseFamily):
    r"""Independent Gaussians, $q(z) = \prod_i N(z_i \mid m_i, e^{2 s_i})$.

    O(dim) time and memory a draw. It has no correlations, and on a correlated posterior it
    understates variances: for a Gaussian target with precision P its optimum has variances
    1 / P_ii.

    Args:
        init_scale: standard deviation of every coordinate at the start, unconstrained units.

    Raises:
        ValueError: init_scale not above 0.

    Example:
        >>> fit = jaxvi.fit(key, target, jaxvi.MeanField())
    """

    init_scale: float = 0.1

    def __post_init__(self) -> None:
        check_field(self, "init_scale", number, above=0.0)

    def noise_size(self, dim: int) -> int:
        """One standard normal for each coordinate."""
        return dim

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> MeanFieldParams:
        """Centred on `start`, standard deviation `init_scale`."""
        loc = start_or_normal(key, dim, start)
        return MeanFieldParams(loc, jnp.full_like(loc, math.log(self.init_scale)))

    def init_gaussian(
        self,
        key: Key[Array, ""],
        loc: Float[Array, "dim"],
        scale_tril: Float[Array, "dim dim"],
    ) -> MeanFieldParams:
        """The Gaussian's means and standard deviations; exact where L is diagonal."""
        return MeanFieldParams(loc, jnp.log(marginal_scales(scale_tril)))

    def transform(self, phi: MeanFieldParams, noise: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """The draw z = m + e^s * noise."""
        return phi.loc + jnp.exp(phi.log_scale) * noise

    def transform_and_log_prob(
        self, phi: MeanFieldParams, noise: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """A draw and its log density, from the noise and without a division."""
        return self.transform(phi, noise), standard_normal_log_prob(noise) - phi.log_scale.sum()

    def log_prob(self, phi: MeanFieldParams, z: Float[Array, "dim"]) -> Scalar:
        """Sum of the coordinates' Gaussian log densities."""
        whitened = (z - phi.loc) * jnp.exp(-phi.log_scale)
        return standard_normal_log_prob(whitened) - phi.log_scale.sum()

    def entropy(self, phi: MeanFieldParams) -> Scalar:
        """The entropy, sum(s) + dim / 2 * log(2 pi e)."""
        return phi.log_scale.sum() + 0.5 * phi.loc.size * (1.0 + LOG_2PI)

    def moments(self, phi: MeanFieldParams) -> Moments:
        """The means m and the variances e^(2 s)."""
        return Moments(phi.loc, jnp.exp(2.0 * phi.log_scale))

    def covariance(self, phi: MeanFieldParams) -> Float[Array, "dim dim"]:
        """The diagonal matrix of the variances."""
        return jnp.diag(self.moments(phi).variance)
