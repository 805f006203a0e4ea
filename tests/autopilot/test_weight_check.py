"""When heavy-tailed draws vouch for a fit."""

import math

import numpy as np
import pytest

from jaxvi.autopilot._weight_check import may_replace
from jaxvi.diagnostics import Drift, ImportanceWeights


def weighing(efficiency, khat, bad_share=0.0):
    """What so good weights say."""
    nothing = np.zeros(1)
    drift = Drift(nothing, nothing, nothing, nothing, nothing, np.ones(1, bool))
    rows = np.zeros((1, 1))
    return ImportanceWeights(
        rows, rows, nothing, khat, 0.7, efficiency, 0.0, math.nan, bad_share, drift, drift
    )


GOOD, TAILED, ALIKE, EVEN, POOR = (
    weighing(0.8, 0.3),
    weighing(0.5, 0.9),
    weighing(0.97, 1.2),
    weighing(0.97, 0.4),
    weighing(0.3, 0.4),
)


@pytest.mark.parametrize(
    ("own", "tails", "told"),
    [
        (GOOD, weighing(0.8, 0.6), True),
        (GOOD, weighing(0.8, 0.8), False),  # a tail that draws don't reach
        (GOOD, weighing(0.7, 0.1), False),
        (TAILED, weighing(0.8, 0.4), True),  # the tail of q's own weights is one that ends
        (TAILED, weighing(0.8, 0.6), False),
        (ALIKE, weighing(0.4, 0.4), True),
        (ALIKE, weighing(0.92, 0.6), False),  # both have seen a tail
        (EVEN, weighing(0.4, 0.6), True),
        (EVEN, weighing(0.4, 0.8), False),
        (POOR, weighing(0.76, 0.2), True),
        (GOOD, weighing(0.8, 0.3, bad_share=0.02), False),
    ],
)
def test_heavier_draws_vouch_by_their_own_weights(own, tails, told):
    """Even ones without a tail; less even where q's own are all alike."""
    assert may_replace(own, tails) is told
