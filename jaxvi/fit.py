"""One solver, many restarts: checks at the door, lanes in chunks, a Fit."""

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvi import _door, _feed
from jaxvi._ahead import compiling_ahead
from jaxvi._feed import Feed
from jaxvi._interrupts import interrupts
from jaxvi._loop import Lane, block_length
from jaxvi._progress import Progress, Reporter, make_reporter
from jaxvi._status import Status
from jaxvi._types import Data
from jaxvi.lanes import (
    Keys,
    advance_lanes,
    make_setup,
    split_key,
    start_lanes,
)
from jaxvi.result import Fit, History, Timing, evidence_of, warm_start
from jaxvi.streams import Stream
from jaxvi.target import Target

_ROWS = 64  # blocks a chunk, at most
_CHUNK_SECONDS = 0.3
_USUAL_STEPS = 100
_HISTORY_ROWS = 2048


def fit_restarts(
    key: Array,
    target: Target,
    family: Any = None,
    *,
    objective: Any = None,
    solver: Any = None,
    noise: Any = None,
    data: Data = None,
    num_restarts: Any = 8,
    start: Any = None,
    start_scale: Any = 1.0,
    max_steps: Any = 20_000,
    num_eval_draws: Any = 2_000,
    max_seconds: Any = None,
    patience: float | None = None,
    progress: bool | Reporter | None = None,
    minibatch: Any = None,
) -> Fit:
    """`jaxvi.fit` with one solver: every restart is a lane of one compiled batch.

    The lanes run together in chunks; the winner is chosen by a fresh bound on draws common to
    all, and every lane stays in the result. Arguments are those of `jaxvi.fit`, checked here; but
    for `patience`: once half of the lanes have converged, others get at most so many times the
    steps that these took.
    """
    began = time.perf_counter()
    key = _door.typed_key(key)
    _door.instance("target", target, Target, "jaxvi.Target(log_density, supports)")
    dtype = _feed.check(target, data, minibatch)
    if not isinstance(data, Stream):
        data = jax.tree.map(jnp.asarray, data)  # so that every call sees the same types
    _door.parts(family, objective, solver, noise)
    setup = make_setup(target, family, objective, solver, noise)
    _door.hashable(setup)
    setup.check()
    _feed.check_solver(setup, minibatch)
    _door.whole("num_restarts", num_restarts, 1)
    _door.whole("max_steps", max_steps, 1)
    _door.whole("num_eval_draws", num_eval_draws, 2)
    scale = _door.start_scales(start_scale, num_restarts, dtype)
    if max_seconds is not None:
        _door.positive("max_seconds", max_seconds)
    warm = warm_start(start, setup, dtype) if isinstance(start, Fit) else None
    z = None if warm else _door.starts(target, start, num_restarts, dtype)
    keys = split_key(key)
    with _door.compile_clock() as compiling, contextlib.ExitStack() as stack:
        setup = setup.prepared(data, dtype)
        feed = stack.enter_context(_feed.feeding(setup, keys.noise, data, minibatch, dtype))
        inner, first = feed.setup, feed.first
        with _compiling(feed, keys, (z, scale, first, warm), num_restarts) as wait:
            lanes = start_lanes(keys, z, scale, first, warm, setup=inner, num_lanes=num_restarts)
            _door.some_start(np.asarray(lanes.status), first)
            if wait is not None:
                feed.compile_ranking(keys, lanes, num_eval_draws)
                with _door.waiting_for_compiler():
                    wait()
        report, close = make_reporter(progress)
        budget = math.inf if max_seconds is None else began + max_seconds
        limits = _Limits(max_steps, budget, patience)
        run = _run_chunks(keys, lanes, feed, limits, report)
        close()
        phi, ranking, weighed = feed.rank(keys, run.lanes, num_eval_draws)
    fit = Fit(
        setup=setup,
        phi=phi,
        status=_final_status(run),
        steps=np.asarray(run.lanes.step),
        bounds=ranking.bound,
        bounds_mcse=ranking.mcse,
        difference_mcse=ranking.difference_mcse,
        best=ranking.best,
        num_bad_draws=ranking.num_bad,
        log_weights=ranking.log_weights,
        history=run.history,
        timing=Timing(compiling.seconds, run.seconds, time.perf_counter() - began),
        interrupted=run.interrupted,
        key=key,
        data=data,
    )
    return fit if weighed is None else replace(fit, evidence=evidence_of(fit, weighed))


def _compiling(
    feed: Feed, keys: Keys, arguments: tuple[Any, ...], num_lanes: int
) -> contextlib.AbstractContextManager[Callable[[], None] | None]:
    """The steps' program, compiled while the caller compiles those of starts and ranking."""
    step, setup, (data, _) = jnp.int32(0), feed.setup, feed.at(0)

    def program() -> None:
        lanes = jax.eval_shape(
            partial(start_lanes, setup=setup, num_lanes=num_lanes), keys, *arguments
        )
        advance_lanes.lower(keys, lanes, step, step, data, setup=setup, rows=_ROWS).compile()

    return compiling_ahead((setup, num_lanes), (keys, arguments, data), program)


