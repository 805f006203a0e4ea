"""A linear regression of known noise whose posterior is exact, with its density in two parts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxvi

SLOPES = np.asarray([1.0, -2.0, 0.5])
NOISE, SPREAD = 0.7, 2.0


def log_prior(slopes):
    """Independent normals."""
    return -0.5 * jnp.sum(slopes**2) / SPREAD**2 - SLOPES.size * np.log(SPREAD * (2 * np.pi) ** 0.5)


def log_likelihood(slopes, data):
    """Of each row."""
    x, y = data
    return -0.5 * ((y - x @ slopes) / NOISE) ** 2 - np.log(NOISE * (2 * np.pi) ** 0.5)


def summed(slopes, data):
    """Of all rows."""
    return log_likelihood(slopes, data).sum()


def log_density(slopes, data):
    """Both parts."""
    return log_prior(slopes) + summed(slopes, data)


TARGET = jaxvi.Target(
    log_prior=log_prior, log_likelihood=log_likelihood, supports=jaxvi.Real(SLOPES.size)
)


def rows(num, dtype=np.float32, seed=0):
    """Features that are not centred, and what they predict."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.3, 1.0, (num, SLOPES.size))
    y = x @ SLOPES + NOISE * rng.normal(size=num)
    return x.astype(dtype), y.astype(dtype)


class Exact(NamedTuple):
    """Mean, covariance and log evidence."""

    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float


def posterior(data):
    """By formula, in float64."""
    x, y = (np.asarray(part, float) for part in data)
    precision = x.T @ x / NOISE**2 + np.eye(SLOPES.size) / SPREAD**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ (x.T @ y) / NOISE**2
    rest = (y @ y - mean @ (x.T @ y)) / NOISE**2
    log_evidence = -0.5 * (
        rest
        + len(y) * np.log(2 * np.pi * NOISE**2)
        + SLOPES.size * np.log(SPREAD**2)
        + np.linalg.slogdet(precision)[1]
    )
    return Exact(mean, covariance, log_evidence)


def errors(fit, exact):
    """Largest error of a mean in sds, and largest relative error of an sd."""
    mean, variance = fit.setup.family.moments(fit.q.phi)
    sd = np.sqrt(np.diag(exact.covariance))
    return (
        np.abs((np.asarray(mean) - exact.mean) / sd).max(),
        np.abs(np.sqrt(np.asarray(variance)) / sd - 1.0).max(),
    )


class Blocks:
    """Blocks that can be gone through again; may raise after so many."""

    def __init__(self, data, size, breaks_after=None, error=OSError("the disk is gone")):
        self.data, self.size, self.error = data, size, error
        self.left = breaks_after

    def __iter__(self):
        for first in range(0, len(jax.tree.leaves(self.data)[0]), self.size):
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise self.error
            yield jax.tree.map(lambda leaf, i=first: leaf[i : i + self.size], self.data)
