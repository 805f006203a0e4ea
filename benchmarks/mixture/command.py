"""The Bayesian Gaussian mixture beside scikit-learn's: seconds, memory, and the same answers."""

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _machine
from benchmarks._markdown import number, publish, table
from benchmarks._timing import median, ratio, seconds_of

HELP = "the Bayesian Gaussian mixture beside scikit-learn's: seconds, memory, same answers"
HERE = Path(__file__).resolve().parents[1]
_KIB = 1024 if sys.platform != "darwin" else 1
OURS, THEIRS, LIKELIHOOD, GMMX = "jaxvi", "scikit-learn", "GaussianMixture", "gmmx"


@dataclass(frozen=True)
class Case:
    """Rows, and what both libraries are asked for; `repeats` of each are timed in turn."""

    title: str
    rows: tuple[int, int, int] | None  # number, columns, clusters; None is the irises
    choices: dict[str, Any] = field(default_factory=dict)
    least: float = 0.0  # how many times faster
    repeats: int = 3
    memory: bool = False


_FIXED = {"tol": 0.0, "random_state": 0, "init_params": "random"}
CASES = {
    "iris": Case(
        "iris, 64 restarts",
        None,
        {"n_components": 3, "n_init": 64, "random_state": 0},
        50.0,
        5,
    ),
    "iris_random": Case(
        "iris, 64 restarts, same random starts, 30 steps each",
        None,
        {"n_components": 3, "n_init": 64, "max_iter": 30, **_FIXED},
        50.0,
        5,
    ),
    "iris_tolerance": Case(
        "the same, until a step changes the bound by less than 1e-3",
        None,
        {"n_components": 3, "n_init": 64, "random_state": 0, "init_params": "random"},
        repeats=5,
    ),
    "full": Case(
        "20,000 x 16, 16 full, one restart",
        (20_000, 16, 16),
        {"n_components": 16, "max_iter": 30, **_FIXED},
        8.0,
    ),
    "full_8": Case(
        "20,000 x 16, 16 full, eight restarts",
        (20_000, 16, 16),
        {"n_components": 16, "max_iter": 30, "n_init": 8, **_FIXED},
        8.0,
    ),
    "diag": Case(
        "1,000,000 x 8, 8 diagonal",
        (1_000_000, 8, 8),
        {"n_components": 8, "covariance_type": "diag", "max_iter": 20, **_FIXED},
        8.0,
        3,
        True,
    ),
}
_PARTS = 100  # of a stream
QUICK = ("iris", "full")


def rows_of(case: Case) -> np.ndarray:
    """The data of a case."""
    if case.rows is None:
        from sklearn.datasets import load_iris

        return load_iris().data
    num, columns, clusters = case.rows
    rng = np.random.default_rng(0)
    means = 3.0 * rng.standard_normal((clusters, columns))
    labels = rng.integers(clusters, size=num)
    shape = rng.standard_normal((columns, columns)) / columns**0.5
    return means[labels] + rng.standard_normal((num, columns)) @ shape


def fitter(library: str, case: Case) -> Callable[[np.ndarray], Any]:
    """Fits from scratch, and gives the model; all but gmmx have scikit-learn's interface."""
    if library == GMMX:
        return _gmmx(case)
    if library == OURS:
        from jaxvi.estimators import BayesianGaussianMixture as Model
    elif library == THEIRS:
        from sklearn.mixture import BayesianGaussianMixture as Model
    else:
        from sklearn.mixture import GaussianMixture as Model
    return lambda x: Model(**case.choices).fit(x)


def _gmmx(case: Case) -> Callable[[np.ndarray], Any]:
    """Maximum likelihood by EM from random responsibilities, as many steps; one restart only.

    In float32: it refuses float64.
    """
    import jax.numpy as jnp
    from gmmx import EMFitter, GaussianMixtureModelJax

    choices = case.choices
    kind = choices.get("covariance_type", "full")
    fitter = EMFitter(tol=-1.0, max_iter=choices["max_iter"])

    def fit(x: np.ndarray) -> Any:
        shares = np.random.RandomState(0).uniform(size=(len(x), choices["n_components"]))
        shares /= shares.sum(axis=1, keepdims=True)
        rows, shares = jnp.asarray(x, "float32"), jnp.asarray(shares, "float32")
        start = GaussianMixtureModelJax.from_responsibilities(
            rows[:, None, :, None],
            shares[:, :, None, None],
            reg_covar=1e-6,
            covariance_type=kind,
        )
        return float(fitter.fit(x=rows, gmm=start).log_likelihood)

    return fit


