"""The default call on posteriors with known answers, beside single solvers, peers and NUTS."""

import argparse
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import _sections
from benchmarks._sections import Command, Methods, Rows, Wanted
from benchmarks.accuracy import _picture as picture
from benchmarks.accuracy import _report as report
from benchmarks.accuracy._numbers import DRAWN

HELP = "the default call on posteriors with known answers: errors, verdicts, seconds beside NUTS"
_LONG = 20.0  # seconds of a run that is timed warm only once


@dataclass(frozen=True)
class Plan:
    """How much to measure. A method that starts from another's result must come after it."""

    small: tuple[str, ...] = ()
    small_methods: tuple[str, ...] = (
        "default",
        "natural_gradient",
        "flow",
        "batch_and_match",
        "paths",
        "paths_resampled",
        "frozen_full",
        "frozen_mean_field",
        "linear_response",
        "laplace",
        "numpyro_dense_at_mode",
        "numpyro_dense",
        "numpyro_flow_at_mode",
        "numpyro_flow",
        "blackjax_paths",
        "blackjax_path",
        "nuts",
        "nuts_run",
    )
    large: tuple[str, ...] = ()
    large_methods: tuple[str, ...] = (
        "default",
        "natural_gradient",
        "batch_and_match",
        "paths",
        "paths_resampled",
        "frozen_mean_field",
        "linear_response",
        "laplace",
        "numpyro_dense_at_mode",
        "blackjax_paths",
        "nuts",
        "nuts_run",
        "nuts_run_2",
        "nuts_run_4",
        "nuts_run_8",
    )
    float32: tuple[str, ...] = ()
    cold: tuple[str, ...] = ()
    cold_methods: tuple[str, ...] = ("default", "nuts_run", "nuts")
    cold_repeats: int = 3
    warm: int = 3
    optimise_counts: bool = True  # of the larger ones, whose runs are longer than compiling
    chain_steps: tuple[int, int] = (1_000, 1_000)  # warming up, drawing


_FEW = ("default", "natural_gradient", "nuts")
QUICK = Plan(
    small=("earnings__earn_height", "kidiq__kidscore_momhs"),
    small_methods=_FEW,
    large=("synthetic__two_modes10",),
    large_methods=_FEW,
    float32=("kidiq__kidscore_momhs",),
    cold=("earnings__earn_height",),
    cold_methods=("default", "nuts"),
    cold_repeats=1,
    warm=1,
    optimise_counts=False,
    chain_steps=(200, 200),
)


def _plan(quick: bool) -> Plan:
    from benchmarks import posteriors

    if quick:
        return QUICK
    small, large = posteriors.names("small"), posteriors.names("large")
    return replace(Plan(), small=small, large=large, float32=(*small, *large), cold=small)


def _methods(plan: Plan) -> Methods:
    """Those of the plan, in its order."""
    from benchmarks.accuracy._methods import methods

    there = methods(plan.chain_steps)
    names = dict.fromkeys((*plan.small_methods, *plan.large_methods, "default"))
    return {name: there[name] for name in names}


def _rows(
    plan: Plan, wanted: Wanted, names: tuple[str, ...], methods: tuple[str, ...], large: bool
) -> Rows:
    from benchmarks import posteriors
    from benchmarks._measure import Effort, measure
    from benchmarks._methods import Task
    from benchmarks.accuracy._methods import judge_posterior

    optimise = large and plan.optimise_counts
    effort = Effort(plan.warm, optimise_counts=optimise, drawn=DRAWN, long=_LONG)
    for row in names:
        chosen = wanted.names(row, methods)
        if not chosen:
            continue
        posterior = posteriors.load(row)
        task = Task(row, posterior.target, posterior.data)
        judge = judge_posterior(posterior, effort.draws)
        for name, cell in measure(chosen, task, judge, effort, wanted.methods):
            COMMAND.say(f"{row}, {name}: {words(cell)}")
            yield row, {name: cell}


def words(cell: dict[str, Any]) -> str:
    """What came of a cell, for the log."""
    found = cell.get("raised") or cell["status"]
    if "mean_error" in cell:
        found += f", {cell['mean_error']:.3f} sd, {100 * cell['sd_error']:.1f} %"
    if "verdict" in cell:
        found += f", {cell['verdict']}"
    return f"{found}, {cell['cold_seconds']:.1f} s" if "cold_seconds" in cell else found


def _small(plan: Plan, wanted: Wanted) -> Rows:
    return _rows(plan, wanted, plan.small, plan.small_methods, large=False)


def _large(plan: Plan, wanted: Wanted) -> Rows:
    return _rows(plan, wanted, plan.large, plan.large_methods, large=True)


def _float32(plan: Plan, wanted: Wanted) -> Rows:
    """The default call alone, on data cast to float32, cold."""
    import jax

    for row in plan.float32:
        if not wanted.names(row, ("default",)):
            continue
        with jax.enable_x64(False):  # not across the yield, which is the writer's
            cells = _in_float32(row, wanted.methods)
        COMMAND.say(f"{row}, float32: {words(cells['default'])}")
        yield row, cells


def _cold(plan: Plan, wanted: Wanted) -> Rows:
    """First calls, each in a process of its own."""
    from benchmarks.accuracy._cold import measure_cold

    for row in plan.cold:
        names = wanted.names(row, plan.cold_methods)
        if not names:
            continue
        cells = measure_cold(row, names, plan.cold_repeats, plan.chain_steps)
        for name, cell in cells.items():
            COMMAND.say(f"{row}, {name}: {cell.get('raised') or cell['cold_seconds']}")
        yield row, cells


def _in_float32(row: str, methods: Methods) -> dict[str, Any]:
    import jax
    import numpy as np

    from benchmarks import posteriors
    from benchmarks._measure import Effort, measure
    from benchmarks._methods import Task
    from benchmarks.accuracy._methods import judge_posterior

    def cast(leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        return leaf.astype(np.float32) if np.issubdtype(leaf.dtype, np.floating) else leaf

    posterior = posteriors.load(row)
    task = Task(row, posterior.target, jax.tree.map(cast, posterior.data))
    effort = Effort(warm=0, drawn=DRAWN, counts=False)
    judge = judge_posterior(posterior, effort.draws)
    return dict(measure(("default",), task, judge, effort, methods))


COMMAND = Command(
    name="posteriors",
    quick="three posteriors and few methods",
    sections={"small": _small, "large": _large, "float32": _float32, "cold": _cold},
    plan=_plan,
    methods=_methods,
    render=report.render,
    picture=picture.draw,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `posteriors`."""
    _sections.add_arguments(parser, COMMAND)


def run(args: argparse.Namespace) -> int:
    """Measure, write after every cell, print, draw."""
    return _sections.run(args, COMMAND)
