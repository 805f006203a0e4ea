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
from jaxvi._on_mesh import OnMesh
from jaxvi._placement import OneDevice, Placement, Seen
from jaxvi._progress import Progress, Reporter, make_reporter
from jaxvi._status import Status
from jaxvi._types import Data
from jaxvi.lanes import (
    Keys,
    advance_lanes,
    compile_ranking,
    make_setup,
    start_lanes,
)
from jaxvi.mesh import placed
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
    progress: bool | Reporter | None = None,
    mesh: Any = None,
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
    data, mesh, num_rows = placed(target, data, mesh)
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
    warm = warm_start(start, setup, dtype) if isinstance(start, Fit) else None
    z = None if warm else _door.starts(target, start, num_restarts, dtype)
    place = OnMesh(mesh, num_restarts, num_rows) if mesh else OneDevice(num_restarts)
    with _door.compile_clock() as compiling:
        setup = setup.prepared(data, dtype)
        engine, keys, rows = place.place_setup(setup), place.place_keys(key), place.place_data(data)
        ahead = mesh is None
        with _compiling(setup, keys, (z, scale, data, warm), num_restarts, ahead) as wait:
            lanes = place.start_lanes(keys, z, scale, rows, warm, setup=engine)
            _door.some_start(place.look(lanes).status, data)
            if wait is not None:
                compile_ranking(keys, lanes, data, setup=setup, num_draws=num_eval_draws)
                with _door.waiting_for_compiler():
                    wait()
        report, close = make_reporter(progress if place.reports else False)
        budget = math.inf if max_seconds is None else began + max_seconds
        limits = _Limits(max_steps, budget, patience)
        run = _run_chunks(place, keys, lanes, rows, engine, limits, report)
        close()
        phi, ranking = place.rank_lanes(
            keys, run.lanes, rows, setup=engine, num_draws=num_eval_draws
        )
    return Fit(
        setup=setup,
        phi=phi,
        status=_final_status(run),
        steps=run.seen.step,
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


def _compiling(
    setup: Setup, keys: Keys, arguments: tuple[Any, ...], num_lanes: int, ahead: bool
) -> contextlib.AbstractContextManager[Callable[[], None] | None]:
    """The steps' program, compiled while the caller compiles those of starts and ranking."""
    if not ahead:
        return contextlib.nullcontext()
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

    def steps(self, lanes: Seen) -> int:
        """Steps that lanes may take, as far as can be told by now."""
        done = lanes.status == Status.CONVERGED
        if self.patience is None or 2 * done.sum() < len(done):
            return self.max_steps
        usual = max(float(np.median(lanes.step[done])), _USUAL_STEPS)
        return min(self.max_steps, math.ceil(self.patience * usual))


class _Run(NamedTuple):
    lanes: Lane
    seen: Seen
    history: History
    seconds: float
    interrupted: bool


def _final_status(run: _Run) -> np.ndarray:
    status = run.seen.status.copy()
    left = Status.INTERRUPTED if run.interrupted else Status.STEP_LIMIT
    status[status == Status.RUNNING] = left
    return status


def _run_chunks(
    place: Placement,
    keys: Keys,
    lanes: Lane,
    data: Data,
    setup: Setup,
    limits: _Limits,
    report: Reporter,
) -> _Run:
    """Chunks until every lane has ended, a limit, or an interrupt between two chunks."""
    max_steps, seen = limits.max_steps, place.look(lanes)
    length = block_length(setup)
    recorder = _Recorder(len(seen.status))
    blocks, step, seconds, began, stop = 1, 0, 0.0, time.perf_counter(), False
    with interrupts() as interrupted:
        while step < max_steps and bool((seen.status == Status.RUNNING).any()):
            first, goal = step, min(step + blocks * length, max_steps)
            with _door.compile_clock() as compiling:
                chunk_began = time.perf_counter()
                lanes, seen, rows, step = place.advance_lanes(
                    keys, lanes, step, goal, data, setup=setup, rows=_ROWS
                )
                elapsed = time.perf_counter() - chunk_began - compiling.seconds
            seconds += max(elapsed, 0.0)
            recorder.add(first, step, length, rows)
            pace = max(elapsed, 1e-6) / math.ceil((step - first) / length)
            blocks = min(_ROWS, 4 * blocks, max(1, int(_CHUNK_SECONDS / pace)))
            _report(report, seen, step, max_steps, time.perf_counter() - began, interrupted)
            max_steps = limits.steps(seen)
            late = time.perf_counter() >= limits.until
            blocks, stop = place.agree(blocks, interrupted.is_set() or late)
            if stop:
                interrupted.set()
                break
    history = recorder.history()
    return _Run(lanes, seen, history, seconds, stop)


def _report(
    report: Reporter,
    lanes: Seen,
    step: int,
    max_steps: int,
    seconds: float,
    interrupted: threading.Event,
) -> None:
    """Tell the observer; a KeyboardInterrupt raised in it stops the run as Ctrl-C does."""
    bounds = lanes.bound
    finite = bounds[np.isfinite(bounds)]
    running = int((lanes.status == Status.RUNNING).sum())
    best = float(finite.max()) if finite.size else math.nan
    try:
        report(Progress(step, max_steps, len(bounds), running, best, seconds))
    except KeyboardInterrupt:
        interrupted.set()


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
