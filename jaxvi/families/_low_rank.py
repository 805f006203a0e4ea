"""Gaussian family with a low-rank plus diagonal covariance."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float, Key

from jaxvi._arguments import check_field, integer, number
from jaxvi._numerics import LOG_2PI, normals
from jaxvi._types import Scalar
from jaxvi.families._base import (
    Moments,
    NormalNoiseFamily,
    marginal_scales,
    start_or_normal,
)

_MAX_FACTOR_ITERATIONS = 100
_IDLE_COLUMN_SCALE = 1e-3  # in standard deviations; it costs the bound its fourth power


class LowRankParams(NamedTuple):
    """Mean, log standard deviations of the diagonal part, factor of the low-rank part."""

    loc: Float[Array, "dim"]
    log_scale: Float[Array, "dim"]
    factor: Float[Array, "dim rank"]


class _Woodbury(NamedTuple):
    """Factor U in units of the diagonal part, Cholesky of I + U^T U, log det of q's scale."""

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
        check_field(self, "init_scale", number, above=0.0)
        check_field(self, "rank", integer)

    def noise_size(self, dim: int) -> int:
        """`rank` standard normals for the low-rank part, and one for each coordinate."""
        return self.rank + dim

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> LowRankParams:
        """Centred on `start`; a small random F, since F = 0 is a saddle of the bound."""
        key_loc, key_factor = jax.random.split(key)
        loc = start_or_normal(key_loc, dim, start)
        factor_scale = 0.1 * self.init_scale
        factor = factor_scale * normals(key_factor, (dim, self.rank), loc.dtype)
        return LowRankParams(loc, jnp.full_like(loc, math.log(self.init_scale)), factor)

    def init_gaussian(
        self,
        key: Key[Array, ""],
        loc: Float[Array, "dim"],
        scale_tril: Float[Array, "dim dim"],
    ) -> LowRankParams:
        """Factor analysis of L L^T: exact if that has the form, or if rank is at least dim - 1.

        O(dim^3) an iteration, with at most 100 iterations and about ten in most cases.
        """
        scale = marginal_scales(scale_tril)
        rows = jnp.tril(scale_tril) / scale[:, None]
        specific, factor = factor_analysis(rows @ rows.T, min(self.rank, loc.size))
        missing = self.rank - factor.shape[1]
        factor = jnp.concatenate([factor, jnp.zeros((loc.size, missing), loc.dtype)], axis=1)
        # columns of zeros would stay zero, since they are a saddle of the bound
        seed_scale = _IDLE_COLUMN_SCALE * jnp.sqrt(specific)[:, None] / self.rank**0.5
        seed = seed_scale * normals(key, factor.shape, loc.dtype)
        idle = jnp.all(factor == 0.0, axis=0)[None]
        specific = specific - jnp.sum(jnp.where(idle, seed**2, jnp.zeros_like(seed)), axis=-1)
        factor = jnp.where(idle, seed, factor)
        return LowRankParams(loc, jnp.log(scale) + 0.5 * jnp.log(specific), scale[:, None] * factor)

    def transform(self, phi: LowRankParams, noise: Float[Array, "noise"]) -> Float[Array, "dim"]:
        """The draw z = m + F noise[:rank] + e^s * noise[rank:]."""
        common, specific = noise[: self.rank], noise[self.rank :]
        return phi.loc + phi.factor @ common + jnp.exp(phi.log_scale) * specific

    def log_prob(self, phi: LowRankParams, z: Float[Array, "dim"]) -> Scalar:
        """Gaussian log density by Woodbury's identity."""
        parts = self._woodbury(phi)
        whitened = (z - phi.loc) * jnp.exp(-phi.log_scale)
        projected = parts.whitened_factor.T @ whitened
        solved = cho_solve((parts.capacitance_chol, True), projected)
        square = jnp.sum(whitened * whitened) - jnp.sum(projected * solved)
        return -0.5 * (square + phi.loc.size * LOG_2PI) - parts.half_log_det

    def entropy(self, phi: LowRankParams) -> Scalar:
        """The entropy: half the log-determinant of the covariance + dim / 2 * log(2 pi e)."""
        return self._woodbury(phi).half_log_det + 0.5 * phi.loc.size * (1.0 + LOG_2PI)

    def moments(self, phi: LowRankParams) -> Moments:
        """The mean m and the variances, the diagonal of the covariance."""
        return Moments(phi.loc, jnp.exp(2.0 * phi.log_scale) + jnp.sum(phi.factor**2, axis=-1))

    def covariance(self, phi: LowRankParams) -> Float[Array, "dim dim"]:
        """The covariance F F^T + diag(e^(2 s))."""
        return phi.factor @ phi.factor.T + jnp.diag(jnp.exp(2.0 * phi.log_scale))

    def _woodbury(self, phi: LowRankParams) -> _Woodbury:
        whitened_factor = phi.factor * jnp.exp(-phi.log_scale)[:, None]
        gram = whitened_factor.T @ whitened_factor
        chol = jnp.linalg.cholesky(gram + jnp.eye(self.rank, dtype=gram.dtype))
        half_log_det = phi.log_scale.sum() + jnp.log(jnp.diagonal(chol)).sum()
        return _Woodbury(whitened_factor, chol, half_log_det)


