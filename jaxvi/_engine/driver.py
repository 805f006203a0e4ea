"""All lanes of a batch together, in chunks, until they have ended."""

import math
import threading
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvi._compilation import compile_clock
from jaxvi._engine.data_sources import DataSource, StreamBroke, tell
from jaxvi._engine.history import History, Recorder
from jaxvi._engine.interruption import interrupts
from jaxvi._engine.limits import MAX_BLOCKS, Limits, next_blocks
from jaxvi._engine.loop import Lane, block_length
from jaxvi._engine.memory import out_of_memory, warn_of_memory
from jaxvi._engine.placement import Placement, Seen
from jaxvi._engine.pool import Pool, PoolUse
from jaxvi._engine.pool_snapshot import restore, snapshot
from jaxvi._engine.progress import Progress, Reporter, report_progress
from jaxvi._engine.snapshot import Snapshot, SnapshotSink
from jaxvi._numerics import Keys
from jaxvi._status import Status
from jaxvi._types import Phi


class Run(NamedTuple):
    phi: Phi
    status: np.ndarray
    steps: np.ndarray
    history: History
    seconds: float
    interrupted: bool
    pool: PoolUse | None = None


def run_chunks(
    keys: Keys,
    lanes: Lane,
    source: DataSource,
    limits: Limits,
    report: Reporter,
    checkpoint: SnapshotSink | None,
    found: Snapshot | None,
    place: Placement,
) -> Run:
    """Chunks until every lane has ended, a limit, or an interrupt between two chunks."""
    max_steps, seen = limits.max_steps, place.look(lanes)
    setup, length = source.setup, block_length(source.setup)
    recorder = Recorder(len(seen.status))
    blocks, step, seconds, began, stop = 1, 0, 0.0, time.perf_counter(), False
    if found is not None:
        step, max_steps, seconds = recorder.restore(found)

    def save() -> None:
        if checkpoint is not None:
            checkpoint.save(recorder.snapshot(place.whole(lanes), step, max_steps, seconds))

    def is_due() -> bool:
        return checkpoint is not None and checkpoint.is_due()

    with interrupts() as interrupted:
        if place.agree(blocks, False, is_due())[2]:
            save()
        while step < max_steps and bool((seen.status == Status.RUNNING).any()):
            try:
                data, end = source.at(step)
            except StreamBroke as error:
                tell(error, step)
                stop = True
                break
            look = limits.next_look(step, length)
            first, goal = step, min(step + blocks * length, max_steps, look, end)
            with compile_clock() as compiling:
                chunk_began = time.perf_counter()
                lanes, seen, rows, step = place.advance_lanes(
                    keys, lanes, step, goal, data, setup=setup, rows=MAX_BLOCKS
                )
                elapsed = time.perf_counter() - chunk_began - compiling.seconds
            seconds += max(elapsed, 0.0)
            recorder.add(first, step, length, rows)
            pace = max(elapsed, 1e-6) / math.ceil((step - first) / length)
            blocks = next_blocks(blocks, pace)
            if step == look:
                max_steps = limits.steps(seen)
            late = time.perf_counter() >= limits.until
            report_run(report, seen, step, max_steps, time.perf_counter() - began, interrupted)
            blocks, stop, due = place.agree(blocks, interrupted.is_set() or late, is_due())
            if stop:
                break
            if due:
                save()
        save()
    status = seen.status.copy()
    status[status == Status.RUNNING] = Status.INTERRUPTED if stop else Status.STEP_LIMIT
    phi = place.results(lanes, setup)
    return Run(phi, status, seen.step, recorder.history(), seconds, stop)


def report_run(
    report: Reporter,
    lanes: Seen,
    step: int,
    max_steps: int,
    seconds: float,
    interrupted: threading.Event,
) -> None:
    """Tell the observer."""
    bounds = lanes.bound
    finite = bounds[np.isfinite(bounds)]
    running = int((lanes.status == Status.RUNNING).sum())
    best = float(finite.max()) if finite.size else math.nan
    progress = Progress(step, max_steps, len(bounds), running, best, seconds)
    report_progress(progress, report, interrupted)


def run_pool(
    pool: Pool,
    limits: Limits,
    report: Reporter,
    checkpoint: SnapshotSink | None,
    found: Snapshot | None,
) -> Run:
    """Until all restarts have ended, a limit, or an interrupt; half as wide where it has to be."""
    if found is not None:
        restore(pool, found)
    began, fresh = time.perf_counter(), found is None
    with interrupts() as interrupted:
        while pool.ended < pool.num_restarts:
            try:
                pool.settle()
                if checkpoint is not None and (fresh or checkpoint.is_due()):
                    checkpoint.save(snapshot(pool))
                    fresh = False
                pool.advance()
            except Exception as error:
                if not (pool.is_new and pool.width > 1 and out_of_memory(error)):
                    raise
                warn_of_memory(pool.width)
                pool, fresh = pool.narrower(), True
                continue
            _report(report, pool, time.perf_counter() - began, interrupted)
            if time.perf_counter() >= limits.until:
                interrupted.set()
            if interrupted.is_set():
                break
        if checkpoint is not None:
            checkpoint.save(snapshot(pool))
    results = pool.end()
    phi = jax.tree.map(jnp.asarray, results.phi)
    history = History(*pool.history.table(limits.max_steps, len(results.steps)))
    stopped = interrupted.is_set()
    status, steps = results.status, results.steps
    return Run(phi, status, steps, history, pool.seconds, stopped, pool.use())


def _report(report: Reporter, pool: Pool, seconds: float, interrupted: threading.Event) -> None:
    progress = Progress(
        pool.last_step, pool.max_steps, pool.num_restarts, pool.num_left, pool.best_bound, seconds
    )
    report_progress(progress, report, interrupted)
