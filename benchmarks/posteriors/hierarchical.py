"""Hierarchical models: eight schools, item response, radon by county."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxvi
from benchmarks.posteriors._densities import LOG_2PI, half_cauchy, half_normal, normal
from benchmarks.posteriors._posterior import Entry, Raw
from jaxvi import Positive, Real
from jaxvi._types import Scalar
from jaxvi.supports._base import softplus


def _eight_schools(params: Any, data: Any) -> Scalar:
    """Effects mu + tau * theta_trans, non-centred; mu ~ Normal(0, 5), tau ~ half-Cauchy(5)."""
    raw, mu, tau = params["theta_trans"], params["mu"], params["tau"]
    prior = normal(raw, 0.0, 1.0) + normal(mu, 0.0, 5.0) + half_cauchy(tau, 5.0)
    scaled = (data["y"] - mu - tau * raw) / data["sigma"]
    return prior + normal(scaled, 0.0, 1.0) - jnp.sum(jnp.log(data["sigma"]))


def _eight_schools_data(raw: Raw) -> dict[str, Any]:
    return {name: np.asarray(raw[name], np.float64) for name in ("y", "sigma")}


def _item_response(params: Any, data: Any) -> Scalar:
    """logit P(y[i, j] = 1) = a[i] (theta[j] - b[i]) for items i and persons j.

    theta ~ Normal(0, sigma_theta), log a ~ Normal(0, sigma_a), b ~ Normal(mu_b, sigma_b),
    mu_b ~ Normal(0, 5), half-Cauchy(2) on the three scales.
    """
    a, b, theta = params["a"], params["b"], params["theta"]
    scales = jnp.stack([params["sigma_theta"], params["sigma_a"], params["sigma_b"]])
    prior = half_cauchy(scales, 2.0) + normal(params["mu_b"], 0.0, 5.0)
    log_a = jnp.log(a)
    effects = normal(theta, 0.0, params["sigma_theta"]) + normal(log_a, 0.0, params["sigma_a"])
    effects = effects - jnp.sum(log_a) + normal(b, params["mu_b"], params["sigma_b"])
    logits = a[:, None] * (theta[None, :] - b[:, None])
    return prior + effects - jnp.sum(softplus(data["signs"] * logits))


def _item_response_data(raw: Raw) -> dict[str, Any]:
    return {"signs": np.where(raw["y"] > 0, -1.0, 1.0)}


def _radon(params: Any, data: Any) -> Scalar:
    """County intercepts alpha and effects beta of the floor, centred; log radon is normal.

    Normal(0, 10) on the means, half-Normal(1) on the sds. Houses of one county and floor share
    their fitted value, so that counts, means and the squares within are all that is needed.
    """
    alpha, beta = params["alpha"], params["beta"]
    scales = jnp.stack([params["sigma_y"], params["sigma_alpha"], params["sigma_beta"]])
    means = jnp.stack([params["mu_alpha"], params["mu_beta"]])
    prior = half_normal(scales, 1.0) + normal(means, 0.0, 10.0)
    effects = normal(alpha, params["mu_alpha"], params["sigma_alpha"])
    effects = effects + normal(beta, params["mu_beta"], params["sigma_beta"])
    fitted = jnp.stack([alpha, alpha + beta])
    square = jnp.sum(data["counts"] * (data["means"] - fitted) ** 2) + data["within"]
    sigma = params["sigma_y"]
    likelihood = -0.5 * square / sigma**2 - data["rows"] * (jnp.log(sigma) + 0.5 * LOG_2PI)
    return prior + effects + likelihood


_COUNTIES = 85


def _radon_data(raw: Raw) -> dict[str, Any]:
    cells = np.stack([raw["floor"] == 0, raw["floor"] == 1])[:, None, :]
    cells = cells & (raw["county"] == np.arange(_COUNTIES)[:, None])[None]
    counts = cells.sum(-1).astype(np.float64)
    means = (cells @ raw["log_radon"]) / np.maximum(counts, 1.0)
    gaps = raw["log_radon"] - means[raw["floor"].astype(int), raw["county"]]
    within, rows = np.asarray(gaps @ gaps), np.asarray(float(gaps.size))
    return {"counts": counts, "means": means, "within": within, "rows": rows}


ENTRIES = {
    "eight_schools__eight_schools_noncentered": Entry(
        jaxvi.Target(_eight_schools, {"theta_trans": Real(8), "mu": Real(), "tau": Positive()}),
        _eight_schools_data,
    ),
    "irt_2pl__irt_2pl": Entry(
        jaxvi.Target(
            _item_response,
            {
                "theta": Real(100),
                "a": Positive(20),
                "b": Real(20),
                "mu_b": Real(),
                "sigma_theta": Positive(),
                "sigma_a": Positive(),
                "sigma_b": Positive(),
            },
        ),
        _item_response_data,
        group="large",
    ),
    "radon_mn__radon_variable_intercept_slope_centered": Entry(
        jaxvi.Target(
            _radon,
            {
                "alpha": Real(_COUNTIES),
                "beta": Real(_COUNTIES),
                "mu_alpha": Real(),
                "mu_beta": Real(),
                "sigma_alpha": Positive(),
                "sigma_beta": Positive(),
                "sigma_y": Positive(),
            },
        ),
        _radon_data,
        group="large",
    ),
}
