"""Agreement of restarts: lanes are grouped by bounds that cannot be told apart."""

import numpy as np
import pytest

from jaxvi.diagnostics import Agreement, agreement

NAN, INF = np.nan, np.inf


def grouped(bounds: list[float], mcse: float | list[float] = 0.0, tolerance: float = 0.2) -> tuple:
    found = agreement(np.array(bounds), np.broadcast_to(mcse, len(bounds)) * 1.0, tolerance)
    assert isinstance(found, Agreement)
    return found.optimum.tolist(), found.sizes.tolist(), found.bounds.tolist()


@pytest.mark.parametrize(
    ("bounds", "optimum", "sizes", "top"),
    [
        ([-1.0, -5.0, -1.05], [0, 1, 0], [2, 1], [-1.0, -5.0]),
        ([-3.0], [0], [1], [-3.0]),
        ([-7.5, -7.5, -7.5], [0, 0, 0], [3], [-7.5]),  # ties
        ([-9.0, -2.0, -9.1, -2.1, -30.0], [1, 0, 1, 0, 2], [2, 2, 1], [-2.0, -9.0, -30.0]),
        ([120.0, 119.7, 119.9], [0, 1, 0], [2, 1], [120.0, 119.7]),
        ([NAN, -4.0, NAN, -4.1], [-1, 0, -1, 0], [2], [-4.0]),
        ([-INF, -4.0, INF], [-1, 0, -1], [1], [-4.0]),
        ([NAN, NAN], [-1, -1], [], []),
        ([NAN], [-1], [], []),
        # steps of 0.15: the third is 0.3 below the best one's bound, so it starts its own group
        ([0.0, -0.15, -0.3, -0.45], [0, 0, 1, 1], [2, 2], [0.0, -0.3]),
    ],
)
def test_groups(bounds: list[float], optimum: list, sizes: list, top: list) -> None:
    """A group is what lies within the tolerance of its best bound; failed lanes have none."""
    assert grouped(bounds) == (optimum, sizes, top)


def test_a_lane_whose_bound_is_told_badly_does_not_agree() -> None:
    """1,000 nats below with a standard error of 500 is a lane that failed, not one at the best."""
    assert grouped([-1.0, -1.1, -1001.0], [0.0, 0.1, 500.0])[1] == [2, 1]


def test_noise_widens_a_group() -> None:
    """A lane 1 nat below is told apart at standard error 0.25, and not at 0.28."""
    assert grouped([-1.0, -2.0], 0.25)[0] == [0, 1]
    assert grouped([-1.0, -2.0], 0.28)[0] == [0, 0]
    assert grouped([-1.0, -2.0], [9.0, 0.0])[0] == [0, 1]  # its own error counts, not the best's


def test_a_noisy_lane_belongs_to_the_best_group_it_may_be_in() -> None:
    """Lane 2 reaches the best optimum within its error, whatever group lies between."""
    assert grouped([0.0, -1.0, -1.1], [0.0, 0.0, 1.0])[0] == [0, 1, 0]


def test_tolerance_is_inclusive_and_can_be_zero() -> None:
    """At tolerance 0 only equal bounds agree; a distance equal to the tolerance agrees."""
    assert grouped([-1.0, -1.0, -1.5], tolerance=0.0) == ([0, 0, 1], [2, 1], [-1.0, -1.5])
    assert grouped([-1.0, -1.5], tolerance=0.5)[0] == [0, 0]


def test_groups_follow_a_permutation_of_lanes() -> None:
    """Permuting lanes permutes their groups and changes nothing else."""
    rng = np.random.default_rng(2)
    bounds = np.concatenate([rng.normal(-3.0, 0.01, 5), rng.normal(-8.0, 0.01, 4), [NAN, -INF]])
    order = rng.permutation(len(bounds))
    first = agreement(bounds, np.zeros(len(bounds)))
    second = agreement(bounds[order], np.zeros(len(bounds)))
    np.testing.assert_array_equal(second.optimum, first.optimum[order])
    np.testing.assert_array_equal(second.sizes, first.sizes)
    np.testing.assert_array_equal(second.bounds, first.bounds)
    assert first.sizes.sum() == np.isfinite(bounds).sum()
    assert (np.diff(first.bounds) < 0).all()


def test_shifting_every_bound_changes_no_group(rng: np.random.Generator) -> None:
    """Only differences count: a constant in the log density is no evidence."""
    bounds = rng.normal(size=12)
    error = rng.uniform(0.0, 0.2, size=12)
    shifted = agreement(bounds + 1024.0, error)
    np.testing.assert_array_equal(shifted.optimum, agreement(bounds, error).optimum)


def test_single_precision_lanes() -> None:
    """Bounds in float32, as lanes give them, are grouped as in float64."""
    bounds = np.array([-1.0, -5.0, NAN, -1.05], np.float32)
    assert agreement(bounds, np.zeros(4, np.float32)).optimum.tolist() == [0, 1, -1, 0]