def measure_case(name: str) -> dict[str, Any]:
    """Warm seconds of all libraries, taken in turn in one process."""
    case = CASES[name]
    x = rows_of(case)
    fits = {library: fitter(library, case) for library in (OURS, THEIRS, LIKELIHOOD)}
    errors = {}
    if case.choices.get("n_init", 1) == 1:
        try:
            gmmx = fitter(GMMX, case)
            gmmx(x)
            fits[GMMX] = gmmx
        except Exception as error:
            errors[GMMX] = f"{type(error).__name__}: {error}"[:200]
    models = {OURS: fits[OURS](x)}  # has everything compiled
    seconds: dict[str, list[float]] = {library: [] for library in fits}
    for _ in range(case.repeats):
        for library, fit in fits.items():
            began = time.perf_counter()
            models[library] = fit(x)
            seconds[library].append(time.perf_counter() - began)
    ours, theirs = models[OURS], models[THEIRS]
    return {
        "seconds": seconds,
        "errors": errors,
        "steps": [int(ours.n_iter_), int(theirs.n_iter_)],
        "bounds": [float(np.squeeze(model.lower_bound_)) for model in (ours, theirs)],
    }


def measure_cold(name: str, library: str) -> float:
    """The first fit of a fresh process, after imports."""
    case = CASES[name]
    x, fit = rows_of(case), fitter(library, case)
    return seconds_of(lambda: fit(x))


