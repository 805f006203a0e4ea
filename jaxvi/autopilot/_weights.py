"""When importance weights vouch for draws, and which draws they then give."""

from typing import TypeAlias

from jaxvi._numerics import on_device
from jaxvi.diagnostics import MIN_RELATIVE_ESS, UNIFORM_RELATIVE_ESS, ImportanceWeights, is_small
from jaxvi.hierarchical import Nested
from jaxvi.results import CorrectedDraws, Errors, errors_of

Told: TypeAlias = tuple[CorrectedDraws | None, Errors]  # None where q's plain draws serve
_QUADRATIC = 0.999  # relative effective sample size
_MANY_VALUES = 0.5  # likewise, of the values of hyperparameters
_EVEN = 0.75  # relative effective sample size of heavier draws
_GOOD_KHAT = 0.5  # of q's own draws; of heavier ones, where q's own are above it
_FEW_BAD = 0.01  # share of them that may be lost


def can_tell(weighed: ImportanceWeights, tails: ImportanceWeights) -> bool:
    """Whether heavier draws tell marginals, by less of a q whose own weights are alike.

    Where q's own weights have a tail that condemns them, though next to nothing be in it, these
    must have none at all.
    """
    alike = weighed.relative_ess >= UNIFORM_RELATIVE_ESS
    limit = tails.khat_limit if weighed.khat <= _GOOD_KHAT else _GOOD_KHAT
    even = tails.relative_ess >= (MIN_RELATIVE_ESS if alike else _EVEN)
    # so far out densities may overflow, which is for these draws to see and not for q's
    return even and tails.khat <= limit and tails.bad_share < _FEW_BAD


def by_nested_weights(nested: Nested) -> Told | None:
    """Draws of a nested Laplace approximation that is exact but for so many values; None if not.

    Where log p is quadratic in the others, weights are all alike wherever these are. Where it
    isn't, weights see only where the conditionals have mass, and chains had better look.
    """
    quadratic = nested.weighed.relative_ess >= _QUADRATIC and nested.weighed.bad_share == 0.0
    if not quadratic or nested.of_values.relative_ess < _MANY_VALUES:
        return None
    return weighted(nested.of_values), errors_of(nested.of_values.error, "weights")


def by_weights(weighed: ImportanceWeights) -> Told:
    """Plain draws where weights would change nothing that matters, else weighted ones."""
    if is_small(weighed.drift):
        return None, errors_of(weighed.drift, "weights")
    return weighted(weighed), errors_of(weighed.error, "weights")


def weighted(weighed: ImportanceWeights) -> CorrectedDraws:
    """Draws with their weights."""
    return CorrectedDraws(on_device(weighed.z), on_device(weighed.log_weights), "weights")
