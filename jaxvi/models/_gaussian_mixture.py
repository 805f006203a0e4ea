"""Bayesian Gaussian mixtures as targets: diagonal covariances, assignments summed out."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from jaxvi._arguments import integer, number
from jaxvi._numerics import LOG_2PI
from jaxvi._types import Data, Scalar
from jaxvi.supports import Positive, Real, Simplex
from jaxvi.target import Target


@dataclass(frozen=True)
class GaussianMixtureDensity:
    r"""Log joint density of a mixture's parameters and data, in nats; every factor normalised.

    $\log p = \sum_n \log \sum_k w_k \prod_d N(x_{nd} \mid m_{kd}, s_{kd}^2) + \log p(w, m, s)$,
    with $w \sim$ Dirichlet(concentration), $m_{kd} \sim N(0, \text{mean\_sd}^2)$ and
    $\log s_{kd} \sim N(\log \text{scale\_median}, \text{scale\_log\_sd}^2)$.

    O(N K D): the quadratics are one matrix product of `(K, 2 D)` and `(2 D, N)`, so that nothing
    of shape `(N, K, D)` is ever formed. A call takes `params` as in `gaussian_mixture` and the
    rows of shape `(N, D)`.
    """

    num_components: int
    num_features: int
    concentration: float = 2.0
    mean_sd: float = 1.0
    scale_median: float = 0.5
    scale_log_sd: float = 0.5

    def __call__(self, params: Any, data: Data) -> Scalar:
        """The log density of one parameters' pytree."""
        rows = _as_rows(data, self.num_features, params["means"].dtype)
        log_likelihood = jnp.sum(jax.nn.logsumexp(_log_joint(params, rows), axis=0))
        return log_likelihood + self.log_prior(params)

    def log_prior(self, params: Any) -> Scalar:
        """Log density of the parameters alone; integrates to one over their supports."""
        means, scales, weights = params["means"], params["scales"], params.get("weights")
        log_scales = jnp.log(scales)
        standard_means = means / self.mean_sd
        standard_scales = (log_scales - math.log(self.scale_median)) / self.scale_log_sd
        quadratic = jnp.sum(standard_means**2) + jnp.sum(standard_scales**2)
        # a log-normal's density has 1 / s besides the normal's in log s
        log_prior = -0.5 * quadratic - jnp.sum(log_scales) + self._log_normaliser()
        if weights is not None:
            log_prior += (self.concentration - 1.0) * jnp.sum(jnp.log(weights))
        return log_prior

    def _log_normaliser(self) -> float:
        count, total = self.num_components, self.num_components * self.concentration
        dirichlet = math.lgamma(total) - count * math.lgamma(self.concentration)
        normals = LOG_2PI + math.log(self.mean_sd) + math.log(self.scale_log_sd)
        return dirichlet - count * self.num_features * normals


@dataclass(frozen=True)
class GaussianMixtureStart:
    """A random start of a mixture: means at distinct rows, equal scales and equal weights."""

    num_components: int
    num_features: int

    def __call__(self, key: Key[Array, ""], data: Data) -> Any:
        """One parameters' pytree inside the supports; rows of shape `(N, D)`."""
        count = self.num_components
        rows = jnp.asarray(data)
        dtype = rows.dtype if jnp.issubdtype(rows.dtype, jnp.floating) else jnp.asarray(0.0).dtype
        rows = _as_rows(rows, self.num_features, dtype)
        if rows.shape[0] < count:
            raise ValueError(
                f"expected at least as many rows as components, {count}; got {rows.shape[0]}; "
                f"try num_components={rows.shape[0]} or fewer"
            )
        # a column that is constant (or a single row) still needs a scale above zero
        scales = jnp.std(rows, axis=0)
        scales = jnp.where(scales > 0, scales, 1.0) * count ** (-1.0 / self.num_features)
        start = {
            "means": rows[_distinct(key, count, rows.shape[0])],
            "scales": jnp.tile(scales[None, :], (count, 1)),
        }
        return start if count == 1 else start | {"weights": jnp.full(count, 1.0 / count, dtype)}


