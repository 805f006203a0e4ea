"""The posteriors that the benchmarks measure on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxvi
import jaxvi.models


@dataclass(frozen=True, eq=False)
class Problem:
    """A target with its data, and where restarts begin."""

    name: str
    title: str
    target: jaxvi.Target
    data: Any
    centre: Float[np.ndarray, "dim"]
    spread: float
    learning_rate: float = 0.02
    optimum: float | None = None  # the best bound of a mean field, where it is known

    @property
    def dim(self) -> int:
        """Unconstrained dimension."""
        return self.target.dim

    def starts(self, num: int) -> Float[Array, "num dim"]:
        """A start of its own for every restart, unconstrained."""
        noise = np.random.default_rng(0).normal(size=(num, self.dim))
        return jnp.asarray(self.centre + self.spread * noise, float)


def mixture(seed: int | None = None) -> Problem:
    """A Bayesian mixture of three diagonal Gaussians on Fisher's irises; a seed jitters them."""
    from sklearn.datasets import load_iris

    points = load_iris().data
    if seed is not None:
        points = points + 0.01 * np.random.default_rng(seed).normal(size=points.shape)
    points = (points - points.mean(0)) / points.std(0)
    num, dim = 3, points.shape[1]
    target = jaxvi.models.gaussian_mixture(num, dim)
    # in the order of the parameters' names: means, logarithms of scales, weights
    centre = np.concatenate([np.zeros(num * dim), np.full(num * dim, np.log(0.5)), np.zeros(2)])
    return Problem(
        "mixture",
        "Gaussian mixture, iris (150 points, 3 components, dimension 26)",
        target,
        jnp.asarray(points, float),
        centre,
        0.7,
    )


def logistic(seed: int | None = None) -> Problem:
    """Logistic regression, 2000 points of 25 correlated features, normal prior."""
    rng = np.random.default_rng(1 if seed is None else seed)
    num, dim = 2000, 25
    features = rng.normal(size=(num, dim)) @ (np.eye(dim) + 0.1 * rng.normal(size=(dim, dim)))
    weights = 0.5 + 0.5 * rng.normal(size=dim)
    labels = rng.uniform(size=num) < 1.0 / (1.0 + np.exp(-features @ weights))
    signed = np.where(labels, 1.0, -1.0) * features.T
    return Problem(
        "logistic",
        "logistic regression (2000 points, dimension 25)",
        jaxvi.Target(_logistic_density, jaxvi.Real((dim,))),
        jnp.asarray(signed, float),
        np.zeros(dim),
        0.5,
    )


def _logistic_density(weights: Float[Array, " d"], signed: Float[Array, "d n"]) -> Array:
    return jnp.sum(jax.nn.log_sigmoid(weights @ signed)) - 0.5 * jnp.sum(weights**2) / 4.0


def gaussian(seed: int | None = None) -> Problem:
    """A correlated Gaussian of dimension 100 away from the origin."""
    rng = np.random.default_rng(2 if seed is None else seed)
    dim = 100
    axes, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    precision = axes @ np.diag(np.geomspace(0.3, 10.0, dim)) @ axes.T
    mean = 2.0 + rng.normal(size=dim)
    data = {"mean": jnp.asarray(mean, float), "precision": jnp.asarray(precision, float)}
    # variances 1 / P_ii
    optimum = 0.5 * np.sum(np.log(2.0 * np.pi / np.diag(precision)))
    return Problem(
        "gaussian",
        "correlated Gaussian (dimension 100)",
        jaxvi.Target(_gaussian_density, jaxvi.Real((dim,))),
        data,
        np.zeros(dim),
        1.0,
        optimum=float(optimum),
    )


def _gaussian_density(z: Float[Array, " d"], data: dict[str, Array]) -> Array:
    centred = z - data["mean"]
    return -0.5 * jnp.dot(centred, data["precision"] @ centred)


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "mixture": mixture,
    "logistic": logistic,
    "gaussian": gaussian,
}