class _Limits(NamedTuple):
    """Steps; the time on the clock at which a chunk is the last; patience with stragglers."""

    max_steps: int
    until: float
    patience: float | None

    def steps(self, lanes: Lane) -> int:
        """Steps that lanes may take, as far as can be told by now."""
        done = np.asarray(lanes.status) == Status.CONVERGED
        if self.patience is None or 2 * done.sum() < len(done):
            return self.max_steps
        usual = max(float(np.median(np.asarray(lanes.step)[done])), _USUAL_STEPS)
        return min(self.max_steps, math.ceil(self.patience * usual))


class _Run(NamedTuple):
    lanes: Lane
    history: History
    seconds: float
    interrupted: bool


def _final_status(run: _Run) -> np.ndarray:
    status = np.array(run.lanes.status)
    left = Status.INTERRUPTED if run.interrupted else Status.STEP_LIMIT
    status[status == Status.RUNNING] = left
    return status


def _run_chunks(
    keys: Keys,
    lanes: Lane,
    feed: Feed,
    limits: _Limits,
    report: Reporter,
) -> _Run:
    """Chunks until every lane has ended, a limit, or an interrupt between two chunks."""
    max_steps = limits.max_steps
    setup, length = feed.setup, block_length(feed.setup)
    recorder = _Recorder(lanes.status.shape[0])
    blocks, step, seconds, began = 1, 0, 0.0, time.perf_counter()
    with interrupts() as interrupted, contextlib.suppress(_Stop):
        while step < max_steps and bool((np.asarray(lanes.status) == Status.RUNNING).any()):
            try:
                data, end = feed.at(step)
            except _feed.StreamBroke as error:
                _feed.tell(error, step)
                interrupted.set()
                break
            first, goal = step, min(step + blocks * length, max_steps, end)
            with _door.compile_clock() as compiling:
                chunk_began = time.perf_counter()
                lanes, rows, reached = advance_lanes(
                    keys, lanes, jnp.int32(step), jnp.int32(goal), data, setup=setup, rows=_ROWS
                )
                step = int(reached)
                elapsed = time.perf_counter() - chunk_began - compiling.seconds
            seconds += max(elapsed, 0.0)
            recorder.add(first, step, length, np.asarray(rows))
            pace = max(elapsed, 1e-6) / math.ceil((step - first) / length)
            blocks = min(_ROWS, 4 * blocks, max(1, int(_CHUNK_SECONDS / pace)))
            _report(report, lanes, step, max_steps, time.perf_counter() - began, interrupted)
            max_steps = limits.steps(lanes)
            if time.perf_counter() >= limits.until:
                interrupted.set()
            if interrupted.is_set():
                break
    history = recorder.history()
    return _Run(lanes, history, seconds, interrupted.is_set())


class _Stop(Exception):
    """Leave the chunk loop with what there is."""


def _report(
    report: Reporter,
    lanes: Lane,
    step: int,
    max_steps: int,
    seconds: float,
    interrupted: threading.Event,
) -> None:
    """Tell the observer; a KeyboardInterrupt raised in it stops the run as Ctrl-C does."""
    bounds = np.asarray(lanes.bound)
    finite = bounds[np.isfinite(bounds)]
    running = int((np.asarray(lanes.status) == Status.RUNNING).sum())
    best = float(finite.max()) if finite.size else math.nan
    try:
        report(Progress(step, max_steps, len(bounds), running, best, seconds))
    except KeyboardInterrupt:
        interrupted.set()
        raise _Stop from None


class _Recorder:
    """Rows of history; neighbours are averaged when there are too many, so memory is bounded."""

    def __init__(self, num_lanes: int) -> None:
        self._steps: list[int] = []
        self._rows: list[Float[np.ndarray, "lanes"]] = []
        self._num_lanes = num_lanes
        self._stretch = 1
        self._partial: list[Float[np.ndarray, "lanes"]] = []

    def add(
        self, first: int, last: int, length: int, rows: Float[np.ndarray, "rows lanes"]
    ) -> None:
        """The rows of a chunk from step `first` to `last` in blocks of `length` steps."""
        for row, start in zip(rows, range(first, last, length), strict=False):
            self._partial.append(row)
            if len(self._partial) == self._stretch:
                self._steps.append(min(start + length, last))
                self._rows.append(np.mean(self._partial, axis=0))
                self._partial = []
        while len(self._rows) > _HISTORY_ROWS:
            # an odd row at the end goes back to be averaged with the next one
            paired = len(self._rows) // 2 * 2
            self._partial = self._rows[paired:] * self._stretch + self._partial
            self._steps = self._steps[1:paired:2]
            self._rows = [np.mean(self._rows[i : i + 2], axis=0) for i in range(0, paired, 2)]
            self._stretch *= 2

    def history(self) -> History:
        """What has been recorded."""
        bound = np.stack(self._rows) if self._rows else np.zeros((0, self._num_lanes))
        return History(np.asarray(self._steps, int), bound)
