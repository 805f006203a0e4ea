"""Solvers: what drives phi."""

from jaxvi.solvers._base import (
    BlockTrace,
    Defaults,
    HasDefaults,
    HasRequirements,
    Problem,
    Solver,
    StepInfo,
    default_family,
)
from jaxvi.solvers._stochastic import Stochastic, StochasticState

__all__ = [
    "BlockTrace",
    "Defaults",
    "HasDefaults",
    "HasRequirements",
    "Problem",
    "Solver",
    "StepInfo",
    "Stochastic",
    "StochasticState",
    "default_family",
]
