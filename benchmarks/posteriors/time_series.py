"""Time series: autoregression, GARCH, a hidden Markov chain, stochastic volatility, a trend."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxvi
from benchmarks.posteriors._densities import (
    LOG_2PI,
    half_cauchy,
    half_normal,
    log_beta_density,
    normal,
)
from benchmarks.posteriors._least_squares import fold, log_likelihood
from benchmarks.posteriors._posterior import Entry, Raw
from jaxvi import Interval, Positive, Real, Simplex
from jaxvi._types import Scalar
from jaxvi.supports import PositiveOrdered

_ORDER = 5


def _autoregression(params: Any, data: Any) -> Scalar:
    """y[t] on its last five values, the first five given; Normal(0, 10), half-Cauchy(2.5)."""
    weights = jnp.concatenate([params["alpha"][None], params["beta"]])
    prior = normal(weights, 0.0, 10.0) + half_cauchy(params["sigma"], 2.5)
    return prior + log_likelihood(weights, params["sigma"], data)


def _lags(raw: Raw) -> dict[str, Any]:
    y = raw["y"]
    later = y[_ORDER:]
    columns = [y[_ORDER - lag : y.size - lag] for lag in range(1, _ORDER + 1)]
    return fold([np.ones(later.size), *columns], later)


def _garch(params: Any, data: Any) -> Scalar:
    """GARCH(1, 1), flat on mu, alpha0 > 0 and the triangle alpha1, beta1 > 0, alpha1 + beta1 < 1.

    beta1 = (1 - alpha1) * share, so that the supports are fixed; 1 - alpha1 is the Jacobian.
    """
    beta1 = _garch_report(params)["beta1"]
    squares = (data["y"] - params["mu"]) ** 2
    inputs = params["alpha0"] + params["alpha1"] * squares[:-1]

    def step(variance: Scalar, value: Scalar) -> tuple[Scalar, Scalar]:
        variance = value + beta1 * variance
        return variance, variance

    first = data["first_variance"]
    variances = jnp.concatenate([first[None], jax.lax.scan(step, first, inputs)[1]])
    terms = squares / variances + jnp.log(variances)
    log_jacobian = jnp.log1p(-params["alpha1"])
    return -0.5 * jnp.sum(terms) - 0.5 * squares.size * LOG_2PI + log_jacobian


def _garch_report(params: Any) -> dict[str, Array]:
    names = ("mu", "alpha0", "alpha1")
    beta1 = (1.0 - params["alpha1"]) * params["beta1_share"]
    return {name: params[name] for name in names} | {"beta1": beta1}


def _garch_data(raw: Raw) -> dict[str, Any]:
    return {"y": raw["y"], "first_variance": raw["sigma1"] ** 2}


def _hidden_markov(params: Any, data: Any) -> Scalar:
    """Two states with unit-variance emissions; states summed out, no law for the first.

    Normal(3, 1) and Normal(10, 1) on the positive ordered means, flat on the rows of transitions.
    """
    means, y = params["mu"], data["y"]
    moves = jnp.stack([params["theta1"], params["theta2"]])  # [from, to]
    log_emission = -0.5 * (y[:, None] - means[None, :]) ** 2
    best = jnp.max(log_emission, axis=1)
    emission = jnp.exp(log_emission - best[:, None])

    def step(weights: Array, values: Array) -> tuple[Array, Scalar]:
        # scaled to sum to one, else long chains underflow
        weights = jnp.sum(weights[:, None] * moves, axis=0) * values
        total = jnp.sum(weights)
        return weights / total, total

    weights, totals = jax.lax.scan(step, emission[0], emission[1:])
    likelihood = jnp.sum(jnp.log(totals)) + jnp.log(jnp.sum(weights)) + jnp.sum(best)
    prior = normal(means - data["prior_means"], 0.0, 1.0)
    return prior + likelihood - 0.5 * y.size * LOG_2PI


def _hidden_markov_data(raw: Raw) -> dict[str, Any]:
    return {"y": raw["y"], "prior_means": np.array([3.0, 10.0])}


def _stochastic_volatility(params: Any, data: Any) -> Scalar:
    """y[t] ~ Normal(0, exp(h[t] / 2)), h a stationary AR(1); centred.

    mu ~ Normal(0, 5), (phi + 1) / 2 ~ Beta(20, 1.5), sigma ~ half-Normal(1).
    """
    mu, phi, sigma = params["mu"], params["phi"], params["sigma"]
    above = params["h"] - mu
    log_up, log_down = jnp.log1p(phi), jnp.log1p(-phi)
    prior = normal(mu, 0.0, 5.0) + half_normal(sigma, 1.0)
    prior = prior + log_beta_density(log_up - math.log(2.0), log_down - math.log(2.0), 20.0, 1.5)
    prior = prior - math.log(2.0)
    # the first, stationary: its variance is sigma^2 / (1 - phi^2)
    first = normal(above[0] * jnp.sqrt((1.0 - phi) * (1.0 + phi)), 0.0, sigma)
    path = first + 0.5 * (log_up + log_down) + normal(above[1:] - phi * above[:-1], 0.0, sigma)
    terms = data["squares"] * jnp.exp(-params["h"]) + params["h"]
    return prior + path - 0.5 * jnp.sum(terms) - 0.5 * terms.size * LOG_2PI


def _stochastic_volatility_data(raw: Raw) -> dict[str, Any]:
    return {"squares": raw["y"] ** 2}


def _prophet(params: Any, data: Any) -> Scalar:
    """A piecewise linear trend with additive regressors.

    k, m ~ Normal(0, 5), changes of slope ~ Laplace(0, tau), sigma_obs ~ half-Normal(0.5).
    """
    start = jnp.stack([params["k"], params["m"]])
    changes, sigma = params["delta"], params["sigma_obs"]
    prior = normal(start, 0.0, 5.0) + half_normal(sigma, 0.5)
    laplace = jnp.sum(jnp.abs(changes)) / data["tau"] + changes.size * jnp.log(2.0 * data["tau"])
    scaled = params["beta"] / data["beta_sds"]
    prior = prior - laplace + normal(scaled, 0.0, 1.0) - jnp.sum(jnp.log(data["beta_sds"]))
    coefficients = jnp.concatenate([start, changes, params["beta"]])
    return prior + log_likelihood(coefficients, sigma, data)


def _prophet_data(raw: Raw) -> dict[str, Any]:
    time = raw["t"]
    # k t + m, and a slope that changes by delta[j] from t_change[j] on
    ramps = np.maximum(time[:, None] - raw["t_change"][None, :], 0.0)
    columns = [time, np.ones(time.size), *ramps.T, *raw["X"].T]
    sds = np.asarray(raw["sigmas"], np.float64)
    return fold(columns, raw["y"]) | {"beta_sds": sds, "tau": raw["tau"]}


ENTRIES = {
    "arK__arK": Entry(
        jaxvi.Target(_autoregression, {"alpha": Real(), "beta": Real(_ORDER), "sigma": Positive()}),
        _lags,
    ),
    "garch__garch11": Entry(
        jaxvi.Target(
            _garch,
            {
                "mu": Real(),
                "alpha0": Positive(),
                "alpha1": Interval(0.0, 1.0),
                "beta1_share": Interval(0.0, 1.0),
            },
        ),
        _garch_data,
        _garch_report,
    ),
    "hmm_example__hmm_example": Entry(
        jaxvi.Target(
            _hidden_markov,
            {"theta1": Simplex(2), "theta2": Simplex(2), "mu": PositiveOrdered(2)},
        ),
        _hidden_markov_data,
    ),
    "rstan_downloads__prophet": Entry(
        jaxvi.Target(
            _prophet,
            {
                "k": Real(),
                "m": Real(),
                "delta": Real(25),
                "sigma_obs": Positive(),
                "beta": Real(34),
            },
        ),
        _prophet_data,
        group="large",
    ),
    "synthetic__stochastic_volatility300": Entry(
        jaxvi.Target(
            _stochastic_volatility,
            {"mu": Real(), "phi": Interval(-1.0, 1.0), "sigma": Positive(), "h": Real(300)},
        ),
        _stochastic_volatility_data,
        group="large",
    ),
}
