"""Proposals for importance sampling in few dimensions: mixtures of Student t's that adapt."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxvi._numerics import relative_weights, softmax

_KERNELS, _WIDE_KERNELS, _LONG_KERNELS = 100, 8, 30  # of a proposal
_DF, _WIDE_DF = 5.0, 2.0  # of their t's
_WIDER, _LONG = 1.3, 4.0  # sds of all values that these are wide, and long in one hyperparameter
_FEW = 20.0  # effective values, below which their own covariance is not believed


class Proposal(NamedTuple):
    """Student t's in equal parts, each with its centre, factor and degrees of freedom."""

    centres: Float[np.ndarray, "kernels hyperparameters"]
    factors: Float[np.ndarray, "kernels hyperparameters hyperparameters"]
    df: Float[np.ndarray, "kernels"]

    @classmethod
    def around(
        cls,
        centre: Float[np.ndarray, "hyperparameters"],
        covariance: Float[np.ndarray, "hyperparameters hyperparameters"],
    ) -> "Proposal":
        """One, wider than a Gaussian fit, which is too narrow."""
        factor = _WIDER * np.linalg.cholesky(covariance)
        return cls(centre[None], factor[None], np.full(1, _DF))

    @classmethod
    def of(
        cls,
        generator: np.random.Generator,
        values: Float[np.ndarray, "values hyperparameters"],
        weights: Float[np.ndarray, "values"],
        own: Float[np.ndarray, "hyperparameters hyperparameters"],
    ) -> "Proposal":
        """From weighted values; `own` is the Gaussian fit's covariance.

        Most kernels are narrow. Some are wide, and some long in one hyperparameter alone: a log
        scale near zero has a long tail, on which other hyperparameters are where they always are.
        """
        dim = values.shape[1]
        share = softmax(weights)
        mean = share @ values
        covariance = (share[:, None] * (values - mean)).T @ (values - mean)
        covariance += 1e-12 * np.diag(np.diagonal(own)) + (worth(weights) < _FEW) * own
        width = (4.0 / ((dim + 2.0) * _KERNELS)) ** (1.0 / (dim + 4.0))
        centres = values[generator.choice(len(values), _KERNELS, p=share)]
        centres = mean + math.sqrt(1.0 - width**2) * (centres - mean)
        spread = np.repeat(width**2 * covariance[None], _KERNELS, axis=0)
        df = np.full(_KERNELS, _DF)
        wide, along = slice(_WIDE_KERNELS), np.arange(_WIDE_KERNELS, _WIDE_KERNELS + _LONG_KERNELS)
        centres[wide], spread[wide] = mean, _WIDER**2 * covariance
        which = along % dim
        spread[along, which, which] += _LONG**2 * covariance[which, which]
        df[wide], df[along] = _WIDE_DF, _WIDE_DF
        return cls(centres, np.linalg.cholesky(spread), df)

    def draw(
        self, generator: np.random.Generator, num: int
    ) -> Float[np.ndarray, "num hyperparameters"]:
        """Values."""
        kernel = generator.integers(len(self.centres), size=num)
        heavy = np.sqrt(self.df[kernel] / generator.chisquare(self.df[kernel]))
        normal = generator.normal(size=(num, self.centres.shape[1]))
        return self.centres[kernel] + np.einsum(
            "nij,nj->ni", self.factors[kernel], normal * heavy[:, None]
        )

    def log_density(
        self, values: Float[np.ndarray, "values hyperparameters"]
    ) -> Float[np.ndarray, "values"]:
        """Normalised."""
        dim = values.shape[1]
        apart = values[None] - self.centres[:, None]
        square = np.sum((apart @ np.linalg.inv(self.factors).swapaxes(1, 2)) ** 2, axis=2)
        constant = [math.lgamma(0.5 * (df + dim)) - math.lgamma(0.5 * df) for df in self.df]
        diagonals = np.diagonal(self.factors, axis1=1, axis2=2)
        constant -= 0.5 * dim * np.log(math.pi * self.df) + np.log(diagonals).sum(axis=1)
        each = -0.5 * (self.df + dim)[:, None] * np.log1p(square / self.df[:, None])
        return np.logaddexp.reduce(constant[:, None] + each, axis=0) - math.log(len(self.df))


def worth(weights: Float[np.ndarray, "values"]) -> float:
    """How many equally weighted ones they are worth."""
    share = relative_weights(weights)
    return float(share.sum() ** 2 / np.sum(share**2))
