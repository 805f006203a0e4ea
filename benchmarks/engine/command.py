"""What the engine costs beyond the gradients that it is made of, and beside NumPyro."""

import argparse
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import _machine
from benchmarks._markdown import publish
from benchmarks._timing import interleaved
from benchmarks.engine import _report as report

HELP = "the engine's step, fit and import beside the bare gradient and NumPyro"
HERE = Path(__file__).resolve().parents[1]
_IMPORTS = {"jax, optax": "import jax, optax", "jaxvi": "import jaxvi"}
_FITS = ("jaxvi", "numpyro_run", "numpyro_jit")


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    lanes: tuple[int, ...] = (1, 8, 64, 256)
    check_lanes: int = 8
    check_steps: int = 3000
    repeats: int = 7
    seconds: float = 0.3  # a repeat
    fit_steps: int = 2000
    fit_repeats: int = 5
    import_repeats: int = 9


QUICK = Plan(lanes=(1, 64), check_lanes=1, repeats=5, seconds=0.05, fit_repeats=1, import_repeats=5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `engine`."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer lanes and repeats; leaves README.md and results/ alone",
    )
    parser.add_argument(
        "--out", type=Path, help="write here, and not to README.md and results/ of the benchmarks"
    )
    parser.add_argument(
        "--render", type=Path, metavar="JSON", help="measure nothing: report on these results"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    if args.render:
        results = json.loads(args.render.read_text(encoding="utf-8"))
    else:
        results = measure(QUICK if args.quick else Plan(), quick=args.quick)
    text = report.render(results)
    print(text)
    publish("engine", results, text, out=args.out, quick=results["quick"])
    return 0


def measure(plan: Plan, *, quick: bool) -> dict[str, Any]:
    """All raw numbers. Fresh processes come first, while this one holds no device."""
    began = datetime.datetime.now(datetime.UTC)
    imports = _imports(plan.import_repeats)
    fits = _fits(plan.fit_steps, plan.fit_repeats)
    steps, bounds = _steps(plan)
    return {
        "command": "python -m benchmarks engine" + (" --quick" if quick else ""),
        "date": began.date().isoformat(),
        "minutes": round((datetime.datetime.now(datetime.UTC) - began).total_seconds() / 60, 1),
        "quick": quick,
        "machine": _machine.describe(),
        "plan": asdict(plan),
        "steps": steps,
        "bounds": bounds,
        "fits": fits,
        "imports": imports,
    }


def _say(text: str) -> None:
    print(f"engine: {text}", file=sys.stderr, flush=True)


def _child(args: Sequence[str]) -> tuple[str, str]:
    """(last line of output, error) of a fresh Python without any compilation cache on disk."""
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    paths = [str(HERE.parent), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    env["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    done = subprocess.run(
        [sys.executable, *args], env=env, cwd=HERE.parent, capture_output=True, text=True
    )
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else f"exit status {done.returncode}"
    return (last, "") if done.returncode == 0 else ("", last)


def _imports(repeats: int) -> dict[str, list[float]]:
    """Seconds of the import statements, each in a fresh process, in turn."""
    _say(f"imports, {repeats} fresh processes each")
    clock = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
    found: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    for turn in range(repeats + 1):
        for name, statement in _IMPORTS.items():
            output, error = _child(["-c", clock.format(statement)])
            if error:
                raise RuntimeError(f"{statement}: {error}")
            if turn:  # the first time warms the disk and writes bytecode
                found[name].append(float(output))
    return found


def _fits(num_steps: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Cold and second fits, each pair in a fresh process, in turn."""
    found: dict[str, dict[str, Any]] = {
        kind: {"first": [], "second": [], "bounds": None} for kind in _FITS
    }
    for turn in range(repeats):
        for kind in _FITS:
            _say(f"cold process {turn + 1} of {repeats}: {kind}")
            output, error = _child(["-m", "benchmarks._cold", kind, str(num_steps)])
            if error:
                found[kind]["error"] = error
                continue
            one = json.loads(output)
            for name in ("first", "second"):
                found[kind][name].append(one["seconds"][name])
            found[kind]["bounds"] = one["bounds"]
    return found


def _steps(plan: Plan) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Times a step of every side, and the bounds that engine and peer reach."""
    from benchmarks._problems import PROBLEMS

    rows, bounds = [], []
    for name, make in PROBLEMS.items():
        for num_lanes in plan.lanes:
            _say(f"{name}, {num_lanes} lanes")
            problem = make()
            sides, errors = _sides(problem, num_lanes)
            if num_lanes == plan.check_lanes:
                bounds.append(_bounds(problem, num_lanes, plan.check_steps, sides))
            seconds = interleaved(
                {key: side.run for key, side in sides.items()},
                repeats=plan.repeats,
                seconds=plan.seconds,
                multiple=50,
            )
            rows.append(
                {
                    "problem": name,
                    "title": problem.title,
                    "lanes": num_lanes,
                    "seconds": seconds,
                    "compile": {key: side.compile_seconds for key, side in sides.items()},
                    "errors": errors,
                }
            )
    return rows, bounds


def _sides(problem: Any, num_lanes: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Every side compiled; a peer that cannot be is reported, our own failures are raised."""
    from benchmarks.engine._sides import SIDES

    sides: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, make in SIDES.items():
        try:
            sides[name] = make(problem, num_lanes)
        except Exception as error:
            if name != "numpyro":
                raise
            errors[name] = f"{type(error).__name__}: {error}"
    return sides, errors


def _bounds(problem: Any, num_lanes: int, num_steps: int, sides: dict[str, Any]) -> dict[str, Any]:
    """Bounds of every restart after the same number of steps from the same starts."""
    from benchmarks.engine._sides import fresh_bounds

    found: dict[str, list[float]] = {}
    for name, side in sides.items():
        if side.fitted is not None:
            side.run(num_steps)
            found[name] = [float(bound) for bound in fresh_bounds(problem, side.fitted())]
    return {
        "problem": problem.name,
        "title": problem.title,
        "lanes": num_lanes,
        "steps": num_steps,
        "optimum": problem.optimum,
        "bounds": found,
    }
