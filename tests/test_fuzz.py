"""What hypothesis draws in tests/fuzzing.py, each group in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "fuzzing.py"
GROUPS = ("arguments", "specs", "calls", "supports", "targets", "data", "densities", "gaussians")


@pytest.mark.parametrize("group", GROUPS)
def test_what_comes_in_at_random(group: str) -> None:
    """A right answer, or an error that says what was expected and what came."""
    path = os.pathsep.join(filter(None, (str(PROGRAM.parents[1]), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, PROGRAM, group],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-8_000:]