def measure_memory(name: str, library: str) -> float:
    """What a fit takes at most beside the data, over the data; few rows have it compiled."""
    case = CASES[name]
    x, fit = rows_of(case), fitter(library, case)
    fit(x[: len(x) // 100].copy())
    before = _resident()
    fit(x)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB - before) / x.nbytes


def measure_stream(name: str) -> dict[str, float]:
    """Bounds of one pass over blocks, and of many, beside those of all rows at once."""
    from jaxvi.estimators import BayesianGaussianMixture as Model

    case = CASES[name]
    x = np.random.default_rng(1).permutation(rows_of(case))
    parts = np.array_split(x, _PARTS)
    choices = {**case.choices, "init_params": "kmeans", "tol": 1e-3, "max_iter": 300}
    models = {
        "whole": Model(**choices).fit(x),
        "once": Model(**choices, total_samples=len(x)).fit(iter(parts)),
        "again": Model(**choices).fit(parts),
    }
    bounds = {kind: _bound_of_all(model, x) for kind, model in models.items()}
    seconds = seconds_of(lambda: Model(**choices).fit(iter(parts)))
    return {**bounds, "rows_per_second": len(x) / seconds}


def measure_flat(name: str) -> float:
    """What a pass over ten times the rows, in blocks that nobody keeps, takes, over their size."""
    from jaxvi.estimators import BayesianGaussianMixture

    case, rng = CASES[name], np.random.default_rng(0)
    assert case.rows
    num, columns, _ = case.rows

    def parts(many: int) -> Any:
        return (rng.standard_normal((num // _PARTS, columns)) for _ in range(many))

    BayesianGaussianMixture(**case.choices).fit(parts(3))
    before = _resident()
    BayesianGaussianMixture(**case.choices).fit(parts(10 * _PARTS))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
    return (peak - before) / (10 * num * columns * 8)


def _bound_of_all(model: Any, x: np.ndarray) -> float:
    """After one more exact step, which is the bound of these parameters or a little more."""
    return float(model.set_params(warm_start=True, max_iter=1).fit(x).lower_bound_)


def _resident() -> float:
    """Bytes of memory in use; where the system doesn't say, the most that ever was."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def measure_products() -> dict[str, float]:
    """What part of the machine's rate for matrix products a step of the full case reaches."""
    import jax
    import jax.numpy as jnp

    case = CASES["full"]
    x, (num, columns, clusters) = rows_of(case), case.rows or (0, 0, 0)
    with jax.enable_x64(True):
        square = jnp.ones((2048, 2048))
        product = jax.jit(lambda a: a @ a)
        product(square).block_until_ready()
        best = min(seconds_of(lambda: product(square).block_until_ready()) for _ in range(5))
    seconds = {}
    for steps in (5, 45):
        fit = fitter(OURS, Case("", case.rows, {**case.choices, "max_iter": steps}))
        fit(x)
        seconds[steps] = median([seconds_of(lambda fit=fit: fit(x)) for _ in range(5)])
    step = (seconds[45] - seconds[5]) / 40
    features = columns * (columns + 3) // 2 + 1
    return {"machine": 2 * 2048**3 / best, "step": 4.0 * clusters * features * num / step}


_TASKS: dict[str, Callable[..., Any]] = {
    "case": measure_case,
    "cold": measure_cold,
    "memory": measure_memory,
    "stream": measure_stream,
    "flat": measure_flat,
    "products": measure_products,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `mixture`."""
    parser.add_argument("--quick", action="store_true", help="two cases; leaves the page alone")
    parser.add_argument("--out", type=Path, help="write here, and not to the benchmarks' page")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)  # in a process of its own


def run(args: argparse.Namespace) -> int:
    """Measure every case in processes of its own, print, write."""
    warnings.simplefilter("ignore")
    if args.one:
        kind, *rest = args.one
        print(json.dumps(_TASKS[kind](*rest)))
        return 0
    results: dict[str, Any] = {"machine": _machine.describe(), "cases": {}}
    results["date"] = datetime.date.today().isoformat()
    for name in QUICK if args.quick else CASES:
        print(f"mixture: {CASES[name].title}", flush=True)
        cell = _apart("case", name)
        repeats = 1 if CASES[name].memory else 3
        cell["cold"] = {
            library: [_apart("cold", name, library) for _ in range(repeats)]
            for library in (OURS, THEIRS)
        }
        if CASES[name].memory:
            cell["memory"] = {name_: _apart("memory", name, name_) for name_ in (OURS, THEIRS)}
            cell["stream"] = {**_apart("stream", name), "memory": _apart("flat", name)}
        results["cases"][name] = cell
    results["products"] = _apart("products")
    page = render(results)
    print(page)
    publish("mixture", results, page, out=args.out, quick=args.quick)
    return 0


def _apart(*what: str) -> Any:
    command = [sys.executable, "-m", "benchmarks", "mixture", "--one", *what]
    # without a cache on disk, which would make a cold fit warm
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def render(results: dict[str, Any]) -> str:
    """Everything that has been measured, as Markdown."""
    rows, lines = [], []
    for name, cell in results["cases"].items():
        case, seconds, cold = CASES[name], cell["seconds"], cell["cold"]
        warm = ratio(seconds[THEIRS], seconds[OURS])
        first = ratio(cold[THEIRS], cold[OURS])
        ours, theirs = cell["bounds"]
        others = [_other(cell, library) for library in (LIKELIHOOD, GMMX)]
        rows.append(
            [
                case.title,
                number(median(seconds[OURS]), 3),
                number(median(seconds[THEIRS]), 3),
                f"{number(warm)} x",
                f"{number(median(cold[OURS]))}, {number(median(cold[THEIRS]))}",
                f"{number(first)} x",
                f"{cell['steps'][0]}, {cell['steps'][1]}",
                f"{ours:.3f}, {theirs:.3f}",
                *others,
            ]
        )
        if not case.least:
            continue
        lines.append(_target(f"{case.title}, warm", warm, case.least))
        if case.rows is None:
            lines.append(_target(f"{case.title}, cold", first, 1.0))
        if case.memory:
            used, other = cell["memory"][OURS], cell["memory"][THEIRS]
            lines.append(
                f"- {case.title}, memory beside the data: {number(used, 2)} times the data's "
                f"(scikit-learn {number(other, 2)}); at most 2: {_good(used <= 2.0)}."
            )
            lines.append(_streamed(case, cell["stream"]))
    header = ["case", "jaxvi warm, s", "scikit-learn, s", "ratio", "cold, s", "ratio"]
    header += ["steps", "bounds", "GaussianMixture, s", "gmmx (float32), s"]
    products = results["products"]
    share = 100.0 * products["step"] / products["machine"]
    rate = (
        f"A step of the full case's two matrix products runs at {products['step'] / 1e9:.1f} GFlop"
        f"/s all told, {share:.0f} % of what a product of 2,048 x 2,048 matrices reaches here "
        f"({products['machine'] / 1e9:.0f})."
    )
    machine = results["machine"]
    heading = f"### mixture, {_machine.label(machine)}\n\n{results['date']}. "
    heading += _machine.sentence({**machine, "dtype": "float64"}) + "."
    return "\n\n".join([heading, "\n".join(lines), table(header, rows), rate])


def _other(cell: dict[str, Any], library: str) -> str:
    if library in cell["seconds"]:
        return number(median(cell["seconds"][library]))
    return "failed" if library in cell["errors"] else "-"


def _streamed(case: Case, found: dict[str, float]) -> str:
    once, again = (
        (found["whole"] - found[name]) / abs(found["whole"]) for name in ("once", "again")
    )
    return (
        f"- {case.title}, in 100 blocks: the bound of all rows falls short of the whole fit's by "
        f"{100 * once:.4f} % after one pass, {100 * again:.4f} % after many; at most 0.1: "
        f"{_good(max(once, again) <= 1e-3)}. {number(found['rows_per_second'] / 1e6)} million rows "
        f"a second; over ten times the rows, memory grows by {number(found['memory'], 2)} of "
        "their size."
    )


def _target(words: str, found: float, least: float) -> str:
    good = _good(found >= least)
    return f"- {words}: {number(found)} times faster than scikit-learn; at least {least:g}: {good}."


def _good(met: bool) -> str:
    return "met" if met else "**missed**"
