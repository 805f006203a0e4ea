"""Hierarchical models: hyperparameters, non-centring, nested Laplace approximations."""

from jaxvi.hierarchical._hyperparameters import find_hyperparameters, hyperparameter_names
from jaxvi.hierarchical._nested_family import NestedLaplace, NestedLaplaceParams
from jaxvi.hierarchical._nested_hmc import nested_short_chains as nested_short_chains
from jaxvi.hierarchical._nested_laplace import Nested, nested_laplace
from jaxvi.hierarchical._noncentering import find_noncentering

__all__ = [
    "Nested",
    "NestedLaplace",
    "NestedLaplaceParams",
    "find_hyperparameters",
    "find_noncentering",
    "hyperparameter_names",
    "nested_laplace",
]
