"""Solvers on posteriors with known answers: errors, evaluations, seconds, statuses."""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import _machine
from benchmarks import _solvers_report as report
from benchmarks._table import write_section

HELP = "solvers on posteriors with known answers: errors, evaluations, seconds, statuses"
HERE = Path(__file__).resolve().parent
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
    from benchmarks._solvers_cases import BAD, SOLVERS

    return replace(
        Plan(),
        small=posteriors.names("small"),
        large=posteriors.names("large"),
        bad=tuple(case.name for case in BAD),
        bad_solvers=tuple(SOLVERS),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `solvers`."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help="three posteriors and few solvers; leaves README.md and results/ alone",
    )
    parser.add_argument(
        "--section",
        action="append",
        choices=tuple(SECTIONS),
        help="measure this section anew and keep the others; may be repeated",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="measure this posterior, case or method anew and keep the rest; may be repeated",
    )
    parser.add_argument("--resume", action="store_true", help="measure only what is missing")
    parser.add_argument(
        "--out", type=Path, help="write here, and not to README.md and results/ of the benchmarks"
    )
    parser.add_argument(
        "--render", type=Path, metavar="JSON", help="measure nothing: report on these results"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, write after every row, print."""
    if args.render:
        results = json.loads(args.render.read_text(encoding="utf-8"))
    else:
        import jax

        if not args.quick:
            jax.config.update("jax_enable_compilation_cache", False)  # cold is cold
        with jax.enable_x64(True):
            results = _measure(args)
    text = report.render(results)
    print(text)
    folder = _folder(args)
    if folder and args.out:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{_name(results)}.md").write_text(text + "\n", encoding="utf-8")
    elif folder:
        write_section(HERE / "README.md", _name(results), text)
    return 0


def _folder(args: argparse.Namespace) -> Path | None:
    return args.out or (None if args.quick else HERE / "results")


def _name(results: dict[str, Any]) -> str:
    return f"solvers-{_machine.label(results['machine'])}"


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """All sections that are asked for, into the results that there are."""
    from benchmarks._solvers_measure import ALL
    from benchmarks._solvers_peers import version

    plan = QUICK if args.quick else full_plan()
    results: dict[str, Any] = {
        "command": "python -m benchmarks solvers" + (" --quick" if args.quick else ""),
        "quick": args.quick,
        "machine": {**_machine.describe(), "blackjax": version("blackjax")},
        "plan": asdict(plan),
        "methods": {name: {"title": m.title, "after": m.after} for name, m in ALL.items()},
        "sections": {},
    }
    folder = _folder(args)
    path = folder / f"{_name(results)}.json" if folder else None
    keep = bool(args.section or args.only or args.resume)
    if keep and path is not None and path.exists():
        results["sections"] = json.loads(path.read_text(encoding="utf-8"))["sections"]
    for name in args.section or SECTIONS:
        section = results["sections"].setdefault(name, {})
        if not (args.only or args.resume):
            section.clear()
        began = time.perf_counter()
        before = section.get("minutes", 0.0) if keep else 0.0
        section["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        rows = section.setdefault("rows", {})
        for row, cells in SECTIONS[name](plan, _Wanted(args, rows)):
            rows.setdefault(row, {}).update(cells)
            section["minutes"] = round(before + (time.perf_counter() - began) / 60, 2)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


@dataclass(frozen=True)
class _Wanted:
    """Which cells are to be measured."""

    args: argparse.Namespace
    rows: dict[str, Any]

    def names(self, row: str, methods: tuple[str, ...]) -> tuple[str, ...]:
        """Methods of a row that are asked for, with those that they start from."""
        from benchmarks._solvers_measure import ALL

        only, chosen = self.args.only, []
        for name in methods:
            asked = not only or row in only or name in only
            if asked and not (self.args.resume and name in self.rows.get(row, {})):
                chosen.append(name)
        needed = {ALL[name].after for name in chosen if name in ALL} | set(chosen)
        return tuple(name for name in methods if name in needed)


Rows = Iterator[tuple[str, dict[str, Any]]]


def _say(text: str) -> None:
    print(f"solvers: {text}", file=sys.stderr, flush=True)


def _gaussian(plan: Plan, wanted: _Wanted) -> Rows:
    from benchmarks._solvers_cases import gaussian
    from benchmarks._solvers_measure import Effort, measure
    from benchmarks._solvers_methods import Outcome, Task

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
        _say(f"gaussian, {name}: {cell['status']}")
        yield "gaussian", {name: cell}


def _posteriors(
    plan: Plan, wanted: _Wanted, names: tuple[str, ...], methods: tuple[str, ...], large: bool
) -> Rows:
    from benchmarks import posteriors
    from benchmarks._solvers_measure import Effort, judge_posterior, measure
    from benchmarks._solvers_methods import Task

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
            _say(f"{row}, {name}: {cell['status']}")
            yield row, {name: cell}


def _small(plan: Plan, wanted: _Wanted) -> Rows:
    return _posteriors(plan, wanted, plan.small, plan.small_methods, large=False)


def _large(plan: Plan, wanted: _Wanted) -> Rows:
    return _posteriors(plan, wanted, plan.large, plan.large_methods, large=True)


def _lanes(plan: Plan, wanted: _Wanted) -> Rows:
    from benchmarks._solvers_lanes import many_lanes

    for row in plan.lane_posteriors:
        for name in wanted.names(row, plan.lane_methods):
            cell = many_lanes(row, name, plan.lanes, plan.warm)
            _say(f"{row}, {name}, {plan.lanes} lanes: {cell.get('raised', 'done')}")
            yield row, {name: cell}


def _bad(plan: Plan, wanted: _Wanted) -> Rows:
    from benchmarks._solvers_lanes import bad_input

    for row in plan.bad:
        for name in wanted.names(row, plan.bad_solvers):
            cell = bad_input(row, name, plan.bad_lanes)
            _say(f"{row}, {name}: {cell}")
            yield row, {name: cell}


SECTIONS: dict[str, Callable[[Plan, _Wanted], Rows]] = {
    "gaussian": _gaussian,
    "lanes": _lanes,
    "bad": _bad,
    "small": _small,
    "large": _large,
}
