"""When importance weights vouch for draws, and which draws they then give."""

import jax.numpy as jnp

from jaxvi._polish import is_small
from jaxvi.diagnostics import Weighing
from jaxvi.diagnostics._weighing import LEAST_EFFICIENCY
from jaxvi.result import Stock, errors_of
from jaxvi.verdict import Errors

_EVEN = 0.75  # importance efficiency of heavier draws
_FEW_BAD = 0.01  # share of them that may be lost


def can_tell(tails: Weighing, alike: bool) -> bool:
    """Whether heavier draws tell marginals; of a q whose own weights are `alike` by less.

    One in so many of them is far out in a given coordinate, and weighs as much more where q's tail
    is too short there. That looks like a tail of the weights, but it is one that ends.
    """
    few = tails.efficiency >= LEAST_EFFICIENCY and tails.khat <= tails.khat_limit
    # so far out densities may overflow, which is for these draws to see and not for q's
    return (tails.efficiency >= _EVEN or (alike and few)) and tails.bad_share < _FEW_BAD


def by_weights(weighed: Weighing) -> tuple[Stock | None, Errors]:
    """Plain draws where weights would change nothing that matters, else weighted ones."""
    if is_small(weighed.drift):
        return None, errors_of(weighed.drift, "weights")
    return weighted(weighed), errors_of(weighed.error, "weights")


def weighted(weighed: Weighing) -> Stock:
    """Draws with their weights."""
    return Stock(jnp.asarray(weighed.z), jnp.asarray(weighed.log_weights), "weights")
