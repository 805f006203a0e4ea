"""Where the base noise of a bound comes from."""

from jaxvi.noise._antithetic import Antithetic as Antithetic
from jaxvi.noise._base import NoiseSource as NoiseSource
from jaxvi.noise._fresh import Fresh as Fresh
from jaxvi.noise._frozen import Frozen as Frozen
from jaxvi.noise._moment_matched import MomentMatched as MomentMatched
from jaxvi.noise._moment_matched import match_moments as match_moments
from jaxvi.noise._sobol import Sobol as Sobol
