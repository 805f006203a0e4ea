"""A process that fits over and over doesn't grow."""

import json
import sys

import pytest
from programs import run_program

# `python tests/soaking.py 10000` takes some minutes; a tenth of it shows what grows with each fit
NUMBER = 1_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_fits_leave_nothing_behind() -> None:
    """Solvers, pools, checkpoints, batches, streams and the estimator in turn."""
    done = run_program("soaking.py", str(NUMBER))
    assert done.returncode == 0, done.stderr[-4_000:]
    early, late = map(json.loads, done.stdout.splitlines())
    assert late["compiled"] == early["compiled"] > 0
    assert late["threads"] == early["threads"]
    assert late["files"] <= early["files"]
    assert late["mappings"] <= early["mappings"] + 50
    assert late["MiB"] < early["MiB"] + 25
