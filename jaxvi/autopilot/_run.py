"""The default call: runs a sequence of stages, and makes a `Fit` of the last state."""

import time
from dataclasses import replace
from typing import Any

from jaxvi._compilation import compile_clock, one_thread
from jaxvi._engine import Reporter
from jaxvi._fitting import Request
from jaxvi._persistence import Checkpoints
from jaxvi.autopilot._base import Context, State
from jaxvi.autopilot._default import default_stages
from jaxvi.autopilot._separation import lanes_within, moments_rhat
from jaxvi.results import Findings, Fit, Timing, findings_of


@one_thread()
def run_stages(
    request: Request,
    *,
    max_seconds: float | None = None,
    progress: bool | Reporter | None = None,
    checkpoints: Checkpoints | None = None,
) -> Fit:
    """Run those stages of a request that apply, while there is time.

    Raises:
        TypeError, ValueError: data or starts that don't fit the target, or a log density that is
            not finite at any start.
        RuntimeError: stages none of which gave restarts.
    """
    began = time.perf_counter()
    stages = request.stages or default_stages(request.effort, polish=request.polish)
    with compile_clock() as clock:
        context = Context(request, stages, [], clock, began, max_seconds, progress, checkpoints)
        state = _loop(context, State())
        fit = _outcome(state)
    seconds = time.perf_counter() - began
    timing = Timing(clock.seconds, max(seconds - clock.seconds, 0.0), seconds)
    return replace(fit, timing=timing, log=tuple(context.log), key=request.key)


def _loop(context: Context, state: State) -> State:
    """Run stages in order; an interrupt in one of them keeps the state from before it."""
    for stage in context.stages:
        if not stage.applies(state):
            continue
        if not stage.is_brief and (state.interrupted or not context.in_time()):
            state = replace(state, skipped=(*state.skipped, stage.name))
            continue
        try:
            state = stage.run(context, state)
        except KeyboardInterrupt:
            if state.restarts is None:
                raise
            state = replace(state, interrupted=True, skipped=(*state.skipped, stage.name))
    return state


def _outcome(state: State) -> Fit:
    """The fit of the last state, with its draws and findings."""
    if state.restarts is None:
        raise RuntimeError(
            "stages: expected one that gives restarts, such as jaxvi.autopilot.Gaussian(); got "
            "none; try jaxvi.autopilot.default_stages()."
        )
    stopped = state.restarts.interrupted or state.interrupted
    fit = replace(state.fit, corrected_draws=state.draws, interrupted=stopped)
    if state.weights is not None:
        return replace(fit, findings=_findings(state, fit))
    return fit if state.usable else replace(fit, findings=findings_of(fit))


def _findings(state: State, fit: Fit) -> Findings:
    """The findings of all stages, from which the verdict follows."""
    found = findings_of(state.fit, state.weights)
    # if q is not the restarts' Gaussian, their agreement says nothing about it
    rhat = moments_rhat(fit) if state.q is None else 1.0
    changes: dict[str, Any] = {"modes": state.num_modes, "rhat": rhat}
    if state.nested is not None:
        alike = lanes_within(fit, float(found.bound - fit.bounds[fit.best]))
        changes["lanes_at_best"] = max(alike, found.lanes_at_best)
    if state.errors is not None:
        by = "" if state.draws is None or state.draws.by == "q" else state.draws.by
        changes |= {"errors": state.errors, "corrected": by}
    elif state.skipped:
        changes["interrupted"] = True
    if state.chains_ran:
        changes["start_correlation"] = state.start_correlation
        changes["acceptance"] = state.acceptance
        changes["hyperparameters"] = state.hyperparameters
    return found._replace(**changes)
