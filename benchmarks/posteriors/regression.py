"""Linear regressions with normal noise: flat or weak priors, columns as they come."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxvi
from benchmarks.posteriors._densities import half_cauchy, half_normal, normal, student_t
from benchmarks.posteriors._least_squares import fold, log_likelihood
from benchmarks.posteriors._posterior import Entry, Raw
from jaxvi import Positive, Real
from jaxvi._types import Scalar


def _flat(params: Any, data: Any) -> Scalar:
    """Flat priors on the coefficients and on sigma > 0."""
    return log_likelihood(params["beta"], params["sigma"], data)


def _half_cauchy_noise(params: Any, data: Any) -> Scalar:
    """Flat priors on the coefficients, half-Cauchy(2.5) on sigma."""
    return _flat(params, data) + half_cauchy(params["sigma"], 2.5)


def _weak_normal(params: Any, data: Any) -> Scalar:
    """Normal(0, 10) on the coefficients, half-Normal(10) on sigma."""
    prior = normal(params["beta"], 0.0, 10.0) + half_normal(params["sigma"], 10.0)
    return prior + _flat(params, data)


def _line(params: Any, data: Any) -> Scalar:
    """A line whose normal priors have constants from the data; flat prior on sigma."""
    line = jnp.stack([params["alpha"], params["beta"]])
    prior = normal(params["alpha"], data["alpha_mean"], data["alpha_sd"])
    prior = prior + normal(params["beta"], data["beta_mean"], data["beta_sd"])
    return prior + log_likelihood(line, params["sigma"], data)


def _diamonds(params: Any, data: Any) -> Scalar:
    """Normal(0, 1) on slopes, t(3, 8, 10) on the intercept, half-t(3, 0, 10) on sigma."""
    slopes, intercept, sigma = params["b"], params["Intercept"], params["sigma"]
    prior = normal(slopes, 0.0, 1.0) + student_t(intercept, 3.0, 8.0, 10.0)
    prior = prior + student_t(sigma, 3.0, 0.0, 10.0) + np.log(2.0)
    return prior + log_likelihood(jnp.concatenate([intercept[None], slopes]), sigma, data)


def _with_intercept(y: Any, *columns: Any) -> dict[str, Any]:
    return fold([np.ones(np.shape(y)), *columns], y)


def _earn_height(raw: Raw) -> dict[str, Any]:
    return _with_intercept(raw["earn"], raw["height"])


def _logearn_interaction(raw: Raw) -> dict[str, Any]:
    height, male = raw["height"], raw["male"]
    return _with_intercept(np.log(raw["earn"]), height, male, height * male)


def _logearn_logheight_male(raw: Raw) -> dict[str, Any]:
    return _with_intercept(np.log(raw["earn"]), np.log(raw["height"]), raw["male"])


def _kidscore_interaction(raw: Raw) -> dict[str, Any]:
    school, iq = raw["mom_hs"], raw["mom_iq"]
    return _with_intercept(raw["kid_score"], school, iq, school * iq)


def _kidscore_momhs(raw: Raw) -> dict[str, Any]:
    return _with_intercept(raw["kid_score"], raw["mom_hs"])


def _kidscore_mom_work(raw: Raw) -> dict[str, Any]:
    levels = [raw["mom_work"] == level for level in (2, 3, 4)]
    return _with_intercept(raw["kid_score"], *levels)


def _kilpisjarvi(raw: Raw) -> dict[str, Any]:
    constants = {
        "alpha_mean": raw["pmualpha"],
        "alpha_sd": raw["psalpha"],
        "beta_mean": raw["pmubeta"],
        "beta_sd": raw["psbeta"],
    }
    floats = {name: np.asarray(value, np.float64) for name, value in constants.items()}
    return _with_intercept(raw["y"], raw["x"]) | floats


_SIZES = ("diam1", "diam2", "canopy_height", "total_height", "density")


def _mesquite(raw: Raw) -> dict[str, Any]:
    return _with_intercept(raw["weight"], *(raw[name] for name in _SIZES), raw["group"])


def _logmesquite(raw: Raw) -> dict[str, Any]:
    logs = [np.log(raw[name]) for name in _SIZES]
    return _with_intercept(np.log(raw["weight"]), *logs, raw["group"])


def _logmesquite_logvolume(raw: Raw) -> dict[str, Any]:
    volume = raw["diam1"] * raw["diam2"] * raw["canopy_height"]
    return _with_intercept(np.log(raw["weight"]), np.log(volume))


def _nes(raw: Raw) -> dict[str, Any]:
    ages = [raw["age_discrete"] == group for group in (2, 3, 4)]
    last = [raw[name] for name in ("educ1", "gender", "income")]
    return _with_intercept(raw["partyid7"], raw["real_ideo"], raw["race_adj"], *ages, *last)


def _blr(raw: Raw) -> dict[str, Any]:
    return fold(raw["X"].T, raw["y"])


def _centred(raw: Raw) -> dict[str, Any]:
    predictors = raw["X"][:, 1:]  # the first column is the constant
    return _with_intercept(raw["Y"], *(predictors - predictors.mean(0)).T)


def _target(log_density: Any, num_columns: int) -> jaxvi.Target:
    return jaxvi.Target(log_density, {"beta": Real(num_columns), "sigma": Positive()})


ENTRIES = {
    "diamonds__diamonds": Entry(
        jaxvi.Target(_diamonds, {"Intercept": Real(), "b": Real(24), "sigma": Positive()}), _centred
    ),
    "earnings__earn_height": Entry(_target(_flat, 2), _earn_height),
    "earnings__logearn_interaction": Entry(_target(_flat, 4), _logearn_interaction),
    "earnings__logearn_logheight_male": Entry(_target(_flat, 3), _logearn_logheight_male),
    "kidiq__kidscore_interaction": Entry(_target(_half_cauchy_noise, 4), _kidscore_interaction),
    "kidiq__kidscore_momhs": Entry(_target(_half_cauchy_noise, 2), _kidscore_momhs),
    "kidiq_with_mom_work__kidscore_mom_work": Entry(_target(_flat, 4), _kidscore_mom_work),
    "kilpisjarvi_mod__kilpisjarvi": Entry(
        jaxvi.Target(_line, {"alpha": Real(), "beta": Real(), "sigma": Positive()}), _kilpisjarvi
    ),
    "mesquite__logmesquite": Entry(_target(_flat, 7), _logmesquite),
    "mesquite__logmesquite_logvolume": Entry(_target(_flat, 2), _logmesquite_logvolume),
    "mesquite__mesquite": Entry(_target(_flat, 7), _mesquite),
    "nes1972__nes": Entry(_target(_flat, 9), _nes),
    "nes1988__nes": Entry(_target(_flat, 9), _nes),
    "nes2000__nes": Entry(_target(_flat, 9), _nes),
    "sblrc__blr": Entry(_target(_weak_normal, 5), _blr),
}
