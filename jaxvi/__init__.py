"""jaxvi: a JAX-compiled engine for variational inference."""

from jaxvi import diagnostics, families, models, noise, objectives, solvers, supports
from jaxvi._progress import Progress
from jaxvi._status import Status
from jaxvi.families import FullRank, LowRank, MeanField, StudentT
from jaxvi.fit import fit
from jaxvi.lanes import run
from jaxvi.noise import Antithetic, Fresh, Frozen, Sobol
from jaxvi.objectives import ELBO
from jaxvi.result import Fit, FitError
from jaxvi.solvers import Stochastic
from jaxvi.supports import (
    CholeskyCorrelation,
    GreaterThan,
    Interval,
    LessThan,
    Ordered,
    Positive,
    PositiveDefinite,
    PositiveOrdered,
    Real,
    Simplex,
)
from jaxvi.target import Target

__version__ = "0.1.0"

__all__ = [
    "ELBO",
    "Antithetic",
    "CholeskyCorrelation",
    "Fit",
    "FitError",
    "Fresh",
    "Frozen",
    "FullRank",
    "GreaterThan",
    "Interval",
    "LessThan",
    "LowRank",
    "MeanField",
    "Ordered",
    "Positive",
    "PositiveDefinite",
    "PositiveOrdered",
    "Progress",
    "Real",
    "Simplex",
    "Sobol",
    "Status",
    "Stochastic",
    "StudentT",
    "Target",
    "diagnostics",
    "families",
    "fit",
    "models",
    "noise",
    "objectives",
    "run",
    "solvers",
    "supports",
]
