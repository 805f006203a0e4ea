"""Bayesian Gaussian mixture as a conjugate model: exact bound, closed-form updates."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxvi._numerics import LOG_2PI, betaln, digamma, gammaln
from jaxvi._types import Scalar
from jaxvi.models._covariances import KINDS, Covariance

_LOG_2 = math.log(2.0)
_EMPTY_SIZE_EPS = 10.0  # size of an empty component in units of eps: its mean stays finite


class MixturePrior(NamedTuple):
    """Prior parameters of weights, means and covariances, in scikit-learn's terms.

    The mean is centred as the rows are.
    """

    weight_concentration: Scalar
    mean_precision: Scalar
    mean: Float[Array, "dim"]
    degrees_of_freedom: Scalar
    covariance: Array
    reg_covar: Scalar


class MixtureData(NamedTuple):
    """Rows of data in blocks, features leading; padding rows are zero, with weight zero.

    `cross` is the sum of x x^T, for tied covariances; else empty.
    """

    x: Float[Array, "blocks dim rows"]
    weight: Float[Array, "blocks rows"]
    cross: Float[Array, "cross cross"]
    prior: MixturePrior


class MixturePhi(NamedTuple):
    """Parameters of q, in scikit-learn's terms.

    `weight_concentration` are the two parameters of the sticks' betas, or the Dirichlet's and
    zeros. Shapes of the last three depend on the covariance type.
    """

    weight_concentration: tuple[Float[Array, "components"], Float[Array, "components"]]
    mean_precision: Float[Array, "components"]
    means: Float[Array, "components dim"]
    degrees_of_freedom: Float[Array, "*components"]
    covariances: Array
    precisions_cholesky: Array


class Sums(NamedTuple):
    """Sums of responsibilities and of features over rows, and the entropy of the assignments.

    `first` and `second` are sums of linear and quadratic features, weighted by responsibilities.
    """

    size: Float[Array, "components"]
    first: Float[Array, "components dim"]
    second: Float[Array, "components quadratics"]
    cross: Float[Array, "cross cross"]
    entropy: Scalar

    def plus(self, other: "Sums") -> "Sums":
        """The sums over these rows and others; `cross` is of all rows already."""
        first, second = self.first + other.first, self.second + other.second
        size, entropy = self.size + other.size, self.entropy + other.entropy
        return Sums(size, first, second, self.cross, entropy)


@dataclass(frozen=True)
class ConjugateGaussianMixture:
    r"""A mixture of Gaussians with Normal-Wishart, and stick-breaking or Dirichlet, priors.

    Rows $x_n$ come from component k with probability $\pi_k$ and are $N(m_k, \Lambda_k^{-1})$;
    $m_k \sim N(m_0, (\beta_0 \Lambda_k)^{-1})$, $\Lambda_k \sim W(\nu_0, S_0^{-1})$; the weights
    are a Dirichlet's, or made by breaking a stick. Formulas of Bishop (2006), section 10.2, and of
    Blei and Jordan (2006), in the conventions of scikit-learn: covariances are the
    Wishart's divided by its degrees of freedom, `reg_covar` is added to the scatter of every
    component, and for tied, diagonal and spherical covariances the Wishart's terms are those of
    the full one. The bound leaves constants out.

    Args:
        num_components: K.
        covariance_type: "full", "tied", "diag" or "spherical".
        sticks: weights by a (truncated) Dirichlet process rather than a Dirichlet distribution.
    """

    num_components: int
    covariance_type: str = "full"
    sticks: bool = True

    @property
    def kind(self) -> Covariance:
        """Features, densities and updates of this covariance type."""
        return KINDS[self.covariance_type]

    def expect(self, phi: MixturePhi, data: MixtureData) -> Sums:
        """E step: the sums over all rows, block by block; responsibilities are not stored."""
        weights = self._log_joint_weights(phi)

        def add(sums: tuple[Array, Scalar], block: tuple[Array, Array]) -> tuple[tuple, None]:
            features = self._features(*block)
            logits = weights @ features
            shifted = logits - jnp.max(logits, axis=0, keepdims=True)
            odds = jnp.exp(shifted)
            total = jnp.sum(odds, axis=0, keepdims=True)
            share = odds / total
            entropy = jnp.log(total[0]) - jnp.sum(share * shifted, axis=0)
            return (sums[0] + share @ features.T, sums[1] + entropy @ block[1]), None

        nothing = (jnp.zeros_like(weights), jnp.zeros((), weights.dtype))
        (sums, entropy), _ = lax.scan(add, nothing, (data.x, data.weight))
        return self._sums(sums, entropy, data)

    def given(self, responsibilities: Array, data: MixtureData) -> Sums:
        """The sums for given responsibilities of shape (blocks, components, rows)."""

        def add(sums: Array, block: tuple[Array, Array, Array]) -> tuple[Array, None]:
            return sums + block[2] @ self._features(*block[:2]).T, None

        dim = data.x.shape[1]
        quadratics = self.kind.features(data.x[0, :, :1]).shape[0]
        nothing = jnp.zeros((self.num_components, quadratics + dim + 1), data.x.dtype)
        sums, _ = lax.scan(add, nothing, (data.x, data.weight, responsibilities))
        return self._sums(sums, jnp.zeros((), data.x.dtype), data)

    def _features(
        self, x: Float[Array, "dim rows"], weight: Float[Array, "rows"]
    ) -> Float[Array, "features rows"]:
        """Features of rows: quadratic ones, linear ones, and a last one: 1, or 0 for padding."""
        return jnp.concatenate([self.kind.features(x), x, weight[None]])

    def _sums(
        self, sums: Float[Array, "components features"], entropy: Scalar, data: MixtureData
    ) -> Sums:
        dim = data.x.shape[1]
        size = sums[:, -1] + _EMPTY_SIZE_EPS * jnp.finfo(sums.dtype).eps
        return Sums(size, sums[:, -1 - dim : -1], sums[:, : -1 - dim], data.cross, entropy)

    def _log_joint_weights(self, phi: MixturePhi) -> Float[Array, "components features"]:
        """Coefficients of the features in E[log p(x, component)] under q's global factors."""
        dim = phi.means.shape[1]
        quadratic, linear = self.kind.coefficients(phi.means, phi.precisions_cholesky)
        dof = phi.degrees_of_freedom
        log_lambda = dim * _LOG_2 + jnp.sum(digamma(_halves(dof, dim)), axis=-1)
        log_det = self.kind.log_det(phi.precisions_cholesky, dim) - 0.5 * dim * jnp.log(dof)
        constant = (
            self._log_weights(phi)
            + log_det
            + 0.5 * (log_lambda - dim / phi.mean_precision)
            - 0.5 * dim * LOG_2PI
            - 0.5 * jnp.sum(phi.means * linear, axis=1)
        )
        return jnp.concatenate([quadratic, linear, constant[:, None]], axis=1)

    def _log_weights(self, phi: MixturePhi) -> Float[Array, "components"]:
        """Expected log weights, E[log pi]."""
        one, other = phi.weight_concentration
        if not self.sticks:
            return digamma(one) - digamma(jnp.sum(one))
        total = digamma(one + other)
        rest = jnp.cumsum(digamma(other) - total)
        return digamma(one) - total + jnp.concatenate([jnp.zeros(1, rest.dtype), rest[:-1]])

    def maximise(self, sums: Sums, data: MixtureData) -> MixturePhi:
        """M step: the optimal variational parameters given the sums."""
        prior = data.prior
        means = sums.first / sums.size[:, None]
        precision = prior.mean_precision + sums.size
        pulled = prior.mean_precision * prior.mean[None] + sums.size[:, None] * means
        dof = self.kind.degrees_of_freedom(sums, prior)
        raw = self.kind.covariances(sums, means, prior)
        covariances = raw / dof.reshape(dof.shape + (1,) * (raw.ndim - dof.ndim))
        chol = self.kind.precisions_cholesky(covariances)
        weights = self._concentrations(sums.size, prior)
        centres = pulled / precision[:, None]
        return MixturePhi(weights, precision, centres, dof, covariances, chol)

    def _concentrations(
        self, size: Float[Array, "components"], prior: MixturePrior
    ) -> tuple[Float[Array, "components"], Float[Array, "components"]]:
        if not self.sticks:
            return prior.weight_concentration + size, jnp.zeros_like(size)
        after = jnp.cumsum(size[::-1])[::-1]
        after = jnp.concatenate([after[1:], jnp.zeros(1, size.dtype)])
        return 1.0 + size, prior.weight_concentration + after

    def bound(self, phi: MixturePhi, sums: Sums, data: MixtureData) -> Scalar:
        """Evidence lower bound: the assignments' entropy and q's normalisers, without constants."""
        dim, dof = phi.means.shape[1], phi.degrees_of_freedom
        log_det = self.kind.log_det(phi.precisions_cholesky, dim) - 0.5 * dim * jnp.log(dof)
        gammas = jnp.sum(gammaln(_halves(dof, dim)), axis=-1)
        wishart = dof * log_det + 0.5 * dof * dim * _LOG_2 + gammas
        wishart = self.num_components * jnp.mean(wishart)
        one, other = phi.weight_concentration
        if self.sticks:
            weights = jnp.sum(betaln(one, other))
        else:
            weights = jnp.sum(gammaln(one)) - gammaln(jnp.sum(one))
        return sums.entropy + wishart + weights - 0.5 * dim * jnp.sum(jnp.log(phi.mean_precision))

    def log_joint(
        self, phi: MixturePhi, x: Float[Array, "dim rows"]
    ) -> Float[Array, "components rows"]:
        """E[log p(x, component)] under q's global factors, in scikit-learn's conventions."""
        features = self._features(x, jnp.ones(x.shape[1], x.dtype))
        common = self.kind.common(x, phi.precisions_cholesky)
        return self._log_joint_weights(phi) @ features + jnp.broadcast_to(common, (1, x.shape[1]))


def _halves(dof: Float[Array, "*components"], dim: int) -> Float[Array, "*components dim"]:
    """(nu - i) / 2 for i = 0, ..., dim - 1, as in multivariate gamma functions."""
    steps = jnp.arange(dim, dtype=dof.dtype)
    return 0.5 * (dof[..., None] - steps.reshape((1,) * dof.ndim + (dim,)))
