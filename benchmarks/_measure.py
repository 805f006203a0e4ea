"""One cell of the solvers benchmark: a method on a task, timed cold and warm, then counted."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from benchmarks import posteriors
from benchmarks._counting import counted, counting
from benchmarks._methods import METHODS, Method, Outcome, Task
from benchmarks._peers import PEERS, installed
from jaxvi._compilation import clock

ALL = {**METHODS, **PEERS}
_DRAW_KEY, _FIRST_WARM_KEY = 1_000, 1
SAME_BOUND = 0.1  # nats
_COMPILED = 0.01  # seconds of compiling by which a run isn't a warm one
_REACH = {"frozen_mean_field": 1, "adam_mean_field": 4}  # rows of history in a mean
Judge = Callable[[Outcome], dict[str, Any]]
Cell = dict[str, Any]


@dataclass(frozen=True)
class Effort:
    """How often a warm run is timed, how many draws are judged, how counting runs are compiled.

    With `drawn`, so many draws are within the times, and a warm run that compiled is run again.
    """

    warm: int = 3
    draws: int = 20_000
    optimise_counts: bool = False  # for runs that are longer than compiling
    drawn: int = 0
    long: float = math.inf  # seconds, without compiling, of a run that is timed warm only once
    counts: bool = True


@dataclass(eq=False)
class Clocked:
    """An outcome, the seconds that it took, and those of them spent on tracing and compiling."""

    outcome: Outcome
    seconds: float
    compile_seconds: float


def clocked(
    method: Method, task: Task, seed: int, after: Outcome | None, lanes: int = 1, drawn: int = 0
) -> Clocked:
    """One run of a method on the wall's clock, with `drawn` draws of what it found."""
    key = jax.random.key(seed)
    with clock.compile_clock() as compiling:
        began = time.perf_counter()
        outcome = method.run(task, key, after, lanes)
        if drawn and outcome.draw is not None:
            jax.block_until_ready(outcome.draw(key, drawn))
        seconds = time.perf_counter() - began
    if outcome.fit is not None and outcome.fit.interrupted:
        raise KeyboardInterrupt  # the fit kept what it had; the benchmark is to stop
    return Clocked(outcome, seconds, compiling.seconds)


def measure(
    names: Sequence[str],
    task: Task,
    judge: Judge,
    effort: Effort,
    methods: Mapping[str, Method] = ALL,
) -> Iterator[tuple[str, Cell]]:
    """A cell for every method; one that starts from another's result must come after it.

    Programs compile anew for every method that stands alone. What a method that starts from
    another costs besides is in that one's cell: see `_solvers_tables.total`.
    """
    found: dict[str, Outcome | None] = {}
    found_counted: dict[str, Outcome | None] = {}
    short: set[str] = set()  # of the tolerances
    counting_task = replace(task, target=counted(task.target), eval_draws=2)
    for name in names:
        method = methods[name]
        if not installed(method.package):
            yield name, {"status": "not installed"}
            continue
        if method.after is not None and found.get(method.after) is None:
            yield name, {"status": f"not run: no {method.after}"}
            continue
        if method.unless is not None and method.unless not in short:
            yield name, {"status": "not needed"}
            continue
        if method.after is None:
            jax.clear_caches()
        try:
            after = found.get(method.after or "")
            cell, found[name] = _timed(method, task, after, judge, effort)
            if effort.counts:
                with _compiled_quickly(not effort.optimise_counts):
                    after = found_counted.get(method.after or "")
                    known = _known_evaluations(method, found[name])
                    counts, found_counted[name] = _counts(method, counting_task, after, known)
                    cell.update(counts)
                    if not effort.drawn:
                        cell.update(_reach(name, counting_task, found))
        except Exception as error:
            cell = {"status": "raised", "raised": f"{type(error).__name__}: {error}"[:500]}
        if not cell.get("within_loosely", True):
            short.add(name)
        yield name, cell


def _timed(
    method: Method, task: Task, after: Outcome | None, judge: Judge, effort: Effort
) -> tuple[Cell, Outcome]:
    cold = clocked(method, task, 0, after, drawn=effort.drawn)
    repeats = effort.warm if method.repeats is None else min(method.repeats, effort.warm)
    if cold.seconds - cold.compile_seconds > effort.long:
        repeats = min(repeats, 1)
    seeds = range(_FIRST_WARM_KEY, _FIRST_WARM_KEY + repeats)
    warm = [_warm(method, task, seed, after, effort.drawn) for seed in seeds]
    outcome = cold.outcome
    cell: Cell = {
        "status": outcome.status,
        "bound": outcome.bound,
        "cold_seconds": cold.seconds,
        "compile_seconds": cold.compile_seconds,
        "warm_seconds": warm,
    }
    if outcome.fit is not None:
        cell["steps"] = [int(steps) for steps in outcome.fit.steps]
        cell["statuses"] = [int(status) for status in outcome.fit.status]
    if outcome.draw is not None:
        cell.update(judge(outcome))
    return cell, outcome


