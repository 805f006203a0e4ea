"""The natural-gradient update for each Gaussian family."""

from jaxvi.families import Family, FullRank, LowRank, MeanField
from jaxvi.solvers._gaussian.base import Update
from jaxvi.solvers._gaussian.full_rank import Dense
from jaxvi.solvers._gaussian.hessian_sparsity import Sparsity
from jaxvi.solvers._gaussian.low_rank import FactorAnalysis
from jaxvi.solvers._gaussian.mean_field import Diagonal


def update_for(family: Family, sparsity: Sparsity | None = None) -> Update:
    """The natural-gradient update of a Gaussian family."""
    if isinstance(family, FullRank):
        return Dense(sparsity)
    if isinstance(family, MeanField):
        return Diagonal(sparsity)
    assert isinstance(family, LowRank)  # the solver's `check` has ensured it
    return FactorAnalysis(family.rank)
