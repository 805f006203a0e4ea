"""Status codes: every code says what happened and what to do."""

import re

import jax.numpy as jnp
import pytest

from jaxvi import Status

every = pytest.mark.parametrize("status", list(Status), ids=lambda status: status.name)


@every
def test_every_code_has_a_phrase_and_a_remedy(status: Status) -> None:
    """The text is a phrase without a full stop, the remedy whole sentences that end with one."""
    assert re.fullmatch(r"[a-z][a-z ]*[a-z]", status.text)
    assert re.fullmatch(r"[A-Z].*[^.\s]\.", status.remedy)
    assert "  " not in status.remedy
    assert len(status.remedy) < 250


@every
def test_codes_survive_compiled_arrays(status: Status) -> None:
    """A code goes into an integer array and comes back as itself."""
    array = jnp.full((2,), status)
    assert jnp.issubdtype(array.dtype, jnp.integer)
    assert Status(int(array[1])) is status


def test_codes_are_distinct() -> None:
    """Codes count up from 0 without a gap, and no two share a text; remedies differ by fault."""
    assert [int(status) for status in Status] == list(range(len(Status)))
    assert len({status.text for status in Status}) == len(Status)
    faults = [status for status in Status if not status.ok]
    assert len({status.remedy for status in faults}) == len(faults)


def test_only_convergence_is_ok() -> None:
    """`ok` is true for the one code whose result can be used as it stands."""
    assert [status for status in Status if status.ok] == [Status.CONVERGED]
    assert Status.RUNNING == 0


def test_unknown_codes_are_refused() -> None:
    """An integer that is no code raises."""
    with pytest.raises(ValueError, match="not a valid Status"):
        Status(len(Status))
