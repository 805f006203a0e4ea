"""Numbers that are chosen where none are given."""

import numpy as np

from jaxvi._fitting.arguments import default_draws


def test_fewer_draws_where_rows_are_many():
    """By which lanes are ranked: two thousand, fewer for a million rows, 64 at least."""
    few, many = np.zeros(1_000), np.broadcast_to(np.zeros(1), 1_000_000)
    assert default_draws(few, 8) == 2_000
    assert default_draws(many, 8) == 2**31 // 8_000_000
    assert default_draws(many, 1_000) == 64
