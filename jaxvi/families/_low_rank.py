"""One Gaussian with a low-rank plus diagonal covariance."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float, Key

from jaxvi._arguments import check_field, number, whole
from jaxvi._numerics import LOG_2PI, normals
from jaxvi._types import Scalar
from jaxvi.families._base import (
    Moments,
    NormalNoiseFamily,
    marginal_scales,
    start_or_normal,
)

_MOST_ITERATIONS = 100
_SADDLE = 1e-3  # in standard deviations; what it costs in bound is its fourth power


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
        check_field(self, "init_scale", number, above=0.0)
        check_field(self, "rank", whole)

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
        factor = spread * normals(key_factor, (dim, self.rank), loc.dtype)
        return LowRankParams(loc, jnp.full_like(loc, math.log(self.init_scale)), factor)

    def init_gaussian(
        self,
        key: Key[Array, ""],
        loc: Float[Array, "dim"],
        scale_tril: Float[Array, "dim dim"],
    ) -> LowRankParams:
        """Factor analysis of L L^T: exact where it has the form, or rank is at least dim - 1.

        O(dim^3) an iteration, of which there are up to 100, most often ten.
        """
        scale = marginal_scales(scale_tril)
        rows = jnp.tril(scale_tril) / scale[:, None]
        own, factor = factor_analysis(rows @ rows.T, min(self.rank, loc.size))
        missing = self.rank - factor.shape[1]
        factor = jnp.concatenate([factor, jnp.zeros((loc.size, missing), loc.dtype)], axis=1)
        # a column of zeros would stay so, being a saddle of the bound
        spread = _SADDLE * jnp.sqrt(own)[:, None] / self.rank**0.5
        seed = spread * normals(key, factor.shape, loc.dtype)
        idle = jnp.all(factor == 0.0, axis=0)[None]
        own = own - jnp.sum(jnp.where(idle, seed**2, jnp.zeros_like(seed)), axis=-1)
        factor = jnp.where(idle, seed, factor)
        return LowRankParams(loc, jnp.log(scale) + 0.5 * jnp.log(own), scale[:, None] * factor)

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


def factor_analysis(
    correlation: Float[Array, "dim dim"], rank: int
) -> tuple[Float[Array, "dim"], Float[Array, "dim rank"]]:
    """(own variances, F) of F F^T + diag(own), of largest likelihood for a correlation matrix.

    Given the own variances the best F is known from the eigenvectors of the matrix in their units
    (Lawley and Maxwell 1962), and the divergence is a sum over the smallest eigenvalues. A step
    in the logarithms of the variances is that of Newton's method with Jöreskog's (1967)
    approximate Hessian, exact where nothing is left to explain; or, where that is not the better
    one, to what F leaves of the diagonal, which never makes things worse.
    """
    dim, eps = correlation.shape[0], float(jnp.finfo(correlation.dtype).eps)
    floor = 4.0 * eps
    if rank >= dim - 1:  # the smallest eigenvalue can be everyone's own
        own = jnp.maximum(jnp.full(dim, jnp.linalg.eigvalsh(correlation)[0]), floor)
        return own, _best_factor(correlation, own, rank)[0]

    def improve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, own, _ = carry
        factor, values, rest = _best_factor(correlation, own, rank)
        gradient = (rest * rest) @ (1.0 - values)
        hessian = (rest @ rest.T) ** 2 + eps**0.5 * jnp.eye(dim, dtype=own.dtype)
        newton = own * jnp.exp(-jnp.clip(jnp.linalg.solve(hessian, gradient), -1.0, 1.0))
        newton = jnp.clip(newton, floor, 1.0)
        plain = jnp.maximum(1.0 - jnp.sum(factor**2, axis=-1), floor)
        worse = _left_over(correlation, newton, rank) > _left_over(correlation, plain, rank)
        better = jnp.where(worse, plain, newton)
        return step + 1, better, jnp.max(jnp.abs(jnp.log(better / own)))

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        return (carry[0] < _MOST_ITERATIONS) & (carry[2] > eps**0.6)

    precision = jnp.linalg.inv(correlation)
    start = jnp.clip(1.0 / jnp.diagonal(precision), floor, 1.0)
    far = jnp.full((), jnp.inf, correlation.dtype)
    _, own, _ = lax.while_loop(unfinished, improve, (jnp.zeros((), jnp.int32), start, far))
    return own, _best_factor(correlation, own, rank)[0]


def _in_units_of(
    own: Float[Array, "dim"], correlation: Float[Array, "dim dim"]
) -> Float[Array, "dim dim"]:
    root = jnp.sqrt(own)
    return correlation / (root[:, None] * root[None])


def _best_factor(
    correlation: Float[Array, "dim dim"], own: Float[Array, "dim"], rank: int
) -> tuple[Float[Array, "dim rank"], Float[Array, "rest"], Float[Array, "dim rest"]]:
    """F for these own variances, and the eigenvalues and eigenvectors that it leaves."""
    values, vectors = jnp.linalg.eigh(_in_units_of(own, correlation))
    excess = jnp.maximum(values[-rank:] - 1.0, 0.0)
    factor = jnp.sqrt(own)[:, None] * vectors[:, -rank:] * jnp.sqrt(excess)[None]
    return factor, values[:-rank], vectors[:, :-rank]


def _left_over(correlation: Float[Array, "dim dim"], own: Float[Array, "dim"], rank: int) -> Scalar:
    """Twice the divergence of the best F for these own variances."""
    values = jnp.linalg.eigvalsh(_in_units_of(own, correlation))
    kept = jnp.maximum(values[-rank:], 1.0)  # what is explained leaves nothing
    tail = jnp.concatenate([values[:-rank], values[-rank:] / kept])
    return jnp.sum(tail - jnp.log(tail) - 1.0)
