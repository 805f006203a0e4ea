"""Solvers: what drives phi."""

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
