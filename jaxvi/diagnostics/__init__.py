"""Diagnostics of a fit: importance weights, short chains, drift, agreement, linear response."""

from jaxvi.diagnostics._agreement import Agreement, agreement
from jaxvi.diagnostics._drift import CLEAR_STANDARD_ERRORS as CLEAR_STANDARD_ERRORS
from jaxvi.diagnostics._drift import MAX_NEGLIGIBLE_DRIFT_SD as MAX_NEGLIGIBLE_DRIFT_SD
from jaxvi.diagnostics._drift import Drift
from jaxvi.diagnostics._drift import compare as compare
from jaxvi.diagnostics._drift import describe_drift as describe_drift
from jaxvi.diagnostics._drift import is_small as is_small
from jaxvi.diagnostics._drift import is_still as is_still
from jaxvi.diagnostics._drift import largest_start_correlation as largest_start_correlation
from jaxvi.diagnostics._importance_weights import MIN_RELATIVE_ESS as MIN_RELATIVE_ESS
from jaxvi.diagnostics._importance_weights import UNIFORM_RELATIVE_ESS as UNIFORM_RELATIVE_ESS
from jaxvi.diagnostics._importance_weights import ImportanceWeights, importance_weights
from jaxvi.diagnostics._importance_weights import drift_from as drift_from
from jaxvi.diagnostics._importance_weights import importance_weights_of as importance_weights_of
from jaxvi.diagnostics._importance_weights import zero_weightless_draws as zero_weightless_draws
from jaxvi.diagnostics._linear_response import (
    FrozenError,
    LinearResponse,
    frozen_error,
    linear_response,
)
from jaxvi.diagnostics._pareto import ParetoSmoothed, khat_threshold, pareto_smooth
from jaxvi.diagnostics._short_chains import KEPT_STATES as KEPT_STATES
from jaxvi.diagnostics._short_chains import Groups as Groups
from jaxvi.diagnostics._short_chains import ShortChains, short_chains
from jaxvi.diagnostics._short_chains import acceptance as acceptance
from jaxvi.diagnostics._short_chains import run_short_chains as run_short_chains
from jaxvi.diagnostics._short_chains import whitening as whitening

__all__ = [
    "Agreement",
    "Drift",
    "FrozenError",
    "ImportanceWeights",
    "LinearResponse",
    "ParetoSmoothed",
    "ShortChains",
    "agreement",
    "frozen_error",
    "importance_weights",
    "khat_threshold",
    "linear_response",
    "pareto_smooth",
    "short_chains",
]
