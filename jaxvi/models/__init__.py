"""Ready-made targets and conjugate models, written for speed."""

from jaxvi.models._conjugate_mixture import (
    ConjugateGaussianMixture,
    MixtureData,
    MixturePhi,
    MixturePrior,
    Sums,
)
from jaxvi.models._gaussian_mixture import (
    GaussianMixtureDensity,
    GaussianMixtureStart,
    gaussian_mixture,
    mean_responsibilities,
    responsibilities,
)

__all__ = [
    "ConjugateGaussianMixture",
    "GaussianMixtureDensity",
    "GaussianMixtureStart",
    "MixtureData",
    "MixturePhi",
    "MixturePrior",
    "Sums",
    "gaussian_mixture",
    "mean_responsibilities",
    "responsibilities",
]
