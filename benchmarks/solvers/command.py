"""Solvers on posteriors with known answers: errors, evaluations, seconds, statuses."""

import argparse
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import _sections
from benchmarks._sections import Command, Methods, Rows, Wanted
from benchmarks.solvers import _report as report

HELP = "solvers on posteriors with known answers: errors, evaluations, seconds, statuses"
_PEERS = (
    "blackjax_path",
    "blackjax_paths",
    "numpyro_normal_at_mode",
    "numpyro_normal",
    "numpyro_dense_at_mode",
    "numpyro_dense",
)
_LARGE_STEPS = 3_000


@dataclass(frozen=True)
class Plan:
    """How much to measure. A method that starts from another's result must come after it."""

    dim: int = 30
    gaussian: tuple[str, ...] = (
        "laplace",
        "numpyro_dense_at_mode",
        "natural_gradient",
        "batch_and_match",
        "batch_and_match_laplace",
        "paths",
        "frozen_full",
        "adam_full",
        "laplace_mean_field",
        "natural_gradient_mean_field",
        "frozen_mean_field",
        "linear_response",
        "adam_mean_field",
    )
    small: tuple[str, ...] = ()
    small_methods: tuple[str, ...] = (
        "natural_gradient",
        "flow",
        "laplace",
        "batch_and_match",
        "batch_and_match_laplace",
        "paths",
        "paths_resampled",
        "frozen_full",
        "frozen_mean_field",
        "linear_response",
        "adam_full",
        "adam_mean_field",
        *_PEERS,
    )
    lane_posteriors: tuple[str, ...] = (
        "kidiq__kidscore_interaction",
        "arK__arK",
        "mesquite__mesquite",
    )
    lane_methods: tuple[str, ...] = (
        "natural_gradient",
        "batch_and_match",
        "laplace",
        "path",
        "frozen_full",
        "frozen_mean_field",
        "adam_full",
        "adam_mean_field",
    )
    lanes: int = 64
    large: tuple[str, ...] = ()
    large_methods: tuple[str, ...] = (
        "natural_gradient",
        "batch_and_match",
        "batch_and_match_low_rank",
        "frozen_mean_field",
        "linear_response",
        "paths",
    )
    bad: tuple[str, ...] = ()
    bad_solvers: tuple[str, ...] = ()
    bad_lanes: int = 4
    warm: int = 3


QUICK = Plan(
    dim=6,
    gaussian=("natural_gradient",),
    small=("earnings__earn_height", "kidiq__kidscore_momhs", "kilpisjarvi_mod__kilpisjarvi"),
    small_methods=("natural_gradient",),
    lane_posteriors=("earnings__earn_height",),
    lane_methods=("laplace",),
    lanes=8,
    large=("synthetic__two_modes10",),
    large_methods=("laplace",),
    bad=("constant",),
    bad_solvers=("Laplace",),
    warm=1,
)


def full_plan() -> Plan:
    """Everything."""
    from benchmarks import posteriors
    from benchmarks.solvers._cases import BAD, SOLVERS

    return replace(
        Plan(),
        small=posteriors.names("small"),
        large=posteriors.names("large"),
        bad=tuple(case.name for case in BAD),
        bad_solvers=tuple(SOLVERS),
    )


def _plan(quick: bool) -> Plan:
    return QUICK if quick else full_plan()


def _methods(plan: Plan) -> Methods:
    from benchmarks._measure import ALL

    return ALL


def _gaussian(plan: Plan, wanted: Wanted) -> Rows:
    from benchmarks._measure import Effort, measure
    from benchmarks._methods import Outcome, Task
    from benchmarks.solvers._cases import gaussian

    problem = gaussian(plan.dim)

    def judge(outcome: Outcome) -> dict[str, Any]:
        if outcome.moments is None:
            return {}
        mean, covariance = outcome.moments()
        found = problem.errors(mean, covariance)
        best = replace(problem, covariance=problem.mean_field).errors(mean, covariance)
        gap = found["kl"] - problem.errors(problem.mean, problem.mean_field)["kl"]
        return {**found, "mean_field": {**best, "bound_gap": gap}}

    task = Task("gaussian", problem.target, problem.data)
    names = wanted.names("gaussian", plan.gaussian)
    for name, cell in measure(names, task, judge, Effort(plan.warm)):
        COMMAND.say(f"gaussian, {name}: {cell['status']}")
        yield "gaussian", {name: cell}


def _posteriors(
    plan: Plan, wanted: Wanted, names: tuple[str, ...], methods: tuple[str, ...], large: bool
) -> Rows:
    from benchmarks import posteriors
    from benchmarks._measure import Effort, judge_posterior, measure
    from benchmarks._methods import Task

    effort = Effort(warm=0, optimise_counts=True) if large else Effort(plan.warm)
    for row in names:
        chosen = wanted.names(row, methods)
        if not chosen:
            continue
        posterior = posteriors.load(row)
        steps = _LARGE_STEPS if large else Task.max_steps
        task = Task(row, posterior.target, posterior.data, max_steps=steps)
        judge = judge_posterior(posterior, effort.draws)
        for name, cell in measure(chosen, task, judge, effort):
            COMMAND.say(f"{row}, {name}: {cell['status']}")
            yield row, {name: cell}


def _small(plan: Plan, wanted: Wanted) -> Rows:
    return _posteriors(plan, wanted, plan.small, plan.small_methods, large=False)


def _large(plan: Plan, wanted: Wanted) -> Rows:
    return _posteriors(plan, wanted, plan.large, plan.large_methods, large=True)


def _lanes(plan: Plan, wanted: Wanted) -> Rows:
    from benchmarks.solvers._lanes import many_lanes

    for row in plan.lane_posteriors:
        for name in wanted.names(row, plan.lane_methods):
            cell = many_lanes(row, name, plan.lanes, plan.warm)
            COMMAND.say(f"{row}, {name}, {plan.lanes} lanes: {cell.get('raised', 'done')}")
            yield row, {name: cell}


def _bad(plan: Plan, wanted: Wanted) -> Rows:
    from benchmarks.solvers._lanes import bad_input

    for row in plan.bad:
        for name in wanted.names(row, plan.bad_solvers):
            cell = bad_input(row, name, plan.bad_lanes)
            COMMAND.say(f"{row}, {name}: {cell}")
            yield row, {name: cell}


COMMAND = Command(
    name="solvers",
    quick="three posteriors and few solvers",
    sections={
        "gaussian": _gaussian,
        "lanes": _lanes,
        "bad": _bad,
        "small": _small,
        "large": _large,
    },
    plan=_plan,
    methods=_methods,
    render=report.render,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `solvers`."""
    _sections.add_arguments(parser, COMMAND)


def run(args: argparse.Namespace) -> int:
    """Measure, write after every cell, print."""
    return _sections.run(args, COMMAND)
