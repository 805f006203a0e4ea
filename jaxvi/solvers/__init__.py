"""Solvers: what drives phi."""

from jaxvi.solvers._base import BlockTrace, Solver, StepInfo
from jaxvi.solvers._stochastic import Stochastic, StochasticState

__all__ = ["BlockTrace", "Solver", "StepInfo", "Stochastic", "StochasticState"]
