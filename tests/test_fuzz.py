"""What hypothesis draws in tests/fuzzing.py, in processes of its own."""

import pytest
from programs import run_program

GROUPS = ("arguments", "specs", "calls", "supports", "targets", "data", "densities", "gaussians")


@pytest.mark.parametrize(
    ("groups", "number"),
    [
        ("arguments,specs,calls,data", "few"),
        ("supports,targets,densities,gaussians", "few"),
        *(pytest.param(group, "all", marks=pytest.mark.long) for group in GROUPS),
    ],
)
def test_what_comes_in_at_random(groups: str, number: str) -> None:
    """A right answer, or an error that says what was expected and what came."""
    done = run_program("fuzzing.py", groups, number)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-8_000:]
