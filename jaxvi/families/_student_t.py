"""Student's t family: diagonal or dense scale matrix, degrees of freedom fixed or learned."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import nn
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float, Key

from jaxvi._arguments import check_field, flag, number, one_of
from jaxvi._numerics import softmax
from jaxvi._types import Scalar
from jaxvi.families._base import (
    Moments,
    NormalNoiseFamily,
    marginal_scales,
    start_or_normal,
)
from jaxvi.families._full_rank import cholesky_factor, split_factor

_LOG_PI = math.log(math.pi)


class StudentTParams(NamedTuple):
    """Location, scale factor L as log-diagonal and strictly lower part, raw degrees of freedom.

    `lower` has no rows where the scale is diagonal, and `raw_df` no entries where the degrees
    of freedom are fixed: what is not learned is not in phi.
    """

    loc: Float[Array, "dim"]
    log_diag: Float[Array, "dim"]
    lower: Float[Array, "rows dim"]
    raw_df: Float[Array, "learned"]


@dataclass(frozen=True)
class StudentT(NormalNoiseFamily):
    r"""Student's t with location m, scale factor L and $\nu$ degrees of freedom.

    `structure="full"` is the multivariate t, one $\nu$ for all; "diagonal" is a product of
    univariate t's, which share $\nu$. Heavier tails than a Gaussian: the usual choice where
    importance weights are to stay bounded.

    Draws are an explicit smooth function of standard normals, so that the gradient in $\nu$ is
    exact. A pair of normals $(a, b)$ with $r^2 = a^2 + b^2$ makes
    $(a, b) \sqrt{\nu\,\mathrm{expm1}(r^2 / \nu) / r^2}$, a bivariate t (Bailey 1994); given it,
    the next pair is a bivariate t with $\nu + 2$ degrees of freedom, scaled by
    $\sqrt{(\nu + |x|^2) / (\nu + 2)}$, where x is all that came before.

    Args:
        df: degrees of freedom; where they are learned, those at the start.
        structure: "diagonal" or "full".
        learn_df: learn the degrees of freedom, above `min_df`.
        min_df: lower limit of learned degrees of freedom. Above 2 the variance stays finite.
        init_scale: scale of every coordinate at the start, unconstrained units.

    Raises:
        ValueError: df not above 0 (or not above `min_df` where learned), unknown structure,
            init_scale not above 0.

    Example:
        >>> fit = jaxvi.fit(key, target, jaxvi.StudentT(df=5.0, structure="full"))
    """

    df: float = 5.0
    structure: Literal["diagonal", "full"] = "full"
    learn_df: bool = False
    min_df: float = 1.0
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        check_field(self, "init_scale", number, above=0.0)
        check_field(self, "structure", one_of, ("diagonal", "full"))
        check_field(self, "learn_df", flag)
        check_field(self, "min_df", number, above=0.0)
        check_field(self, "df", number, above=self.min_df if self.learn_df else 0.0)

    def noise_size(self, dim: int) -> int:
        """Normals come in pairs: one pair a coordinate, or one pair for two coordinates."""
        return 2 * dim if self.structure == "diagonal" else 2 * ((dim + 1) // 2)

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> StudentTParams:
        """Centred on `start`, scale `init_scale` in every coordinate."""
        loc = start_or_normal(key, dim, start)
        rows = dim if self.structure == "full" else 0
        return StudentTParams(
            loc,
            jnp.full_like(loc, math.log(self.init_scale)),
            jnp.zeros((rows, dim), loc.dtype),
            self._raw_df(loc.dtype),
        )

    def init_gaussian(
        self,
        key: Key[Array, ""],
        loc: Float[Array, "dim"],
        scale_tril: Float[Array, "dim dim"],
    ) -> StudentTParams:
        """The t of `df` degrees of freedom that is nearest to the Gaussian.

        Its scale is L, or the norms of L's rows, times a factor that depends on df and dim alone.
        The factor tends to 1 for large df, and is finite even if the variance is not.
        """
        raw_df = self._raw_df(loc.dtype)
        if self.structure == "diagonal":
            shift = _log_scale_for_normal(self.df, 1)
            log_scale = jnp.log(marginal_scales(scale_tril)) + shift
            return StudentTParams(loc, log_scale, jnp.zeros((0, loc.size), loc.dtype), raw_df)
        shift = _log_scale_for_normal(self.df, loc.size)
        log_diag, lower = split_factor(scale_tril)
        return StudentTParams(loc, log_diag + shift, lower * math.exp(shift), raw_df)

    def _raw_df(self, dtype: jnp.dtype) -> Float[Array, "learned"]:
        # the inverse of softplus, in a form that doesn't overflow
        excess = self.df - self.min_df
        raw = [excess + math.log(-math.expm1(-excess))] if self.learn_df else []
        return jnp.asarray(raw, dtype)

    def degrees_of_freedom(self, phi: StudentTParams) -> Scalar:
        """The degrees of freedom nu: `min_df + softplus(raw_df)` if they are learned."""
        if self.learn_df:
            return self.min_df + nn.softplus(phi.raw_df[0])
        return jnp.asarray(self.df, phi.loc.dtype)

    def transform(self, phi: StudentTParams, noise: Float[Array, "noise"]) -> Float[Array, "dim"]:
        """The draw z = m + L t, with t standard Student's t made from the noise."""
        df = self.degrees_of_freedom(phi)
        if self.structure == "diagonal":
            standard = _bivariate_t(noise.reshape(-1, 2), df)[:, 0]
            return phi.loc + jnp.exp(phi.log_diag) * standard
        standard = _multivariate_t(noise.reshape(-1, 2), df)[: phi.loc.size]
        return phi.loc + cholesky_factor(phi.log_diag, phi.lower) @ standard

    def log_prob(self, phi: StudentTParams, z: Float[Array, "dim"]) -> Scalar:
        """Log density of Student's t: a product of univariate ones, or the multivariate one."""
        df = self.degrees_of_freedom(phi)
        if self.structure == "diagonal":
            whitened = (z - phi.loc) * jnp.exp(-phi.log_diag)
            kernel = -0.5 * (df + 1.0) * jnp.log1p(whitened**2 / df).sum()
            return kernel + z.size * _log_normaliser(df, 1) - phi.log_diag.sum()
        factor = cholesky_factor(phi.log_diag, phi.lower)
        whitened = solve_triangular(factor, z - phi.loc, lower=True)
        kernel = -0.5 * (df + z.size) * jnp.log1p(jnp.sum(whitened**2) / df)
        return kernel + _log_normaliser(df, z.size) - phi.log_diag.sum()

    def entropy(self, phi: StudentTParams) -> Scalar:
        """The entropy: log det L plus that of the standard t."""
        df, dim = self.degrees_of_freedom(phi), phi.loc.size
        if self.structure == "diagonal":
            return phi.log_diag.sum() + dim * _standard_entropy(df, 1)
        return phi.log_diag.sum() + _standard_entropy(df, dim)

    def moments(self, phi: StudentTParams) -> Moments:
        """Mean m, and variances nu / (nu - 2) times squared scales, infinite for nu <= 2."""
        if self.structure == "diagonal":
            square = jnp.exp(2.0 * phi.log_diag)
        else:
            square = jnp.sum(cholesky_factor(phi.log_diag, phi.lower) ** 2, axis=-1)
        return Moments(phi.loc, self._inflation(phi) * square)

    def covariance(self, phi: StudentTParams) -> Float[Array, "dim dim"]:
        """The covariance nu / (nu - 2) L L^T; infinite for nu <= 2."""
        if self.structure == "diagonal":
            return jnp.diag(self.moments(phi).variance)
        factor = cholesky_factor(phi.log_diag, phi.lower)
        return self._inflation(phi) * (factor @ factor.T)

    def _inflation(self, phi: StudentTParams) -> Scalar:
        df = self.degrees_of_freedom(phi)
        return jnp.where(df > 2.0, df / jnp.maximum(df - 2.0, jnp.finfo(df.dtype).tiny), jnp.inf)


