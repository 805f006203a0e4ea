"""Noise sources: how the base noise behind the draws of q is generated at each step."""

from jaxvi.noise._antithetic import Antithetic
from jaxvi.noise._base import NoiseSource
from jaxvi.noise._fresh import Fresh
from jaxvi.noise._frozen import Frozen
from jaxvi.noise._moment_matched import MomentMatched
from jaxvi.noise._moment_matched import match_moments as match_moments
from jaxvi.noise._sobol import Sobol

__all__ = ["Antithetic", "Fresh", "Frozen", "MomentMatched", "NoiseSource", "Sobol"]
