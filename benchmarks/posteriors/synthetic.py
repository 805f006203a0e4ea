"""Posteriors made for the purpose: Neal's funnel, a logistic regression."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxvi
from benchmarks.posteriors._densities import LOG_2PI, normal
from benchmarks.posteriors._posterior import Entry, Raw
from jaxvi import Real
from jaxvi._types import Scalar
from jaxvi.supports._base import softplus


def _funnel(params: Any, data: Any) -> Scalar:
    """v ~ Normal(0, 3), x[i] ~ Normal(0, exp(v / 2)); written so that the neck divides by no 0."""
    v, x = params["v"], params["x"]
    quadratic = jnp.sum(x**2) * jnp.exp(-v)
    return normal(v, 0.0, data["scale_v"]) - 0.5 * (quadratic + x.size * (v + LOG_2PI))


def _funnel_data(raw: Raw) -> dict[str, Any]:
    return {"scale_v": raw["scale_v"]}


def _logistic(params: Any, data: Any) -> Scalar:
    """Binary labels; standard normal priors on intercept and coefficients."""
    weights = jnp.concatenate([params["intercept"][None], params["beta"]])
    return normal(weights, 0.0, 1.0) - jnp.sum(softplus(data["signed"] @ weights))


def _logistic_data(raw: Raw) -> dict[str, Any]:
    signs = np.where(raw["y"] > 0, -1.0, 1.0)
    return {"signed": signs[:, None] * np.column_stack([np.ones(signs.size), raw["X"]])}


ENTRIES = {
    "synthetic__funnel10": Entry(
        jaxvi.Target(_funnel, {"v": Real(), "x": Real(9)}), _funnel_data, group="large"
    ),
    "synthetic__logistic100": Entry(
        jaxvi.Target(_logistic, {"intercept": Real(), "beta": Real(100)}),
        _logistic_data,
        group="large",
    ),
}
