"""Adaptive importance proposals in few dimensions: mixtures of Student t distributions."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxvi._numerics import relative_weights, softmax

_NUM_KERNELS, _NUM_WIDE_KERNELS, _NUM_LONG_KERNELS = 100, 8, 30  # all, and of them
_DF, _WIDE_DF = 5.0, 2.0  # degrees of freedom: of narrow kernels, of wide and long ones
_WIDE_SDS = 1.3  # width of wide kernels, in sds of all values
_LONG_SDS = 4.0  # width of a long kernel along its one hyperparameter, likewise
_MIN_ESS = 20.0  # of values, below which the Gaussian fit's covariance is added to theirs


class Proposal(NamedTuple):
    """A mixture of Student t distributions in equal parts: centres, scale factors and df."""

    centres: Float[np.ndarray, "kernels hyperparameters"]
    factors: Float[np.ndarray, "kernels hyperparameters hyperparameters"]
    df: Float[np.ndarray, "kernels"]

    @classmethod
    def around(
        cls,
        centre: Float[np.ndarray, "hyperparameters"],
        covariance: Float[np.ndarray, "hyperparameters hyperparameters"],
    ) -> "Proposal":
        """The first proposal: one t, wider than a Gaussian fit, which tends to be too narrow."""
        factor = _WIDE_SDS * np.linalg.cholesky(covariance)
        return cls(centre[None], factor[None], np.full(1, _DF))

    @classmethod
    def of(
        cls,
        generator: np.random.Generator,
        values: Float[np.ndarray, "values hyperparameters"],
        weights: Float[np.ndarray, "values"],
        fit_covariance: Float[np.ndarray, "hyperparameters hyperparameters"],
    ) -> "Proposal":
        """A kernel mixture fitted to weighted values (West 1993).

        `fit_covariance` is that of the Gaussian fit, used where the values are effectively few.
        Most kernels are narrow. Some are wide, and some long along one hyperparameter alone: a log
        scale near zero has a long tail, along which the other hyperparameters hardly change.
        """
        dim = values.shape[1]
        share = softmax(weights)
        mean = share @ values
        covariance = (share[:, None] * (values - mean)).T @ (values - mean)
        effectively_few = effective_sample_size(weights) < _MIN_ESS
        covariance += (
            1e-12 * np.diag(np.diagonal(fit_covariance)) + effectively_few * fit_covariance
        )
        width = (4.0 / ((dim + 2.0) * _NUM_KERNELS)) ** (1.0 / (dim + 4.0))
        centres = values[generator.choice(len(values), _NUM_KERNELS, p=share)]
        centres = mean + math.sqrt(1.0 - width**2) * (centres - mean)
        covariances = np.repeat(width**2 * covariance[None], _NUM_KERNELS, axis=0)
        df = np.full(_NUM_KERNELS, _DF)
        wide = slice(_NUM_WIDE_KERNELS)
        long = np.arange(_NUM_WIDE_KERNELS, _NUM_WIDE_KERNELS + _NUM_LONG_KERNELS)
        centres[wide], covariances[wide] = mean, _WIDE_SDS**2 * covariance
        axis = long % dim
        covariances[long, axis, axis] += _LONG_SDS**2 * covariance[axis, axis]
        df[wide], df[long] = _WIDE_DF, _WIDE_DF
        return cls(centres, np.linalg.cholesky(covariances), df)

    def draw(
        self, generator: np.random.Generator, num: int
    ) -> Float[np.ndarray, "num hyperparameters"]:
        """Draw `num` values of the hyperparameters."""
        kernel = generator.integers(len(self.centres), size=num)
        heavy = np.sqrt(self.df[kernel] / generator.chisquare(self.df[kernel]))
        normal = generator.normal(size=(num, self.centres.shape[1]))
        return self.centres[kernel] + np.einsum(
            "nij,nj->ni", self.factors[kernel], normal * heavy[:, None]
        )

    def log_density(
        self, values: Float[np.ndarray, "values hyperparameters"]
    ) -> Float[np.ndarray, "values"]:
        """Normalised log density of the mixture at each value."""
        dim = values.shape[1]
        apart = values[None] - self.centres[:, None]
        square = np.sum((apart @ np.linalg.inv(self.factors).swapaxes(1, 2)) ** 2, axis=2)
        constant = [math.lgamma(0.5 * (df + dim)) - math.lgamma(0.5 * df) for df in self.df]
        diagonals = np.diagonal(self.factors, axis1=1, axis2=2)
        constant -= 0.5 * dim * np.log(math.pi * self.df) + np.log(diagonals).sum(axis=1)
        each = -0.5 * (self.df + dim)[:, None] * np.log1p(square / self.df[:, None])
        return np.logaddexp.reduce(constant[:, None] + each, axis=0) - math.log(len(self.df))


def effective_sample_size(weights: Float[np.ndarray, "values"]) -> float:
    """Kish's effective sample size of log weights."""
    share = relative_weights(weights)
    return float(share.sum() ** 2 / np.sum(share**2))
