"""What the benchmark of the posteriors runs: the default call, single solvers, other packages."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
from jaxtyping import Array, Key

import jaxvi
from benchmarks._measure import ALL, Cell, Judge, Scorer
from benchmarks._methods import Method, Outcome, Task
from benchmarks.accuracy._peers import flows, nuts
from benchmarks.posteriors import Posterior, Score
from jaxvi import Status
from jaxvi.results._fit_result import findings_of
from jaxvi.results._verdict import verdict_of

LOOSE = 0.15  # sds, and relative of sds: what the larger posteriors are judged on
_DRAW_KEY = 1_000


def methods(chain_steps: tuple[int, int]) -> Mapping[str, Method]:
    """All rows by name; chains warm up and then draw for so many steps each."""
    stand_in = "frozen Newton, mean field (stands in for DADVI)"
    found = (
        Method("default", "jaxvi.fit, as it comes", _default),
        *(method for name, method in ALL.items() if name not in ("flow", "frozen_mean_field")),
        replace(ALL["flow"], repeats=None),
        replace(ALL["frozen_mean_field"], title=stand_in),
        *flows(),
        *nuts(*chain_steps),
    )
    return {method.name: method for method in found}


def _default(task: Task, key: Key[Array, ""], _: Outcome | None, lanes: int) -> Outcome:
    """What a user types who types nothing else."""
    fit = jaxvi.fit(key, task.target, data=task.data, progress=False)
    status = Status(int(fit.status[fit.best])).name
    return Outcome(fit.sample_unconstrained, status, fit=fit, bound=fit.bound, key=key)


def judge_posterior(posterior: Posterior, draws: int) -> Judge:
    """Errors of the draws; of fits what they say of themselves, and the errors of q alone."""
    scorer = Scorer(posterior)

    def judged(outcome: Outcome) -> Cell:
        assert outcome.draw is not None
        key = jax.random.key(_DRAW_KEY)
        z = outcome.draw(key, draws)
        cell: Cell = {"draws": len(z), **_errors(scorer.score(z))}
        if outcome.facts is not None:
            cell.update(outcome.facts())
        if outcome.fit is not None:
            cell.update(_said(outcome.fit))
            same = outcome.fit.corrected_draws is None
            z = z if same else outcome.fit.q.sample_unconstrained(key, draws)
            cell["q"] = _errors(scorer.score(z))
        return cell

    return judged


def _errors(found: Score) -> Cell:
    means, sds = found.mean_errors <= LOOSE, found.sd_errors <= LOOSE
    loosely = means & (sds | ~found.summary.sd_judged)
    return {
        "mean_error": found.mean_error,
        "sd_error": found.sd_error,
        "w1": found.w1,
        "worst": found.worst,
        "within": found.within,
        "within_loosely": bool(loosely.all()),
        "share": float(found.within_by_coordinate.mean()),
        "share_loosely": float(loosely.mean()),
    }


def _said(fit: jaxvi.Fit) -> dict[str, Any]:
    """Verdict and findings; of a single solver's fit the weights are had here, after its times."""
    seen = fit.findings or findings_of(fit)
    verdict = verdict_of(seen)
    return {
        "verdict": verdict.level,
        "reasons": list(verdict.reasons),
        "khat": seen.khat,
        "efficiency": seen.relative_ess,
        "corrected": seen.corrected,
        "log": [str(stage) for stage in fit.log],
    }