def _log_scale_for_normal(df: float, dim: int) -> float:
    """log s of the t with scale s that has the largest mean log density under N(0, I).

    Where its derivative in log s vanishes, E[(df + dim) r^2 / (df s^2 + r^2)] = dim, r being
    chi-distributed. Found by bisection on the host: df and dim are plain numbers.
    """
    centre = math.sqrt(dim)
    r = np.linspace(max(centre - 9.0, 0.0), centre + 9.0, 801)[1:]
    weight = softmax((dim - 1) * np.log(r) - 0.5 * r**2)
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        mean = weight @ ((df + dim) * r**2 / (df * math.exp(2.0 * middle) + r**2))
        low, high = (middle, high) if mean > dim else (low, middle)
    return middle


def _stretch(pairs: Float[Array, "pairs 2"], df: Array) -> tuple[Array, Array]:
    """Factor from normals to a t: `(r^2 / df, sqrt(expm1(r^2 / df) / (r^2 / df)))`; safe at 0."""
    x = jnp.sum(pairs**2, axis=-1) / df
    safe = jnp.maximum(x, jnp.finfo(x.dtype).tiny)
    return x, jnp.sqrt(jnp.expm1(safe) / safe)


def _bivariate_t(pairs: Float[Array, "pairs 2"], df: Scalar) -> Float[Array, "pairs 2"]:
    """Independent bivariate t's, one from each pair of normals."""
    return pairs * _stretch(pairs, df)[1][:, None]


def _multivariate_t(pairs: Float[Array, "pairs 2"], df: Scalar) -> Float[Array, "coordinates"]:
    """One multivariate t from pairs of normals, chained as in the class's docstring."""
    count = pairs.shape[0]
    conditional_df = df + 2.0 * jnp.arange(count, dtype=pairs.dtype)
    x, stretch = _stretch(pairs, conditional_df)
    # (df + |what came before|^2) / df is the product of exp(r^2 / conditional_df) before
    before = jnp.cumsum(x) - x
    scale = stretch * jnp.sqrt(df / conditional_df) * jnp.exp(0.5 * before)
    return (pairs * scale[:, None]).reshape(-1)


def _log_normaliser(df: Scalar, dim: int) -> Scalar:
    half = 0.5 * (df + dim)
    return gammaln(half) - gammaln(0.5 * df) - 0.5 * dim * (jnp.log(df) + _LOG_PI)


def _standard_entropy(df: Scalar, dim: int) -> Scalar:
    half = 0.5 * (df + dim)
    return half * (digamma(half) - digamma(0.5 * df)) - _log_normaliser(df, dim)
