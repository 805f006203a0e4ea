"""Problems of the solvers benchmark besides the posteriors: one exact Gaussian, and bad input."""

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxvi
from jaxvi import FullRank, MeanField, Stochastic
from jaxvi.families import Family
from jaxvi.solvers import (
    BatchAndMatch,
    FrozenNoise,
    Laplace,
    NaturalGradient,
    Pathfinder,
    Solver,
)

CONDITION = 1e4
LOG_EVIDENCE = 7.0


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A target that is a Gaussian of known mean, covariance and evidence."""

    target: jaxvi.Target
    data: Any
    mean: Float[np.ndarray, " dim"]
    covariance: Float[np.ndarray, "dim dim"]

    def errors(self, mean: Any, covariance: Any) -> dict[str, float]:
        """Of a Gaussian q: in the worst direction, in the posterior's sds, and KL(q || p)."""
        factor = np.linalg.cholesky(self.covariance)
        gap = np.linalg.solve(factor, np.asarray(mean) - self.mean)
        ratio = np.linalg.solve(factor, np.linalg.solve(factor, np.asarray(covariance)).T)
        values = np.linalg.eigvalsh(0.5 * (ratio + ratio.T))
        sd = np.sqrt(np.diagonal(np.asarray(covariance)) / np.diagonal(self.covariance))
        return {
            "mean_direction": float(np.linalg.norm(gap)),
            "covariance_direction": float(np.max(np.abs(values - 1.0))),
            "sd_coordinate": float(np.max(np.abs(sd - 1.0))),
            "kl": 0.5 * float(gap @ gap + np.sum(values - 1.0 - np.log(values))),
        }

    @property
    def mean_field(self) -> Float[np.ndarray, "dim dim"]:
        """Covariance of the mean field of largest bound: 1 / P_ii, P the precision."""
        return np.diag(1.0 / np.diagonal(np.linalg.inv(self.covariance)))


def _gaussian(z: Array, data: Any) -> Array:
    scaled = data["root"] @ (z - data["mean"])
    return data["log_norm"] - 0.5 * jnp.sum(scaled**2)


@cache
def gaussian(dim: int) -> Gaussian:
    """Off-centre, sds from 1 to 0.01 along random directions, log evidence 7."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    sds = np.geomspace(1.0, CONDITION**-0.5, dim)
    mean = 3.0 * rng.normal(size=dim)
    log_norm = LOG_EVIDENCE - 0.5 * dim * math.log(2.0 * math.pi) - np.sum(np.log(sds))
    data = {"root": (axes / sds).T, "mean": mean, "log_norm": np.asarray(log_norm)}
    target = jaxvi.Target(_gaussian, jaxvi.Real(dim))
    return Gaussian(target, data, mean, (axes * sds**2) @ axes.T)


@dataclass(frozen=True)
class Bad:
    """Input that a solver may fail on; mean and sd of every coordinate where there is a truth."""

    name: str
    title: str
    target: jaxvi.Target
    mean: float | None = None
    sd: float | None = None
    choices: dict[str, Any] = field(default_factory=dict)


def _constant(z: Array) -> Array:
    return 3.0 + 0.0 * jnp.sum(z)


def _improper(params: dict[str, Array]) -> Array:
    """Three equal data with a scale: the smaller it is, the larger the bound of a Gaussian q."""
    mu, scale = params["mu"], params["scale"]
    return -1.5 * ((0.3 - mu) / scale) ** 2 - 3.0 * jnp.log(scale)


def _level(z: Array) -> Array:
    """Normal in the first coordinate, flat towards infinity in the second."""
    return -0.5 * (z[0] - 2.0) ** 2 + jax.nn.log_sigmoid(z[1])


def _cusp(z: Array) -> Array:
    """exp(-|x|^1.5) by coordinate: its gradient is finite, its second derivative isn't at 0."""
    away = jnp.abs(z - 1.5)
    safe = jnp.where(away > 0.0, away, 1.0)
    return 2.0 - jnp.sum(jnp.where(away > 0.0, safe**1.5, 0.0))


@jax.custom_jvp
def _minus(x: Array) -> Array:
    return -x


_minus.defjvp(lambda primals, tangents: (-primals[0], jnp.nan * tangents[0]))


@jax.custom_jvp
def _square(x: Array) -> Array:
    return -0.5 * x * x


_square.defjvp(lambda primals, tangents: (_square(primals[0]), _minus(primals[0]) * tangents[0]))


def _no_curvature(z: Array) -> Array:
    """Normal(-2, 3), whose second derivatives come out as NaN everywhere."""
    return 1.0 + jnp.sum(_square((z + 2.0) / 3.0))


def _one_dimension(z: Array) -> Array:
    """The logarithm of a Gamma(3, rate 2) variate."""
    return 1.0 + jnp.sum(3.0 * z - 2.0 * jnp.exp(z))


def _wide(z: Array) -> Array:
    scaled = (z - 4.0) / 0.5
    return 5.0 - 0.5 * jnp.sum(scaled**2)


# E x^2 of exp(-|x|^1.5) is Gamma(2) / Gamma(2/3).
_CUSP_SD = math.sqrt(1.0 / math.gamma(2.0 / 3.0))
# digamma(3) - log 2, and the root of trigamma(3)
_GAMMA_MEAN, _GAMMA_SD = 0.9227843350984671 - math.log(2.0), 0.6284377987106015

BAD = (
    Bad("improper", "improper: infinite at a scale of 0", jaxvi.Target(
        _improper, {"mu": jaxvi.Real(), "scale": jaxvi.Positive()})),
    Bad("level", "improper: flat to one side", jaxvi.Target(_level, jaxvi.Real(2))),
    Bad("constant", "constant", jaxvi.Target(_constant, jaxvi.Real(3))),
    Bad("cusp", "infinite second derivative at the mode", jaxvi.Target(_cusp, jaxvi.Real(3)),
        1.5, _CUSP_SD),
    Bad("nan_hessian", "NaN second derivatives", jaxvi.Target(_no_curvature, jaxvi.Real(3)),
        -2.0, 3.0),
    Bad("one_dimension", "one dimension, log of a Gamma(3)", jaxvi.Target(
        _one_dimension, jaxvi.Real(1)), _GAMMA_MEAN, _GAMMA_SD),
    Bad("few_draws", "four draws in 20 dimensions", jaxvi.Target(_wide, jaxvi.Real(20)),
        4.0, 0.5, {"objective": jaxvi.ELBO(num_draws=4)}),
)  # fmt: skip

SOLVERS: dict[str, tuple[Solver, Family]] = {
    "natural gradient": (NaturalGradient(), FullRank()),
    "batch and match": (BatchAndMatch(), FullRank()),
    "Laplace": (Laplace(), FullRank()),
    "Pathfinder": (Pathfinder(), FullRank()),
    "frozen Newton, dense": (FrozenNoise(), FullRank()),
    "frozen Newton, mean field": (FrozenNoise(), MeanField()),
    "frozen L-BFGS, mean field": (FrozenNoise("lbfgs"), MeanField()),
    "Adam, dense": (Stochastic(), FullRank()),
    "Adam, mean field": (Stochastic(), MeanField()),
}
