"""Ready-made targets, written the fast way."""

from jaxvi.models._gaussian_mixture import (
    GaussianMixtureDensity,
    GaussianMixtureStart,
    gaussian_mixture,
    responsibilities,
)

__all__ = [
    "GaussianMixtureDensity",
    "GaussianMixtureStart",
    "gaussian_mixture",
    "responsibilities",
]
