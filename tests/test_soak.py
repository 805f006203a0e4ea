"""A process that fits over and over doesn't grow."""

import json
import sys

import pytest
from programs import run_program

# `python tests/soaking.py 10000` takes some minutes; a part of it shows what grows with each fit
NUMBER, DATA_SETS = 200, 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_fits_leave_nothing_behind(long: bool) -> None:
    """Solvers, pools, checkpoints, batches, streams and the estimator in turn."""
    numbers = ("1000",) if long else (str(NUMBER), str(DATA_SETS))
    done = run_program("soaking.py", *numbers)
    assert done.returncode == 0, done.stderr[-4_000:]
    early, late = map(json.loads, done.stdout.splitlines())
    assert late["compiled"] == early["compiled"] > 0
    assert late["threads"] == early["threads"]
    assert late["files"] <= early["files"]
    assert late["mappings"] <= early["mappings"] + 50
    assert late["MiB"] < early["MiB"] + 25
