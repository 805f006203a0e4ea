"""Restarts in turn in the lanes of a pool."""

import threading
import time

import jax
import jax.numpy as jnp

from jaxvi._checkpoint import Snapshot, SnapshotSink
from jaxvi._chunks import Limits, Run
from jaxvi._interrupts import interrupts
from jaxvi._memory import out_of_memory, warn_of_memory
from jaxvi._pool import Pool
from jaxvi._pool_kept import restore, snapshot
from jaxvi._progress import Progress, Reporter, tell_of
from jaxvi.result import History


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
    tell_of(progress, report, interrupted)
