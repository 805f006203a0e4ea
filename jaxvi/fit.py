"""One solver, many restarts: checks at the door, lanes in chunks, a Fit."""

import contextlib
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvi import _door
from jaxvi._ahead import compiling_ahead
from jaxvi._interrupts import interrupts
from jaxvi._loop import Lane, Setup, block_length
from jaxvi._pool import (
    MOST_TOGETHER,
    Pool,
    PoolUse,
    Starts,
    out_of_memory,
    usual_width,
    warn_of_memory,
)
from jaxvi._progress import Progress, Reporter, make_reporter
from jaxvi._race import Race
from jaxvi._ranking import compile_ranking, rank_phis
from jaxvi._status import Status
from jaxvi._types import Data, Phi
from jaxvi.lanes import Keys, advance_lanes, lane_results, make_setup, split_key, start_lanes
from jaxvi.result import Fit, History, Timing, warm_start
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
    pool: Any = None,
    race: Any = False,
    progress: bool | Reporter | None = None,
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
    dtype = target.check(data)
    data = jax.tree.map(jnp.asarray, data)  # so that every call sees the same types
    _door.parts(family, objective, solver, noise)
    setup = make_setup(target, family, objective, solver, noise)
    _door.hashable(setup)
    setup.check()
    _door.whole("num_restarts", num_restarts, 1)
    _door.whole("max_steps", max_steps, 1)
    _door.whole("num_eval_draws", num_eval_draws, 2)
    scale = _door.start_scales(start_scale, num_restarts, dtype)
    if max_seconds is not None:
        _door.positive("max_seconds", max_seconds)
    if pool is not None:
        _door.whole("pool", pool, 1)
    _door.one_of("race", race, (True, False))
    warm = warm_start(start, setup, dtype) if isinstance(start, Fit) else None
    z = None if warm else _door.starts(target, start, num_restarts, dtype)
    with _door.compile_clock() as compiling:
        setup = setup.prepared(data, dtype)
        keys = split_key(key)
        report, close = make_reporter(progress)
        budget = math.inf if max_seconds is None else began + max_seconds
        limits = _Limits(max_steps, budget, patience)
        starts = Starts(z, scale, data, warm)
        width = _width(pool, race, num_restarts, setup, keys, starts)
        if width is None:
            run = _run_together(keys, starts, setup, num_restarts, num_eval_draws, limits, report)
        else:
            run = _run_pool(keys, starts, setup, num_restarts, width, race, limits, report)
        close()
        _door.some_start(run.status, data)
        started = run.status != Status.NO_START
        ranking = rank_phis(keys, run.phi, started, data, setup=setup, num_draws=num_eval_draws)
    return Fit(
        setup=setup,
        phi=run.phi,
        status=run.status,
        steps=run.steps,
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
        pool=run.pool,
    )


def _width(
    pool: int | None, race: bool, num_restarts: int, setup: Setup, keys: Keys, starts: Starts
) -> int | None:
    """Lanes of a pool; None where all restarts run together."""
    if pool is None:
        few = num_restarts <= MOST_TOGETHER
        pool = num_restarts if few else usual_width(setup, keys, starts)
    return min(pool, num_restarts) if race or pool < num_restarts else None


def _run_together(
    keys: Keys,
    starts: Starts,
    setup: Setup,
    num_lanes: int,
    num_eval_draws: int,
    limits: "_Limits",
    report: Reporter,
) -> "_Run":
    """All restarts as one batch; where it doesn't fit in memory, as a pool of half as many."""
    z, scale, data, warm = starts
    try:
        with _compiling(setup, keys, tuple(starts), num_lanes) as wait:
            lanes = start_lanes(keys, z, scale, data, warm, setup=setup, num_lanes=num_lanes)
            _door.some_start(np.asarray(lanes.status), data)
            if wait is not None:
                compile_ranking(keys, lanes, data, setup=setup, num_draws=num_eval_draws)
                with _door.waiting_for_compiler():
                    wait()
        return _run_chunks(keys, lanes, data, setup, limits, report)
    except Exception as error:
        if num_lanes == 1 or not out_of_memory(error):
            raise
        warn_of_memory(num_lanes)
    return _run_pool(keys, starts, setup, num_lanes, num_lanes // 2, False, limits, report)


def _compiling(
    setup: Setup, keys: Keys, arguments: tuple[Any, ...], num_lanes: int
) -> contextlib.AbstractContextManager[Callable[[], None] | None]:
    """The steps' program, compiled while the caller compiles those of starts and ranking."""
    step, data = jnp.int32(0), arguments[2]

    def program() -> None:
        lanes = jax.eval_shape(
            partial(start_lanes, setup=setup, num_lanes=num_lanes), keys, *arguments
        )
        advance_lanes.lower(keys, lanes, step, step, data, setup=setup, rows=_ROWS).compile()

    return compiling_ahead((setup, num_lanes), (keys, arguments), program)


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
    phi: Phi
    status: np.ndarray
    steps: np.ndarray
    history: History
    seconds: float
    interrupted: bool
    pool: PoolUse | None = None


def _run_pool(
    keys: Keys,
    starts: Starts,
    setup: Setup,
    num_restarts: int,
    width: int,
    race: bool,
    limits: _Limits,
    report: Reporter,
) -> _Run:
    """Restarts in turn in the lanes of a pool, until all have ended, a limit, or an interrupt."""
    racing = Race(keys.ranking, setup, starts.data, num_restarts) if race else None
    pool = Pool(keys, setup, starts, num_restarts, width, limits.max_steps, racing)
    began = time.perf_counter()
    with interrupts() as interrupted, contextlib.suppress(_Stop):
        while pool.ended < num_restarts:
            pool = pool.turn()
            _report_pool(report, pool, time.perf_counter() - began, interrupted)
            if time.perf_counter() >= limits.until:
                interrupted.set()
            if interrupted.is_set():
                break
    results = pool.end()
    phi = jax.tree.map(jnp.asarray, results.phi)
    history = History(*pool.history.table(limits.max_steps, len(results.steps)))
    stopped = interrupted.is_set()
    status, steps = results.status, results.steps
    return _Run(phi, status, steps, history, pool.seconds, stopped, pool.use())


def _report_pool(
    report: Reporter, pool: Pool, seconds: float, interrupted: threading.Event
) -> None:
    left = pool.num_restarts - pool.ended
    progress = Progress(
        pool.last_step, pool.max_steps, pool.num_restarts, left, pool.best_bound, seconds
    )
    try:
        report(progress)
    except KeyboardInterrupt:
        interrupted.set()
        raise _Stop from None


def _run_chunks(
    keys: Keys,
    lanes: Lane,
    data: Data,
    setup: Setup,
    limits: _Limits,
    report: Reporter,
) -> _Run:
    """Chunks until every lane has ended, a limit, or an interrupt between two chunks."""
    max_steps = limits.max_steps
    length = block_length(setup)
    recorder = _Recorder(lanes.status.shape[0])
    blocks, step, seconds, began = 1, 0, 0.0, time.perf_counter()
    with interrupts() as interrupted, contextlib.suppress(_Stop):
        while step < max_steps and bool((np.asarray(lanes.status) == Status.RUNNING).any()):
            first, goal = step, min(step + blocks * length, max_steps)
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
    status = np.array(lanes.status)
    left = Status.INTERRUPTED if interrupted.is_set() else Status.STEP_LIMIT
    status[status == Status.RUNNING] = left
    phi = lane_results(lanes, setup=setup)
    steps, history = np.asarray(lanes.step), recorder.history()
    return _Run(phi, status, steps, history, seconds, interrupted.is_set())


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