def gaussian_mixture(
    num_components: Any,
    num_features: Any,
    *,
    concentration: Any = 2.0,
    mean_sd: Any = 1.0,
    scale_median: Any = 0.5,
    scale_log_sd: Any = 0.5,
) -> Target:
    r"""A Bayesian mixture of Gaussians with diagonal covariances, for rows of shape `(N, D)`.

    Parameters: `{"weights": (K,), "means": (K, D), "scales": (K, D)}`, scales being standard
    deviations; a single component has no weights. Assignments are summed out. The priors are
    meant for columns of about unit scale around zero: standardise the columns first, or give
    your own numbers. All densities are normalised, so bounds of different K compare; a q that
    covers one of the K! orders of the components falls short of the evidence by log K! more.

    In float32 the expanded square loses digits where components are narrow against the columns'
    standard deviation: about `1e-7 (deviation / scale)^2` a row. The data's origin does not
    matter: they are centred inside. Equal numbers give equal targets, which share compiled
    programs.

    Args:
        num_components: K.
        num_features: D, the number of columns.
        concentration: of the symmetric Dirichlet prior of the weights; above 1 keeps components
            from emptying.
        mean_sd: prior standard deviation of the means, around 0.
        scale_median: prior median of the scales.
        scale_log_sd: prior standard deviation of the scales' logarithm. Large values let a
            component collapse onto rows that share one rounded value.

    Returns:
        A `Target` with a random start of its own.

    Raises:
        ValueError: fewer than one component or feature, or a prior number that is not above 0.

    Example:
        >>> target = jaxvi.models.gaussian_mixture(3, 4)
        >>> fit = jaxvi.fit(jax.random.key(0), target, data=X, num_restarts=64)
    """
    num_components = integer("num_components", num_components)
    num_features = integer("num_features", num_features)
    numbers = {
        "concentration": concentration,
        "mean_sd": mean_sd,
        "scale_median": scale_median,
        "scale_log_sd": scale_log_sd,
    }
    # floats, so that 1 and 1.0 give equal targets
    numbers = {name: number(name, value, above=0.0) for name, value in numbers.items()}
    shape = (num_components, num_features)
    supports: dict[str, Any] = {"means": Real(shape), "scales": Positive(shape)}
    if num_components > 1:
        supports["weights"] = Simplex((num_components,))
    density = GaussianMixtureDensity(*shape, *numbers.values())
    return Target(density, supports, start=GaussianMixtureStart(*shape))


def responsibilities(params: Any, data: Data) -> Float[Array, "components rows"]:
    """Probability of every component for every row, given one parameters' pytree."""
    means = jnp.asarray(params["means"])
    params = {name: jnp.asarray(value, means.dtype) for name, value in params.items()}
    return jax.nn.softmax(_log_joint(params, _as_rows(data, means.shape[1], means.dtype)), axis=0)


def mean_responsibilities(draws: Any, data: Data) -> Float[Array, "components rows"]:
    """Posterior probability of every component for every row: `responsibilities` over draws.

    Args:
        draws: parameters' pytree with the draws leading, from one lane, so that the components
            keep their labels. One draw is taken at a time: memory stays that of one.
        data: rows of shape `(N, D)`.
    """
    return _mean_responsibilities(jax.tree.map(jnp.asarray, draws), jnp.asarray(data))


@jax.jit
def _mean_responsibilities(draws: Any, rows: Array) -> Float[Array, "components rows"]:
    def add(total: Array, params: Any) -> tuple[Array, None]:
        return total + responsibilities(params, rows), None

    num_draws, num_components, _ = draws["means"].shape
    zeros = jnp.zeros((num_components, rows.shape[0]), draws["means"].dtype)
    return lax.scan(add, zeros, draws)[0] / num_draws


def _log_joint(params: Any, rows: Float[Array, "rows features"]) -> Float[Array, "components rows"]:
    """log(w_k) + log N(x_n | m_k, s_k); components leading, so that the rows lie contiguous."""
    # relative to the columns' means: the expanded square loses digits far from the origin
    centre = jnp.mean(rows, axis=0, keepdims=True)
    centred = rows - centre
    means = params["means"] - centre
    precisions = params["scales"] ** -2
    features = jnp.concatenate([centred**2, centred], axis=1).T
    coefficients = jnp.concatenate([-0.5 * precisions, means * precisions], axis=1)
    constants = jnp.sum(
        -0.5 * means**2 * precisions - jnp.log(params["scales"]) - 0.5 * LOG_2PI, axis=1
    )
    if "weights" in params:
        constants += jnp.log(params["weights"])
    # full precision also where an accelerator would round float32 factors to fewer bits
    quadratics = jnp.matmul(coefficients, features, precision=lax.Precision.HIGHEST)
    return quadratics + constants[:, None]


def _as_rows(data: Data, num_features: int, dtype: Any) -> Float[Array, "rows features"]:
    rows = jnp.asarray(data)
    if rows.ndim == 2 and rows.shape[1] == num_features:
        return rows.astype(dtype)
    transposed = rows.ndim == 2 and rows.shape[0] == num_features
    hint = "the data on the wrong axis: transpose them" if transposed else "num_features"
    raise ValueError(
        f"expected data of shape (N, D) with D = {num_features} columns; got shape {rows.shape}; "
        f"try {hint}"
    )


def _distinct(key: Key[Array, ""], count: int, size: int) -> Int[Array, "count"]:
    """`count` distinct random integers below `size`, without a permutation (Floyd 1987)."""
    proposals = jax.random.randint(key, (count,), 0, jnp.arange(size - count, size) + 1)

    def add(i: Array, chosen: Array) -> Array:
        taken = jnp.any(chosen == proposals[i])
        return chosen.at[i].set(jnp.where(taken, size - count + i, proposals[i]))

    return lax.fori_loop(0, count, add, jnp.full(count, -1, proposals.dtype))
