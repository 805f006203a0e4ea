"""Hierarchical models: hyperparameters, non-centring, nested Laplace approximations."""

from jaxvi.hierarchical._hyperparameters import driver_names, find_drivers
from jaxvi.hierarchical._nested_family import NestedLaplace
from jaxvi.hierarchical._nested_hmc import nested_movement as nested_movement
from jaxvi.hierarchical._nested_laplace import Nested, nested_laplace
from jaxvi.hierarchical._noncentering import find_noncentering

__all__ = [
    "Nested",
    "NestedLaplace",
    "driver_names",
    "find_drivers",
    "find_noncentering",
    "nested_laplace",
]
