"""Gaussian family with a dense covariance."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Key

from jaxvi._arguments import check_field, number
from jaxvi._numerics import LOG_2PI
from jaxvi._types import Scalar
from jaxvi.families._base import (
    Moments,
    NormalNoiseFamily,
    standard_normal_log_prob,
    start_or_normal,
)


class FullRankParams(NamedTuple):
    """Mean, and Cholesky factor L as log-diagonal and strictly lower part.

    Only what lies strictly below the diagonal of `lower` is read.
    """

    loc: Float[Array, "dim"]
    log_diag: Float[Array, "dim"]
    lower: Float[Array, "dim dim"]


def cholesky_factor(
    log_diag: Float[Array, "dim"], lower: Float[Array, "dim dim"]
) -> Float[Array, "dim dim"]:
    """Lower-triangular matrix with diagonal `exp(log_diag)`."""
    return jnp.tril(lower, -1) + jnp.diag(jnp.exp(log_diag))


def scale_tril_on_host(log_diag: Any, lower: Any) -> Float[np.ndarray, "dim dim"]:
    """`cholesky_factor` in NumPy and float64, so that nothing is compiled."""
    return np.tril(np.asarray(lower, float), -1) + np.diag(np.exp(np.asarray(log_diag, float)))


def split_factor(
    scale_tril: Float[Array, "dim dim"],
) -> tuple[Float[Array, "dim"], Float[Array, "dim dim"]]:
    """Log-diagonal and strictly lower part of a factor: the inverse of `cholesky_factor`."""
    return jnp.log(jnp.diagonal(scale_tril)), jnp.tril(scale_tril, -1)


@dataclass(frozen=True)
class FullRank(NormalNoiseFamily):
    r"""A Gaussian with a dense covariance, $q(z) = N(z \mid m, L L^T)$.

    L is lower triangular with positive diagonal. O(dim^2) time and memory a draw; exact for
    Gaussian posteriors. With fewer draws than coordinates and frozen noise the bound has no
    maximum.

    Args:
        init_scale: standard deviation of every coordinate at the start, unconstrained units.

    Raises:
        ValueError: init_scale not above 0.

    Example:
        >>> fit = jaxvi.fit(key, target, jaxvi.FullRank())
    """

    init_scale: float = 0.1

    def __post_init__(self) -> None:
        check_field(self, "init_scale", number, above=0.0)

    def noise_size(self, dim: int) -> int:
        """One standard normal for each coordinate."""
        return dim

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> FullRankParams:
        """Centred on `start`, covariance `init_scale^2 I`."""
        loc = start_or_normal(key, dim, start)
        return FullRankParams(
            loc,
            jnp.full_like(loc, math.log(self.init_scale)),
            jnp.zeros((dim, dim), loc.dtype),
        )

    def init_gaussian(
        self,
        key: Key[Array, ""],
        loc: Float[Array, "dim"],
        scale_tril: Float[Array, "dim dim"],
    ) -> FullRankParams:
        """Parameters of the Gaussian itself."""
        return FullRankParams(loc, *split_factor(scale_tril))

    def scale_tril(self, phi: FullRankParams) -> Float[Array, "dim dim"]:
        """The Cholesky factor L of the covariance."""
        return cholesky_factor(phi.log_diag, phi.lower)

    def transform(self, phi: FullRankParams, noise: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """The draw z = m + L noise."""
        return phi.loc + self.scale_tril(phi) @ noise

    def transform_and_log_prob(
        self, phi: FullRankParams, noise: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """A draw and its log density, from the noise and without a triangular solve."""
        return self.transform(phi, noise), standard_normal_log_prob(noise) - phi.log_diag.sum()

    def log_prob(self, phi: FullRankParams, z: Float[Array, "dim"]) -> Scalar:
        """Gaussian log density by one triangular solve."""
        whitened = solve_triangular(self.scale_tril(phi), z - phi.loc, lower=True)
        return standard_normal_log_prob(whitened) - phi.log_diag.sum()

    def entropy(self, phi: FullRankParams) -> Scalar:
        """The entropy, log det L + dim / 2 * log(2 pi e)."""
        return phi.log_diag.sum() + 0.5 * phi.loc.size * (1.0 + LOG_2PI)

    def moments(self, phi: FullRankParams) -> Moments:
        """The mean m and the variances, the diagonal of L L^T."""
        return Moments(phi.loc, jnp.sum(self.scale_tril(phi) ** 2, axis=-1))

    def covariance(self, phi: FullRankParams) -> Float[Array, "dim dim"]:
        """The covariance matrix of z, L L^T."""
        factor = self.scale_tril(phi)
        return factor @ factor.T
