"""What hypothesis draws in tests/fuzzing.py, each group in a process of its own."""

import pytest
from programs import run_program

GROUPS = ("arguments", "specs", "calls", "supports", "targets", "data", "densities", "gaussians")


@pytest.mark.parametrize("group", GROUPS)
def test_what_comes_in_at_random(group: str) -> None:
    """A right answer, or an error that says what was expected and what came."""
    done = run_program("fuzzing.py", group)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-8_000:]
