"""Many lanes beside one, and statuses on bad input."""

import statistics
from collections import Counter
from typing import Any

import jax
import numpy as np

import jaxvi
from benchmarks import posteriors
from benchmarks._measure import ALL, Clocked, Scorer, clocked
from benchmarks._methods import Task
from benchmarks.solvers._cases import BAD, SOLVERS
from jaxvi import Status

_BAD_STEPS = 5_000
_DRAWS = 4_000
_WRONG = 0.5  # of the posterior's sd, or relative of the sd


def many_lanes(row: str, name: str, lanes: int, warm: int) -> dict[str, Any]:
    """Seconds of one lane and of many, cold, then warm in turn; how many lanes end well."""
    posterior, method = posteriors.load(row), ALL[name]
    task = Task(row, posterior.target, posterior.data)
    cell: dict[str, Any] = {}
    try:
        jax.clear_caches()
        colds = {num: clocked(method, task, 0, None, num) for num in (1, lanes)}
        times: dict[int, list[float]] = {1: [], lanes: []}
        for seed in range(1, warm + 1):
            for num in times:
                times[num].append(clocked(method, task, seed, None, num).seconds)
        cell = {
            "one": _times(colds[1], times[1]),
            "many": _times(colds[lanes], times[lanes]),
            "lanes": lanes,
            **_ends(posterior, colds[lanes].outcome.fit),
        }
    except Exception as error:
        cell = {"raised": f"{type(error).__name__}: {error}"[:500]}
    return cell


def _times(cold: Clocked, warm: list[float]) -> dict[str, Any]:
    fit = cold.outcome.fit
    assert fit is not None
    return {
        "cold_seconds": cold.seconds,
        "compile_seconds": cold.compile_seconds,
        "warm_seconds": warm,
        "median": statistics.median(warm),
        "steps": int(fit.steps.max()),
    }


def _ends(posterior: posteriors.Posterior, fit: Any) -> dict[str, Any]:
    """Statuses, and how many lanes' means and sds are within the tolerances."""
    scorer, within = Scorer(posterior), 0
    for lane in range(fit.num_restarts):
        z = fit.sample_unconstrained(jax.random.key(lane), _DRAWS, lane=lane)
        within += scorer(z)["within_moments"]
    return {"statuses": _tally(fit.status), "within": within}


def _tally(status: Any) -> dict[str, int]:
    return dict(Counter(Status(int(code)).name for code in np.asarray(status)).most_common())


def bad_input(row: str, name: str, lanes: int) -> dict[str, Any]:
    """Statuses, what was raised, and whether a lane claims to have converged to a wrong answer.

    A sentence of what was expected, before any step, is a refusal; anything else is a fault.
    """
    case = next(case for case in BAD if case.name == row)
    solver, family = SOLVERS[name]
    try:
        fit = jaxvi.fit(
            jax.random.key(0),
            case.target,
            family,
            solver=solver,
            num_restarts=lanes,
            max_steps=_BAD_STEPS,
            progress=False,
            **case.choices,
        )
    except Exception as error:
        door = isinstance(error, TypeError | ValueError) and "expected" in str(error)
        return {"refused" if door else "raised": f"{type(error).__name__}: {error}"[:300]}
    cell: dict[str, Any] = {"statuses": _tally(fit.status), "bound": fit.bound}
    wrong = 0
    for lane in np.flatnonzero(np.asarray(fit.status) == Status.CONVERGED):
        z = np.asarray(fit.sample_unconstrained(jax.random.key(1), _DRAWS, lane=int(lane)))
        errors = _errors(z, case.mean, case.sd)
        cell["errors"] = errors
        wrong += errors is None or not max(errors) < _WRONG
    return {**cell, "wrong": wrong}


def _errors(z: Any, mean: float | None, sd: float | None) -> tuple[float, float] | None:
    """Worst mean in sds and worst sd, relative; None where there is no right answer."""
    if mean is None or sd is None:
        return None
    means, sds = z.mean(axis=0), z.std(axis=0)
    return float(np.max(np.abs(means - mean)) / sd), float(np.max(np.abs(sds / sd - 1.0)))
