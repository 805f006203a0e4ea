"""Diagnostics: what a finished fit says about itself."""

from jaxvi.diagnostics._agreement import Agreement, agreement
from jaxvi.diagnostics._linear_response import (
    FrozenError,
    LinearResponse,
    frozen_error,
    linear_response,
)
from jaxvi.diagnostics._movement import CLEAR as CLEAR
from jaxvi.diagnostics._movement import KEPT as KEPT
from jaxvi.diagnostics._movement import Drift, Movement, movement
from jaxvi.diagnostics._movement import Groups as Groups
from jaxvi.diagnostics._movement import acceptance as acceptance
from jaxvi.diagnostics._movement import compare as compare
from jaxvi.diagnostics._movement import move as move
from jaxvi.diagnostics._movement import whitening as whitening
from jaxvi.diagnostics._pareto import ParetoSmoothed, khat_threshold, pareto_smooth
from jaxvi.diagnostics._weighing import Weighing, weigh

__all__ = [
    "Agreement",
    "Drift",
    "FrozenError",
    "LinearResponse",
    "Movement",
    "ParetoSmoothed",
    "Weighing",
    "agreement",
    "frozen_error",
    "khat_threshold",
    "linear_response",
    "movement",
    "pareto_smooth",
    "weigh",
]