def factor_analysis(
    correlation: Float[Array, "dim dim"], rank: int
) -> tuple[Float[Array, "dim"], Float[Array, "dim rank"]]:
    """Maximum-likelihood factor analysis of a correlation matrix: (specific variances, F).

    The model is F F^T + diag(specific). Given the specific variances, the best F follows from the
    eigenvectors of the matrix in their units (Lawley and Maxwell 1962), and the divergence is a
    sum over the smallest eigenvalues. A step is Newton's in the log variances, with Jöreskog's
    (1967) approximate Hessian, which is exact where F explains everything; or, where that is
    better, to what F leaves of the diagonal, which never raises the divergence.
    """
    dim, eps = correlation.shape[0], float(jnp.finfo(correlation.dtype).eps)
    floor = 4.0 * eps
    if rank >= dim - 1:  # the smallest eigenvalue serves as every specific variance
        specific = jnp.maximum(jnp.full(dim, jnp.linalg.eigvalsh(correlation)[0]), floor)
        return specific, _best_factor(correlation, specific, rank)[0]

    def improve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, specific, _ = carry
        factor, values, rest = _best_factor(correlation, specific, rank)
        gradient = (rest * rest) @ (1.0 - values)
        hessian = (rest @ rest.T) ** 2 + eps**0.5 * jnp.eye(dim, dtype=specific.dtype)
        newton = specific * jnp.exp(-jnp.clip(jnp.linalg.solve(hessian, gradient), -1.0, 1.0))
        newton = jnp.clip(newton, floor, 1.0)
        plain = jnp.maximum(1.0 - jnp.sum(factor**2, axis=-1), floor)
        worse = _twice_divergence(correlation, newton, rank) > _twice_divergence(
            correlation, plain, rank
        )
        better = jnp.where(worse, plain, newton)
        return step + 1, better, jnp.max(jnp.abs(jnp.log(better / specific)))

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        return (carry[0] < _MAX_FACTOR_ITERATIONS) & (carry[2] > eps**0.6)

    precision = jnp.linalg.inv(correlation)
    start = jnp.clip(1.0 / jnp.diagonal(precision), floor, 1.0)
    far = jnp.full((), jnp.inf, correlation.dtype)
    _, specific, _ = lax.while_loop(unfinished, improve, (jnp.zeros((), jnp.int32), start, far))
    return specific, _best_factor(correlation, specific, rank)[0]


def _in_units_of(
    specific: Float[Array, "dim"], correlation: Float[Array, "dim dim"]
) -> Float[Array, "dim dim"]:
    """The correlation matrix in units of the specific standard deviations."""
    root = jnp.sqrt(specific)
    return correlation / (root[:, None] * root[None])


def _best_factor(
    correlation: Float[Array, "dim dim"], specific: Float[Array, "dim"], rank: int
) -> tuple[Float[Array, "dim rank"], Float[Array, "rest"], Float[Array, "dim rest"]]:
    """F for these specific variances, and the eigenvalues and eigenvectors not used in it."""
    values, vectors = jnp.linalg.eigh(_in_units_of(specific, correlation))
    excess = jnp.maximum(values[-rank:] - 1.0, 0.0)
    factor = jnp.sqrt(specific)[:, None] * vectors[:, -rank:] * jnp.sqrt(excess)[None]
    return factor, values[:-rank], vectors[:, :-rank]


def _twice_divergence(
    correlation: Float[Array, "dim dim"], specific: Float[Array, "dim"], rank: int
) -> Scalar:
    """Twice the divergence of the best F for these specific variances."""
    values = jnp.linalg.eigvalsh(_in_units_of(specific, correlation))
    kept = jnp.maximum(values[-rank:], 1.0)  # eigenvalues that F explains add nothing
    tail = jnp.concatenate([values[:-rank], values[-rank:] / kept])
    return jnp.sum(tail - jnp.log(tail) - 1.0)