def _warm(method: Method, task: Task, seed: int, after: Outcome | None, drawn: int) -> float:
    """Seconds; another key may lead a method where it has not been, which then compiles."""
    found = clocked(method, task, seed, after, drawn=drawn)
    if drawn and found.compile_seconds > _COMPILED:
        found = clocked(method, task, seed, after, drawn=drawn)
    return found.seconds


def _known_evaluations(method: Method, outcome: Outcome | None) -> int | None:
    """Where no run need be spent on counting."""
    if outcome is not None and outcome.evaluations is not None:
        return outcome.evaluations
    return method.evaluations


def _counts(
    method: Method, task: Task, after: Outcome | None, known: int | None
) -> tuple[Cell, Outcome | None]:
    if known is not None:
        counts = {"values": 0, "gradients": known, "products": 0}
        return {"counts": counts, "counted": False}, None
    with counting() as counts:
        outcome = clocked(method, task, 0, after).outcome
    cell: Cell = {"counts": asdict(counts), "counted": True}
    if outcome.fit is not None:
        cell["counted_steps"] = [int(steps) for steps in outcome.fit.steps]
    return cell, outcome


def _reach(name: str, task: Task, found: dict[str, Outcome | None]) -> Cell:
    """Evaluations until the bound first comes within 0.1 nats of where it should be.

    For Adam that is the better of the two mean fields' final bounds, for frozen noise its own
    final bound on its own draws. Adam's bound is its mean over 200 steps, or its noise would do.
    """
    outcome = found.get(name)
    if name not in _REACH or outcome is None or outcome.fit is None:
        return {}
    history, rows = outcome.fit.history, _REACH[name]
    bounds = np.convolve(history.bound[:, 0], np.full(rows, 1.0 / rows), mode="valid")
    frozen = found.get("frozen_mean_field")
    goal = bounds[-1]
    if name == "adam_mean_field":
        goal = max(outcome.fit.bound, -math.inf if frozen is None else (frozen.bound or -math.inf))
    there = np.flatnonzero(bounds >= goal - SAME_BOUND)
    if not there.size:
        return {"reach": None}
    steps = int(history.step[there[0]])
    with counting() as counts:
        clocked(ALL[name], replace(task, max_steps=steps), 0, None)
    return {"reach": {"steps": steps, "counts": asdict(counts)}}


@contextlib.contextmanager
def _compiled_quickly(quickly: bool) -> Iterator[None]:
    """Programs that run once compile in half the time without the dear optimisations."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quickly)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


class Scorer:
    """Scores draws of z; what it compiles outlasts the clearing of caches."""

    def __init__(self, posterior: posteriors.Posterior) -> None:
        self.posterior = posterior
        self.programs: dict[tuple[int, ...], Any] = {}

    def _flat(self, z: Array) -> Array:
        """z in the coordinates of the reference, on the scale to judge on."""
        if self.posterior.reference.scale == "unconstrained":
            return z
        return self.posterior.flatten(jax.vmap(self.posterior.target.constrain)(z))

    def score(self, z: Array) -> posteriors.Score:
        """Errors by coordinate."""
        if z.shape not in self.programs:
            self.programs[z.shape] = jax.jit(self._flat).lower(z).compile()
        return posteriors.score(self.programs[z.shape](z), self.posterior.reference)

    def __call__(self, z: Array) -> Cell:
        """Largest errors and shares within the tolerances."""
        found = self.score(z)
        means = found.mean_errors <= posteriors.MEAN_TOLERANCE
        sds = (found.sd_errors <= posteriors.SD_TOLERANCE) | ~found.summary.sd_judged
        return {
            "mean_error": found.mean_error,
            "sd_error": found.sd_error,
            "w1": found.w1,
            "worst": found.worst,
            "within": found.within,
            "within_moments": bool(np.all(means & sds)),
            "share_means": float(np.mean(means)),
            "share": float(np.mean(found.within_by_coordinate)),
        }


def judge_posterior(posterior: posteriors.Posterior, draws: int) -> Judge:
    """Errors of marginals against the reference."""
    scorer = Scorer(posterior)

    def judge(outcome: Outcome) -> Cell:
        assert outcome.draw is not None
        return scorer(outcome.draw(jax.random.key(_DRAW_KEY), draws))

    return judge
