"""Nested Laplace: a few hyperparameters by importance sampling, the latents by Laplace's method."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Key

from jaxvi._numerics import fold_in
from jaxvi._sampling import Approximation
from jaxvi._types import Data
from jaxvi.diagnostics import MIN_RELATIVE_ESS
from jaxvi.hierarchical import Nested, NestedLaplace, find_hyperparameters, nested_laplace
from jaxvi.results import Fit

_UP_TO = 256  # dimensions: Hessians of all others, at some thousand values
_FEW_VALUES = 0.1  # efficiency of values of the hyperparameters, below which they tell nothing


class ConditionalLaplace(NamedTuple):
    """What came of it: the approximation, whether it is taken, and a note for the log."""

    nested: Nested | None
    taken: bool
    note: str


def given_hyperparameters(
    key: Key[Array, ""],
    gauss: Fit,
    data: Data,
    least: float,
    flow_up_to: int,
    go_on: Callable[[], bool],
) -> ConditionalLaplace | None:
    """The nested Laplace approximation from a dense Gaussian fit; None where nothing drives.

    It is left where its bound is below `least`, as where the density has kinks, and where a flow
    does better than so uneven weights.
    """
    target, dim = gauss.setup.target, gauss.setup.target.dim
    if dim > _UP_TO:
        return None
    phi = gauss.lane(gauss.best).phi
    hyperparameters = find_hyperparameters(fold_in(key, 2), target, phi, data)
    if not hyperparameters.size:
        return None
    nested = nested_laplace(fold_in(key, 8), target, phi, hyperparameters, data, go_on=go_on)
    names = [target.coordinate_names()[i] for i in hyperparameters]
    given = "given " + ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    if nested is None or nested.of_values.relative_ess < _FEW_VALUES:
        return ConditionalLaplace(None, False, f"{given}: the others are far from Gaussian")
    weighed = nested.weighed
    flow_serves = dim <= flow_up_to and weighed.relative_ess < MIN_RELATIVE_ESS
    taken = weighed.bound >= least and not flow_serves
    left = "" if taken else "; left"
    note = f"{given}: relative effective sample size {100.0 * weighed.relative_ess:.1f} %{left}"
    return ConditionalLaplace(nested, taken, note)


def approximation_of(fit: Fit, nested: Nested) -> Approximation:
    """q by itself."""
    return Approximation(fit.setup.target, NestedLaplace(fit.setup.target), nested.phi)
