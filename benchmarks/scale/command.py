"""How fits grow: with restarts, with rows that are streamed, with devices and processes."""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _machine
from benchmarks._markdown import number, publish, table
from benchmarks.scale import _devices

HELP = "restarts from 1 to 10,000, rows from 1e4 to 1e7, devices 1, 2 and 4"
HERE = Path(__file__).resolve().parents[1]
_COLUMNS, _BATCH, _STEPS = 10, 256, 4_000
_IDLE, _RATIO = 0.10, 1.8  # at most, and at least
_RACED = 1 / 3  # of the steps, at most


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    restarts: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    rows: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    steps: int = _STEPS
    adam: int = 128  # restarts, which race and don't
    devices: _devices.Plan = _devices.Plan()


QUICK = Plan((1, 20), (1_000, 10_000), 400, 8, _devices.QUICK)


def measure_restarts(count: int, race: bool = False, by: str = "newton") -> dict[str, float]:
    """A warm fit of the mixture of irises by Newton on frozen noise, or Adam, from many starts."""
    import jax
    import jax.numpy as jnp
    from sklearn.datasets import load_iris

    import jaxvi
    from jaxvi import models

    flowers = load_iris().data
    data = jnp.asarray((flowers - flowers.mean(axis=0)) / flowers.std(axis=0), jnp.float32)
    target = models.gaussian_mixture(3, 4)
    solver = jaxvi.FrozenNoise() if by == "newton" else jaxvi.Stochastic()
    pool = min(count, 64)

    def fit(num: int, seed: int) -> Any:
        return jaxvi.fit(
            jax.random.key(seed),
            target,
            jaxvi.MeanField(),
            solver=solver,
            data=data,
            num_restarts=num,
            pool=pool if num > pool or race else None,
            race=race,
            progress=False,
        )

    few = min(count, 2 * pool)  # compiles all that many take, but for the last ranking
    fit(few, 1)
    began = time.perf_counter()
    with _Memory() as memory:
        found = fit(count, 0)
    return {
        "seconds": time.perf_counter() - began,
        "run_seconds": found.timing.run_seconds,
        "mib": memory.grown,
        "idle": found.pool.idle_share if found.pool else 1.0 - _used(found.steps),
        "steps": int(found.steps.sum()),
        "bound": found.bound,
        "optima": len(found.agreement.sizes),
    }


def _used(steps: np.ndarray) -> float:
    return float(steps.mean() / steps.max())


class _Memory:
    """MiB that memory grows by meanwhile, at most; pages of files that are mapped don't count."""

    grown = 0.0

    def __enter__(self) -> "_Memory":
        self._first = _anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.grown = max(self.grown, _anonymous() - self._first)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _anonymous() -> float:
    """MiB; NaN where the system doesn't say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    found = [int(line.split()[1]) / 2**10 for line in lines if line.startswith("RssAnon")]
    return found[0] if found else float("nan")


def measure_rows(num: int, steps: int) -> dict[str, float]:
    """A logistic regression on rows of a memmap, so many steps of 256 rows, one lane."""
    import jax
    import jax.numpy as jnp

    import jaxvi

    def log_prior(slopes: Any) -> Any:
        return -0.125 * jnp.sum(slopes**2)

    def log_likelihood(slopes: Any, rows: Any) -> Any:
        score = rows[:, :-1] @ slopes
        return rows[:, -1] * score - jax.nn.softplus(score)

    target = jaxvi.Target(
        log_prior=log_prior, log_likelihood=log_likelihood, supports=jaxvi.Real(_COLUMNS)
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = _made_rows(Path(folder) / "rows.npy", num)
        seen: list[Any] = []

        def fit(steps: int) -> None:
            jaxvi.fit(
                jax.random.key(0),
                target,
                jaxvi.FullRank(),
                data=jaxvi.Stream(rows),
                minibatch=jaxvi.Minibatch(_BATCH),
                solver=jaxvi.Stochastic(tolerance=None),
                num_restarts=1,
                max_steps=steps,
                num_eval_draws=64,
                progress=seen.append,
            )

        fit(steps // 4)
        with _Memory() as memory:
            fit(steps)
        return {
            "rows_per_second": steps * _BATCH / seen[-1].seconds,
            "mib": memory.grown,
            "epochs": steps * _BATCH / num,
        }


def _made_rows(path: Path, num: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    slopes = np.linspace(-1.0, 1.0, _COLUMNS)
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (num, _COLUMNS + 1))
    for first in range(0, num, 100_000):
        x = rng.standard_normal((min(100_000, num - first), _COLUMNS))
        chance = 1.0 / (1.0 + np.exp(-x @ slopes))
        rows[first : first + len(x), :-1] = x
        rows[first : first + len(x), -1] = rng.random(len(x)) < chance
    rows.flush()
    return np.load(path, mmap_mode="r")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `scale`."""
    parser.add_argument("--quick", action="store_true", help="little; leaves the page alone")
    parser.add_argument("--out", type=Path, help="write here, and not to the benchmarks' page")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)  # in a process of its own


def run(args: argparse.Namespace) -> int:
    """Measure in processes of their own, print, write, draw."""
    if args.one:
        print(json.dumps(_one(*args.one)))
        return 0
    plan = QUICK if args.quick else Plan()
    results: dict[str, Any] = {"machine": _machine.describe()}
    results["date"] = datetime.date.today().isoformat()
    results["restarts"] = {num: _apart("restarts", str(num)) for num in plan.restarts}
    most = max(num for num in plan.restarts if num <= 1_000)
    results["race"] = {most: _apart("race", str(most))}
    by_adam = (str(plan.adam), "adam")
    results["adam"] = {"restarts": plan.adam, "all": _apart("restarts", *by_adam)}
    results["adam"]["race"] = _apart("race", *by_adam)
    results["rows"] = {num: _apart("rows", str(num), str(plan.steps)) for num in plan.rows}
    try:
        results["devices"] = _devices.measure(plan.devices)
    except (RuntimeError, subprocess.SubprocessError) as error:  # what there is, is kept
        results["devices"] = {"error": f"{type(error).__name__}: {error}"[:300]}
    page = render(results)
    print(page)
    publish("scale", results, page, out=args.out, quick=args.quick, draw=draw)
    return 0


