"""jaxvi: a JAX-compiled engine for variational inference."""

from jaxvi import (
    diagnostics,
    engine,
    families,
    interop,
    models,
    noise,
    objectives,
    solvers,
    supports,
)
from jaxvi._engine import Progress, run
from jaxvi._fit import fit
from jaxvi._fitting import Modes, find_modes
from jaxvi._resume import resume
from jaxvi._status import Status
from jaxvi.data import Minibatch, Stream
from jaxvi.diagnostics import linear_response
from jaxvi.families import (
    AutoregressiveFlow,
    CouplingFlow,
    FullRank,
    LowRank,
    MeanField,
    Mixture,
    StudentT,
    Transformed,
)
from jaxvi.mesh import make_mesh
from jaxvi.noise import Antithetic, Fresh, Frozen, MomentMatched, Sobol
from jaxvi.objectives import ELBO
from jaxvi.results import Fit, FitError, Resampled, importance_resample
from jaxvi.solvers import (
    BatchAndMatch,
    FrozenNoise,
    Laplace,
    NaturalGradient,
    Pathfinder,
    Stochastic,
)
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
    "AutoregressiveFlow",
    "BatchAndMatch",
    "CholeskyCorrelation",
    "CouplingFlow",
    "Fit",
    "FitError",
    "Fresh",
    "Frozen",
    "FrozenNoise",
    "FullRank",
    "GreaterThan",
    "Interval",
    "Laplace",
    "LessThan",
    "LowRank",
    "MeanField",
    "Minibatch",
    "Mixture",
    "Modes",
    "MomentMatched",
    "NaturalGradient",
    "Ordered",
    "Pathfinder",
    "Positive",
    "PositiveDefinite",
    "PositiveOrdered",
    "Progress",
    "Real",
    "Resampled",
    "Simplex",
    "Sobol",
    "Status",
    "Stochastic",
    "Stream",
    "StudentT",
    "Target",
    "Transformed",
    "diagnostics",
    "engine",
    "families",
    "find_modes",
    "fit",
    "importance_resample",
    "interop",
    "linear_response",
    "make_mesh",
    "models",
    "noise",
    "objectives",
    "resume",
    "run",
    "solvers",
    "supports",
]
