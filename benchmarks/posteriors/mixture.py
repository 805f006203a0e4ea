"""Mixtures."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxvi
from benchmarks.posteriors._densities import LOG_2PI, half_normal, log_beta_density, normal
from benchmarks.posteriors._posterior import Entry, Raw
from jaxvi import Interval, Ordered, Positive, Real
from jaxvi._types import Scalar
from jaxvi.supports._base import softplus


def _two_components(params: Any, data: Any) -> Scalar:
    """theta Normal(mu[0], sigma[0]) + (1 - theta) Normal(mu[1], sigma[1]), mu increasing.

    mu iid Normal(0, 2), both orders folded onto one; sigma ~ half-Normal(2), theta ~ Beta(5, 5).
    Both components' log densities are quadratics in y: that of the first sums to three moments,
    and their difference is one matrix product with the powers of y.
    """
    mu, sigma, theta = params["mu"], params["sigma"], params["theta"]
    log_weights = jnp.stack([jnp.log(theta), jnp.log1p(-theta)])
    prior = normal(mu, 0.0, 2.0) + math.log(2.0) + half_normal(sigma, 2.0)
    prior = prior + log_beta_density(log_weights[0], log_weights[1], 5.0, 5.0)
    precision = sigma**-2.0
    constant = log_weights - jnp.log(sigma) - 0.5 * LOG_2PI - 0.5 * precision * mu**2
    coefficients = jnp.stack([constant, precision * mu, -0.5 * precision])  # of 1, y, y^2
    first, difference = coefficients[:, 0], coefficients[:, 1] - coefficients[:, 0]
    ratios = difference @ data["powers"]
    return prior + jnp.dot(first, data["moments"]) + jnp.sum(softplus(ratios))


def _two_components_data(raw: Raw) -> dict[str, Any]:
    powers = np.stack([np.ones_like(raw["y"]), raw["y"], raw["y"] ** 2])
    return {"powers": powers, "moments": powers.sum(1)}


def _two_modes(params: Any, data: Any) -> Scalar:
    """Two Gaussians in ten dimensions, many sds apart; normalised."""
    x = params["x"]
    white = (data["whiten"] @ x - data["white_means"]).reshape(2, x.size)
    return jax.nn.logsumexp(data["log_heights"] - 0.5 * jnp.sum(white**2, axis=1))


def _two_modes_data(raw: Raw) -> dict[str, Any]:
    whiten = np.linalg.inv(raw["chol"])
    white_means = np.einsum("kij,kj->ki", whiten, raw["mean"])
    dim = raw["mean"].shape[1]
    log_dets = np.log(np.diagonal(raw["chol"], axis1=1, axis2=2)).sum(1)
    return {
        "whiten": whiten.reshape(2 * dim, dim),
        "white_means": white_means.ravel(),
        "log_heights": np.log(raw["weight"]) - log_dets - 0.5 * dim * LOG_2PI,
    }


ENTRIES = {
    "low_dim_gauss_mix__low_dim_gauss_mix": Entry(
        jaxvi.Target(
            _two_components,
            {"mu": Ordered(2), "sigma": Positive(2), "theta": Interval(0.0, 1.0)},
        ),
        _two_components_data,
    ),
    "synthetic__two_modes10": Entry(
        jaxvi.Target(_two_modes, {"x": Real(10)}), _two_modes_data, group="large"
    ),
}
