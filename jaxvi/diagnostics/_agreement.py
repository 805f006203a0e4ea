"""Agreement of restarts: lanes grouped by the optimum that they reached."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_MAX_MCSE_NATS = 1.0  # of a lane's bound: a larger error counts as this one


class Agreement(NamedTuple):
    """Restarts grouped by the optimum they reached, best first.

    `optimum` is the group of each lane, 0 the best, -1 for lanes without a finite bound; `sizes`
    and `bounds` are the number of lanes and the largest bound of each group.
    """

    optimum: Int[np.ndarray, "lanes"]
    sizes: Int[np.ndarray, "optima"]
    bounds: Float[np.ndarray, "optima"]


def agreement(
    bounds: Float[np.ndarray, "lanes"],
    difference_mcse: Float[np.ndarray, "lanes"],
    tolerance: float = 0.2,
) -> Agreement:
    """Group restarts whose bounds differ by no more than their error.

    A lane belongs to the best group whose largest bound exceeds its own by no more than
    `tolerance + 3 difference_mcse`. An error above 1 nat counts as 1 nat: a lane whose bound is
    known worse than that has failed, and does not agree with the best. Optima are distinguished by
    their bounds. So copies that differ only in the order of exchangeable parameters (the labels of
    a mixture) count as one optimum; so do different optima of equal height.

    Args:
        bounds: bound of every lane, nats; not finite where a lane failed.
        difference_mcse: standard error of each lane's bound minus the best one's, on common
            draws.
        tolerance: nats that optimisation may leave between two lanes at one optimum.

    Example:
        >>> agreement(np.array([-1.0, -5.0, -1.05]), np.zeros(3)).sizes
        array([2, 1])
    """
    optimum = np.full(len(bounds), -1)
    sizes: list[int] = []
    tops: list[float] = []
    for lane in np.argsort(-bounds, kind="stable"):
        if not np.isfinite(bounds[lane]):
            continue
        reach = tolerance + 3.0 * min(difference_mcse[lane], _MAX_MCSE_NATS)
        within = [group for group, top in enumerate(tops) if top - bounds[lane] <= reach]
        if not within:
            within = [len(tops)]
            tops.append(float(bounds[lane]))
            sizes.append(0)
        sizes[within[0]] += 1
        optimum[lane] = within[0]
    return Agreement(optimum, np.asarray(sizes, int), np.asarray(tops, float))
