"""What is said of a fit, from plain numbers: never "ok" over what is known to be wrong."""

import math

import pytest

from jaxvi._status import Status
from jaxvi.results._verdict import Errors, Findings, verdict_of

GOOD = Findings(
    status=Status.CONVERGED,
    bound=-10.0,
    bound_mcse=0.01,
    khat=0.2,
    khat_limit=0.7,
    relative_ess=0.98,
    bad_share=0.0,
    lanes_at_best=8,
    lanes=8,
    broken_above=0,
    modes=1,
    rhat=1.0,
    hyperparameters=(),
    errors=Errors((0.0, 0.05), (0.0, 0.05), "weights"),
    corrected="",
    start_correlation=0.0,
    acceptance=1.0,
    eps=2e-16,
    interrupted=False,
)


def off(mean=(0.0, 0.05), log_sd=(0.0, 0.05), by="chains"):
    return Errors(mean, log_sd, by)


@pytest.mark.parametrize(
    ("change", "level", "word"),
    [
        ({}, "ok", "agree"),
        ({"errors": None}, "ok", "k-hat 0.20"),
        ({"bound": math.nan}, "failed", "finite"),
        ({"bound": -math.inf}, "failed", "finite"),
        ({"status": Status.UNBOUNDED}, "failed", Status.UNBOUNDED.text),
        ({"status": Status.SINGULAR}, "failed", Status.SINGULAR.text),
        ({"status": Status.NOT_FINITE}, "failed", Status.NOT_FINITE.text),
        ({"status": Status.STEP_LIMIT}, "caution", Status.STEP_LIMIT.text),
        ({"status": Status.STALLED}, "caution", Status.STALLED.text),
        ({"errors": off(mean=(0.3, 0.5))}, "failed", "polish=True"),
        ({"errors": off(log_sd=(0.3, 0.5)), "corrected": "chains"}, "failed", "effort"),
        ({"errors": off(mean=(0.0, 0.3))}, "caution", "ruled out"),
        ({"errors": off(log_sd=(0.0, 0.3))}, "caution", "ruled out"),
        ({"errors": None, "khat": 0.9}, "caution", "k-hat is 0.90"),
        ({"errors": None, "khat": math.inf}, "caution", "k-hat"),
        ({"errors": None, "relative_ess": 0.1}, "caution", "sample size is only 10.0 %"),
        ({"bad_share": 0.001}, "caution", "not finite at 0.1 %"),
        ({"lanes_at_best": 1}, "caution", "only one of 8"),
        ({"lanes_at_best": 1, "lanes": 1}, "ok", "1 of 1"),
        ({"broken_above": 1}, "caution", "1 of 8 restarts ended higher"),
        ({"modes": 2}, "caution", "2 separate modes"),
        ({"start_correlation": 0.6}, "caution", "remember"),
        ({"acceptance": 0.1}, "caution", "accept only 10 %"),
        ({"eps": 1e-7, "bound": -1e6}, "caution", "float64"),
        ({"interrupted": True}, "caution", "interrupted"),
        ({"rhat": 1.5}, "caution", "R-hat 1.50"),
        ({"rhat": math.nan}, "caution", "R-hat"),
        (
            {"hyperparameters": ("tau",), "corrected": "chains"},
            "caution",
            "the unconstrained tau set",
        ),
        ({"hyperparameters": ("tau",)}, "ok", "agree"),
        ({"eps": 1e-7, "start_correlation": 0.6}, "caution", "float64"),
    ],
)
def test_each_finding_has_its_level_and_its_words(change, level, word):
    """One change of a good fit at a time."""
    found = verdict_of(GOOD._replace(**change))
    assert found.level == level
    assert word in " ".join(found.reasons)


def test_the_gravest_comes_first_and_all_are_told():
    """A failure and two cautions."""
    found = verdict_of(GOOD._replace(status=Status.UNBOUNDED, bad_share=0.1, modes=3))
    assert found.level == "failed"
    assert Status.UNBOUNDED.text in found.reasons[0]
    assert len(found.reasons) == 3


def test_errors_that_are_not_numbers_are_not_ok():
    """Chains that saw only NaN have ruled nothing out."""
    nan = (math.nan, math.nan)
    assert verdict_of(GOOD._replace(errors=off(mean=nan))).level != "ok"
    assert verdict_of(GOOD._replace(errors=off(log_sd=nan))).level != "ok"
    assert verdict_of(GOOD._replace(khat=math.nan, errors=None)).level != "ok"
