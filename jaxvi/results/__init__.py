"""What a fit returns: q and its draws, the verdict, resampling, warm starts."""

from jaxvi.results._fit_result import CorrectedDraws, Fit, FitError, StageRecord, Timing
from jaxvi.results._fit_result import errors_of as errors_of
from jaxvi.results._fit_result import findings_of as findings_of
from jaxvi.results._resample import Resampled, importance_resample
from jaxvi.results._verdict import WORST_LOG_SD as WORST_LOG_SD
from jaxvi.results._verdict import WORST_MEAN as WORST_MEAN
from jaxvi.results._verdict import Errors, Findings
from jaxvi.results._warm_start import warm_start as warm_start

__all__ = [
    "CorrectedDraws",
    "Errors",
    "Findings",
    "Fit",
    "FitError",
    "Resampled",
    "StageRecord",
    "Timing",
    "importance_resample",
]
