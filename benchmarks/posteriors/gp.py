"""Gaussian processes."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

import jaxvi
from benchmarks.posteriors._densities import half_normal, log_gamma_density, normal
from benchmarks.posteriors._posterior import Entry, Raw
from jaxvi import Positive, Real
from jaxvi._types import Scalar

_JITTER = 1e-10


def _poisson(params: Any, data: Any) -> Scalar:
    """Counts with a Gaussian-process log rate L f_tilde, L the Cholesky factor of the kernel.

    Squared-exponential kernel; rho ~ Gamma(25, rate 4), alpha ~ half-Normal(2). Needs float64,
    and is NaN far out, where the kernel is singular.
    """
    rho, alpha, white = params["rho"], params["alpha"], params["f_tilde"]
    prior = log_gamma_density(rho, 25.0, 4.0) + half_normal(alpha, 2.0) + normal(white, 0.0, 1.0)
    kernel = alpha**2 * jnp.exp(-0.5 * data["square_gaps"] / rho**2)
    log_rate = (
        jnp.linalg.cholesky(kernel + _JITTER * jnp.eye(white.size, dtype=white.dtype)) @ white
    )
    likelihood = jnp.dot(data["counts"], log_rate) - jnp.sum(jnp.exp(log_rate))
    return prior + likelihood - jnp.sum(gammaln(data["counts"] + 1.0))


def _poisson_data(raw: Raw) -> dict[str, Any]:
    x = np.asarray(raw["x"], np.float64)
    counts = np.asarray(raw["k"], np.float64)
    return {"square_gaps": (x[:, None] - x[None, :]) ** 2, "counts": counts}


ENTRIES = {
    "gp_pois_regr__gp_pois_regr": Entry(
        jaxvi.Target(_poisson, {"rho": Positive(), "alpha": Positive(), "f_tilde": Real(11)}),
        _poisson_data,
    ),
}
