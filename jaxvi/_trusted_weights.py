"""When importance weights vouch for draws, and which draws they then give."""

from typing import TypeAlias

from jaxvi._polish import is_small
from jaxvi._tree import on_device
from jaxvi.diagnostics import Weighing
from jaxvi.diagnostics._weighing import ALIKE, LEAST_EFFICIENCY
from jaxvi.result import Stock, errors_of
from jaxvi.verdict import Errors

Told: TypeAlias = tuple[Stock | None, Errors]  # None where q's plain draws serve

_EVEN = 0.75  # importance efficiency of heavier draws
_GOOD_KHAT = 0.5  # of q's own draws; of heavier ones, where q's own are above it
_FEW_BAD = 0.01  # share of them that may be lost


def can_tell(weighed: Weighing, tails: Weighing) -> bool:
    """Whether heavier draws tell marginals, by less of a q whose own weights are alike.

    Where q's own weights have a tail that condemns them, though next to nothing be in it, these
    must have none at all.
    """
    alike = weighed.efficiency >= ALIKE
    limit = tails.khat_limit if weighed.khat <= _GOOD_KHAT else _GOOD_KHAT
    even = tails.efficiency >= (LEAST_EFFICIENCY if alike else _EVEN)
    # so far out densities may overflow, which is for these draws to see and not for q's
    return even and tails.khat <= limit and tails.bad_share < _FEW_BAD


def by_weights(weighed: Weighing) -> Told:
    """Plain draws where weights would change nothing that matters, else weighted ones."""
    if is_small(weighed.drift):
        return None, errors_of(weighed.drift, "weights")
    return weighted(weighed), errors_of(weighed.error, "weights")


def weighted(weighed: Weighing) -> Stock:
    """Draws with their weights."""
    return Stock(on_device(weighed.z), on_device(weighed.log_weights), "weights")
