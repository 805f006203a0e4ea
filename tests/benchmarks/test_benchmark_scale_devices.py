"""The weak-scaling benchmark measures what it says."""

import pytest

from benchmarks.scale import _devices as scale


@pytest.mark.slow
def test_it_counts_lanes_a_second(long, monkeypatch):
    """Of one process and two emulated devices, on a problem for a second."""
    if not long:  # five processes more, of which nothing is asked below
        monkeypatch.setattr(scale, "_spread", lambda plan, cores: {})
    plan = scale.Plan(lanes=3, steps=100, rows=50, dim=2, repeats=1)
    found = scale.measure(plan, processes=(1,), devices=(2,))
    assert found["processes"].keys() == {1}
    assert found["devices"].keys() == {2}
    assert "ratio" not in found
    # 100 steps of 3 lanes take no microsecond and no minute
    assert 0.05 < found["processes"][1] < 3e6
