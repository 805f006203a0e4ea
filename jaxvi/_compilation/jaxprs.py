"""Equations and array sizes of a jaxpr, nested jaxprs included."""

from collections.abc import Iterator
from typing import Any

import jax


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr and of those nested in it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(equation.params, is_leaf=_is_program):
            if _is_program(parameter):
                yield from equations(getattr(parameter, "jaxpr", parameter))


def largest_array(jaxpr: Any) -> int:
    """Number of elements in the largest array that a program computes."""
    made = [variable.aval for equation in equations(jaxpr) for variable in equation.outvars]
    return max([getattr(aval, "size", 1) for aval in made], default=1)


def _is_program(parameter: Any) -> bool:
    return hasattr(getattr(parameter, "jaxpr", parameter), "eqns")
