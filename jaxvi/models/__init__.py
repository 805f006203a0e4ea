"""Ready-made targets, written the fast way."""

from jaxvi.models._gaussian_mixture import (
    GaussianMixtureDensity,
    GaussianMixtureStart,
    gaussian_mixture,
    mean_responsibilities,
    responsibilities,
)

__all__ = [
    "GaussianMixtureDensity",
    "GaussianMixtureStart",
    "gaussian_mixture",
    "mean_responsibilities",
    "responsibilities",
]