def _one(kind: str, *numbers: str) -> dict[str, float]:
    if kind == "rows":
        return measure_rows(*map(int, numbers))
    return measure_restarts(int(numbers[0]), kind == "race", *numbers[1:])


def _apart(*what: str) -> Any:
    command = [sys.executable, "-m", "benchmarks", "scale", "--one", *what]
    print(f"scale: {' '.join(what)}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


def render(results: dict[str, Any]) -> str:
    """Everything that has been measured, as Markdown."""
    machine = results["machine"]
    heading = f"### scale, {_machine.label(machine)}\n\n{results['date']}. "
    heading += _machine.sentence({**machine, "dtype": "float32"}) + "."
    restarts, raced = results["restarts"], results["race"]
    most = max(restarts, key=int)
    idle = restarts[most]["idle"]
    lines = [
        f"- {int(most):,} restarts, idle lane-steps: {100 * idle:.1f} %; at most "
        f"{100 * _IDLE:.0f}: {_good(idle <= _IDLE)}."
    ]
    for num, found in raced.items():
        share = found["steps"] / restarts[num]["steps"]
        gap = restarts[num]["bound"] - found["bound"]
        lines.append(
            f"- {int(num):,} restarts in a race, by Newton: {100 * share:.0f} % of the steps, best "
            f"bound {gap:.3f} nats lower."
        )
    if "adam" in results:
        lines.append(_of_adam(results["adam"]))
    if "error" in results["devices"]:
        lines.append(f"- Devices and processes: **failed**, {results['devices']['error']}")
    if "ratio" in results["devices"]:
        ratio = results["devices"]["ratio"]
        lines.append(
            f"- Two processes, each on its core, over one, lanes a second: {number(ratio)}; at "
            f"least {_RATIO}: {_good(ratio >= _RATIO)}."
        )
    return "\n\n".join([heading, "\n".join(lines), *_tables(results)])


def _tables(results: dict[str, Any]) -> list[str]:
    """One for each of the three, and one of what rows cost that are spread."""
    of_restarts = [
        [
            f"{int(num):,}",
            number(x["seconds"]),
            number(x["mib"]),
            f"{100 * x['idle']:.1f} %",
            f"{x['steps']:,}",
            f"{x['bound']:.3f}",
        ]
        for num, x in results["restarts"].items()
    ]
    of_rows = [
        [f"{int(num):,}", number(x["rows_per_second"] / 1e6), number(x["mib"]), number(x["epochs"])]
        for num, x in results["rows"].items()
    ]
    of_devices = [
        [f"{num} {kind}", number(rate)]
        for kind in ("processes", "devices")
        for num, rate in results["devices"].get(kind, {}).items()
    ]
    spread = results["devices"].get("spread", {})
    of_spread = [
        [name, number(1e6 * spread[key], 4)]
        for name, key in (
            ("a row of 20 numbers, a draw, one core", "row_seconds"),
            ("a step of 64 rows, 8 draws", "step_seconds"),
            ("a message between two processes", "message_seconds"),
        )
        if key in spread
    ]
    return [
        table(["restarts", "seconds", "MiB", "idle", "steps", "best bound"], of_restarts),
        table(["rows streamed", "million rows a second", "MiB", "epochs"], of_rows),
        table(["on", "lanes a second"], of_devices),
        table(["rows that are spread", "microseconds"], of_spread),
    ]


def _of_adam(found: dict[str, Any]) -> str:
    alone, race = found["all"], found["race"]
    share, gap = race["steps"] / alone["steps"], alone["bound"] - race["bound"]
    return (
        f"- {found['restarts']} restarts in a race, by Adam: {100 * share:.0f} % of "
        f"{alone['steps']:,} steps, best bound {gap:.3f} nats lower, {race['seconds']:.1f} s for "
        f"{alone['seconds']:.1f} s; at most {100 * _RACED:.0f} %: {_good(share <= _RACED)}."
    )


def _good(met: bool) -> str:
    return "met" if met else "**missed**"


def draw(results: dict[str, Any], path: Path) -> bool:
    """A curve for each of the three; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(13.0, 3.8), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    for ax, kind, key, words in (
        (first, "restarts", "seconds", "seconds, warm"),
        (second, "rows", "rows_per_second", "rows a second"),
    ):
        numbers = [int(num) for num in results[kind]]
        found = results[kind].values()
        ax.loglog(numbers, [x[key] for x in found], "o-", label=words)
        ax.loglog(numbers, [max(x["mib"], 0.1) for x in found], "s--", label="MiB beside the data")
        ax.set_xlabel(kind if kind == "restarts" else "rows streamed")
        ax.legend(fontsize="small")
    devices = results["devices"]
    for kind, mark in (("processes", "o-"), ("devices", "s--")):
        rates = {int(num): rate for num, rate in devices.get(kind, {}).items()}
        label = f"{kind}, lanes in proportion"
        third.plot(list(rates), [rate / rates[1] for rate in rates.values()], mark, label=label)
    third.plot([1, 4], [1, 4], color="grey", linewidth=0.8, label="ideal")
    third.set(xlabel="processes or emulated devices", ylabel="lanes a second, over one's")
    third.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    return True
