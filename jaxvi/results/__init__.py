"""What a fit returns: q and its draws, the verdict, resampling, warm starts."""

from jaxvi._engine import History
from jaxvi.results._fit_result import CorrectedDraws, Fit, FitError, StageRecord, Timing
from jaxvi.results._fit_result import errors_of as errors_of
from jaxvi.results._fit_result import findings_of as findings_of
from jaxvi.results._resample import Resampled, importance_resample
from jaxvi.results._verdict import MAX_LOG_SD_ERROR as MAX_LOG_SD_ERROR
from jaxvi.results._verdict import MAX_MEAN_ERROR_SDS as MAX_MEAN_ERROR_SDS
from jaxvi.results._verdict import Errors, Findings, Level
from jaxvi.results._warm_start import warm_start as warm_start

__all__ = [
    "CorrectedDraws",
    "Errors",
    "Findings",
    "Fit",
    "FitError",
    "History",
    "Level",
    "Resampled",
    "StageRecord",
    "Timing",
    "importance_resample",
]
