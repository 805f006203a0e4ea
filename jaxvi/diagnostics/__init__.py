"""Diagnostics: what a finished fit says about itself."""

from jaxvi.diagnostics._agreement import Agreement, agreement
from jaxvi.diagnostics._linear_response import (
    FrozenError,
    LinearResponse,
    frozen_error,
    linear_response,
)
from jaxvi.diagnostics._pareto import ParetoSmoothed, khat_threshold, pareto_smooth

__all__ = [
    "Agreement",
    "FrozenError",
    "LinearResponse",
    "ParetoSmoothed",
    "agreement",
    "frozen_error",
    "khat_threshold",
    "linear_response",
    "pareto_smooth",
]
