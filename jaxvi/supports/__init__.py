"""Supports of parameters: bijectors from unconstrained coordinates, with log-determinants."""

from jaxvi.supports._base import Support
from jaxvi.supports._cholesky_correlation import CholeskyCorrelation
from jaxvi.supports._greater_than import GreaterThan
from jaxvi.supports._interval import Interval
from jaxvi.supports._less_than import LessThan
from jaxvi.supports._numpyro import NumPyro
from jaxvi.supports._numpyro import is_numpyro_constraint as is_numpyro_constraint
from jaxvi.supports._ordered import Ordered
from jaxvi.supports._positive import Positive
from jaxvi.supports._positive_definite import PositiveDefinite
from jaxvi.supports._positive_ordered import PositiveOrdered
from jaxvi.supports._real import Real
from jaxvi.supports._simplex import Simplex

__all__ = [
    "CholeskyCorrelation",
    "GreaterThan",
    "Interval",
    "LessThan",
    "NumPyro",
    "Ordered",
    "Positive",
    "PositiveDefinite",
    "PositiveOrdered",
    "Real",
    "Simplex",
    "Support",
]
