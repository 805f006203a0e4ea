"""Solvers: algorithms that optimise the variational parameters phi."""

from jaxvi.solvers._base import (
    BlockTrace,
    Defaults,
    HasDefaults,
    HasPreparation,
    HasRequirements,
    Problem,
    Solver,
    StepInfo,
    default_family,
)
from jaxvi.solvers._batch_and_match import BatchAndMatch, BatchAndMatchState
from jaxvi.solvers._coordinate_ascent import (
    Ascent,
    ConjugateModel,
    ConjugateProblem,
    CoordinateAscent,
    CoordinateAscentState,
)
from jaxvi.solvers._deterministic.frozen_draws import check_num_draws as check_num_draws
from jaxvi.solvers._deterministic.frozen_draws import frozen_source as frozen_source
from jaxvi.solvers._deterministic.frozen_draws import num_draws_for as num_draws_for
from jaxvi.solvers._deterministic.local_coordinates import Move as Move
from jaxvi.solvers._deterministic.local_coordinates import local_map as local_map
from jaxvi.solvers._deterministic.trust_region import (
    ConjugateGradientResult as ConjugateGradientResult,
)
from jaxvi.solvers._deterministic.trust_region import TrustRegionSearch as TrustRegionSearch
from jaxvi.solvers._deterministic.trust_region import is_certain as is_certain
from jaxvi.solvers._deterministic.trust_region import solve_within as solve_within
from jaxvi.solvers._deterministic.trust_region import (
    start_trust_region_search as start_trust_region_search,
)
from jaxvi.solvers._deterministic.trust_region import trust_region_step as trust_region_step
from jaxvi.solvers._frozen_noise import FrozenNoise, FrozenNoiseState
from jaxvi.solvers._laplace import Laplace, LaplaceState
from jaxvi.solvers._natural_gradient import NaturalGradient, NaturalGradientState
from jaxvi.solvers._pathfinder import Pathfinder, PathfinderState
from jaxvi.solvers._stochastic import Stochastic, StochasticState

__all__ = [
    "Ascent",
    "BatchAndMatch",
    "BatchAndMatchState",
    "BlockTrace",
    "ConjugateModel",
    "ConjugateProblem",
    "CoordinateAscent",
    "CoordinateAscentState",
    "Defaults",
    "FrozenNoise",
    "FrozenNoiseState",
    "HasDefaults",
    "HasPreparation",
    "HasRequirements",
    "Laplace",
    "LaplaceState",
    "NaturalGradient",
    "NaturalGradientState",
    "Pathfinder",
    "PathfinderState",
    "Problem",
    "Solver",
    "StepInfo",
    "Stochastic",
    "StochasticState",
    "default_family",
]
