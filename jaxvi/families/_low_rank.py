"""One Gaussian with a low-rank plus diagonal covariance."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float, Key

from jaxvi._types import Scalar
from jaxvi.families._base import (
    LOG_2PI,
    Moments,
    NormalNoiseFamily,
    check_init_scale,
    start_or_normal,
)


class LowRankParams(NamedTuple):
    """Mean, log standard deviations of the diagonal part, factor of the low-rank part."""

    loc: Float[Array, "dim"]
    log_scale: Float[Array, "dim"]
    factor: Float[Array, "dim rank"]


class _Woodbury(NamedTuple):
    """Factor in units of the diagonal part, Cholesky factor of I + U^T U, log det of q's scale."""

    whitened_factor: Float[Array, "dim rank"]
    capacitance_chol: Float[Array, "rank rank"]
    half_log_det: Scalar


@dataclass(frozen=True)
class LowRank(NormalNoiseFamily):
    r"""A Gaussian with covariance $F F^T + \mathrm{diag}(e^{2 s})$, F of shape (dim, rank).

    O(dim rank) time and memory a draw plus O(dim rank^2) a step for the log-determinant: for
    dimensions where a dense covariance is too much. A rank above dim adds nothing. See Ong,
    Nott and Smith (2018).

    Args:
        rank: columns of F, at least 1.
        init_scale: standard deviation of every coordinate at the start, unconstrained units.

    Raises:
        ValueError: rank below 1, or init_scale not above 0.

    Example:
        >>> fit = jaxvi.fit(key, target, jaxvi.LowRank(5))
    """

    rank: int = 5
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        check_init_scale("LowRank", self.init_scale)
        if self.rank < 1:
            raise ValueError(
                f"LowRank: expected a rank of at least 1; got {self.rank}; try MeanField() for "
                "a diagonal covariance."
            )

    def noise_size(self, dim: int) -> int:
        """rank normals for the common part, one a coordinate for its own."""
        return self.rank + dim

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> LowRankParams:
        """Centred on `start`; a small random F, since F = 0 is a saddle of the bound."""
        key_loc, key_factor = jax.random.split(key)
        loc = start_or_normal(key_loc, dim, start)
        spread = 0.1 * self.init_scale
        factor = spread * jax.random.normal(key_factor, (dim, self.rank), loc.dtype)
        return LowRankParams(loc, jnp.full_like(loc, math.log(self.init_scale)), factor)

    def transform(self, phi: LowRankParams, noise: Float[Array, "noise"]) -> Float[Array, "dim"]:
        """z = m + F noise[:rank] + e^s * noise[rank:]."""
        common, own = noise[: self.rank], noise[self.rank :]
        return phi.loc + phi.factor @ common + jnp.exp(phi.log_scale) * own

    def log_prob(self, phi: LowRankParams, z: Float[Array, "dim"]) -> Scalar:
        """Gaussian log density by Woodbury's identity."""
        parts = self._woodbury(phi)
        whitened = (z - phi.loc) * jnp.exp(-phi.log_scale)
        projected = parts.whitened_factor.T @ whitened
        solved = cho_solve((parts.capacitance_chol, True), projected)
        square = jnp.sum(whitened * whitened) - jnp.sum(projected * solved)
        return -0.5 * (square + phi.loc.size * LOG_2PI) - parts.half_log_det

    def entropy(self, phi: LowRankParams) -> Scalar:
        """Half the log-determinant of the covariance + dim / 2 * log(2 pi e)."""
        return self._woodbury(phi).half_log_det + 0.5 * phi.loc.size * (1.0 + LOG_2PI)

    def moments(self, phi: LowRankParams) -> Moments:
        """m and the diagonal of the covariance."""
        return Moments(phi.loc, jnp.exp(2.0 * phi.log_scale) + jnp.sum(phi.factor**2, axis=-1))

    def covariance(self, phi: LowRankParams) -> Float[Array, "dim dim"]:
        """F F^T + diag(e^(2 s))."""
        return phi.factor @ phi.factor.T + jnp.diag(jnp.exp(2.0 * phi.log_scale))

    def _woodbury(self, phi: LowRankParams) -> _Woodbury:
        whitened_factor = phi.factor * jnp.exp(-phi.log_scale)[:, None]
        gram = whitened_factor.T @ whitened_factor
        chol = jnp.linalg.cholesky(gram + jnp.eye(self.rank, dtype=gram.dtype))
        half_log_det = phi.log_scale.sum() + jnp.log(jnp.diagonal(chol)).sum()
        return _Woodbury(whitened_factor, chol, half_log_det)
