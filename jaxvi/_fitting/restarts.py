"""The fit with one solver: start lanes for a request, run and rank them, make a `Fit`."""

import contextlib
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxvi._compilation import CompileClock, compile_clock, one_thread
from jaxvi._engine import (
    MAX_LANES_TOGETHER,
    DataSource,
    EvalDraws,
    Lane,
    LaneBatch,
    LanePool,
    Limits,
    OneDevice,
    OnMesh,
    Placement,
    Pool,
    Ranking,
    Reporter,
    Run,
    Setup,
    Snapshot,
    Spread,
    Starts,
    Streamed,
    WarmStart,
    data_source,
    drive,
    interrupts,
    make_reporter,
    make_setup,
    out_of_memory,
    start_lanes,
    usual_width,
    warn_of_memory,
)
from jaxvi._fitting.arguments import (
    check_data,
    check_hashable,
    check_solver,
    check_some_start,
    checked_start_scales,
    unconstrained_starts,
)
from jaxvi._fitting.precompile import Wanted, compiling, wait_for
from jaxvi._fitting.request import Request, RunOptions
from jaxvi._numerics import Keys, split_key
from jaxvi._persistence import LaneFile
from jaxvi._types import Data
from jaxvi.data import Stream, placed
from jaxvi.diagnostics import importance_weights_of
from jaxvi.results import Fit, Timing, findings_of, warm_start


@one_thread()
def fit_restarts(request: Request, options: RunOptions = RunOptions()) -> Fit:
    """Run every restart as a lane of one compiled batch, rank them, and keep them all.

    The lanes run together in chunks; the winner is chosen by a fresh bound on draws common to
    all. Lanes that are in `options.checkpoint` are resumed.

    Raises:
        TypeError, ValueError: data, starts or parts that don't fit the target or each other, or a
            log density that is not finite at any start.
    """
    began = time.perf_counter()
    prepared = _prepared(request)
    until = math.inf if options.max_seconds is None else began + options.max_seconds
    limits = Limits(request.max_steps, until, options.patience)
    with contextlib.ExitStack() as stack:
        clock = options.clock or stack.enter_context(compile_clock())
        compiled = clock.seconds
        setup = prepared.setup.prepared(prepared.data, prepared.dtype)
        keys = split_key(request.key)
        sourced = data_source(setup, keys.noise, prepared.data, request.minibatch, prepared.dtype)
        source = stack.enter_context(sourced)
        job = _Job(request, options, prepared, source, keys, limits, clock)
        job, run = _run(job)
        check_some_start(run.status, job.source.first)
        draws = EvalDraws(request.num_eval_draws, options.stop_when_sharp)
        ranking = job.source.rank(job.keys, run.phi, run.status, draws)
        compiled = clock.seconds - compiled
    timing = Timing(compiled, run.seconds, time.perf_counter() - began)
    return _as_fit(request, setup, prepared.data, run, ranking, timing)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What is derived from a request before it runs: setup, placed data, dtype, mesh, starts."""

    setup: Setup
    data: Data
    dtype: Any
    mesh: Any
    num_rows: int
    z: Float[Array, "*lanes dim"] | None
    scale: Float[Array, "*each"]
    warm: WarmStart | None


def _prepared(request: Request) -> _Prepared:
    """Check parts, starts and data against the target, and put data on their devices."""
    target, data, mesh, num_rows = request.target, request.data, None, 0
    on_one = request.layout.mesh is None
    dtype = check_data(target, data, request.minibatch) if on_one else target.check(data)
    if not isinstance(data, Stream):
        data, mesh, num_rows = placed(target, data, request.layout.mesh)
    family, objective, solver, noise, _ = request.parts
    setup = make_setup(target, family, objective, solver, noise)
    check_hashable(setup)
    setup.check()
    check_solver(setup, request.minibatch)
    start, num = request.start, request.num_restarts
    scale = checked_start_scales(request.start_scale, num, dtype)
    warm = warm_start(start, setup, dtype) if isinstance(start, Fit) else None
    z = None if warm else unconstrained_starts(target, start, num, dtype)
    return _Prepared(setup, data, dtype, mesh, num_rows, z, scale, warm)


@dataclass(frozen=True, eq=False)
class _Job:
    """Everything that a run needs: request, options, data source, keys, limits, clock."""

    request: Request
    options: RunOptions
    prepared: _Prepared
    source: DataSource
    keys: Keys
    limits: Limits
    clock: CompileClock

    @property
    def starts(self) -> Starts:
        """The starts of all restarts, as `start_lanes` takes them."""
        found = self.prepared
        return Starts(found.z, found.scale, self.source.first, found.warm)

    @property
    def checkpoint(self) -> LaneFile | None:
        """The file that lanes are saved to; None saves nothing."""
        return self.options.checkpoint


def _run(job: _Job) -> tuple[_Job, Run]:
    """Run on a mesh, as one batch, or as a pool; the job returned has the source that ran."""
    request, prepared = job.request, job.prepared
    place = None
    if prepared.mesh is not None:
        place = OnMesh(prepared.mesh, request.num_restarts, prepared.num_rows)
    progress = job.options.progress
    report, close = make_reporter(progress if place is None or place.reports else False)
    found = _found(job)
    width = found.width if found else _pool_width(job)
    if place is not None:
        source = Spread(place, job.source.setup, prepared.data)
        job = replace(job, source=source, keys=place.place_keys(request.key))
        run = _run_on_mesh(job, place, found, report)
    elif width is None:
        run = _run_together(job, found, report)
    else:
        run = _run_pool(job, width, found, report)
    close()
    return job, run


def _found(job: _Job) -> Snapshot | None:
    """The snapshot of these restarts in the checkpoint, or None."""
    if job.checkpoint is None:
        return None
    setup, keys, starts = job.source.setup, job.keys, job.starts

    def lanes(num: int) -> Lane:
        return jax.eval_shape(partial(start_lanes, setup=setup, num_lanes=num), keys, *starts)

    max_steps = job.limits.max_steps
    parts = (setup.family, setup.objective, setup.solver, setup.noise, keys, max_steps)
    return job.checkpoint.find(lanes, parts, (starts.z, starts.scale, starts.warm))


def _pool_width(job: _Job) -> int | None:
    """Number of lanes of a pool; None if all restarts run together."""
    (pool, race, mesh), num_restarts = job.request.layout, job.request.num_restarts
    if pool is None:
        together = mesh is not None or isinstance(job.source, Streamed)
        together |= num_restarts <= MAX_LANES_TOGETHER
        pool = num_restarts
        if not together:
            pool = usual_width(job.source.setup, job.keys, job.starts, num_restarts)
    return min(pool, num_restarts) if race or pool < num_restarts else None


def _run_on_mesh(job: _Job, place: OnMesh, found: Snapshot | None, report: Reporter) -> Run:
    """Run all restarts, dealt out to the devices of a mesh."""
    z, scale, data, warm = job.starts
    if job.checkpoint is not None:
        place.check_same(-1 if found is None else int(found.numbers["step"]))
    if found is None:
        lanes = place.start_lanes(job.keys, z, scale, data, warm, setup=job.source.setup)
        check_some_start(place.look(lanes).status, data)
    else:
        lanes = place.place_lanes(found.lanes)
    return _run_batch(job, lanes, place, found, report)


def _run_together(job: _Job, found: Snapshot | None, report: Reporter) -> Run:
    """Run all restarts as one batch; if memory runs out, as a pool of half as many lanes."""
    request, source, starts = job.request, job.source, job.starts
    num_lanes = request.num_restarts
    wanted = Wanted(num_lanes, request.num_eval_draws, job.options.compile_also)
    try:
        first = source.lower_first(job.keys, num_lanes, wanted.num_eval_draws)
        with compiling(source, job.keys, starts, wanted, first) as coming:
            if found is None:
                wait_for(coming[: len(first) + 1] if coming else [], job.clock)
                lanes = start_lanes(job.keys, *starts, setup=source.setup, num_lanes=num_lanes)
                check_some_start(np.asarray(lanes.status), starts.data)
            else:
                lanes = found.lanes
            wait_for(coming or [], job.clock)
        return _run_batch(job, lanes, OneDevice(), found, report)
    except Exception as error:
        can_halve = num_lanes > 1 and found is None and not isinstance(source, Streamed)
        if not (can_halve and out_of_memory(error)):
            raise
        warn_of_memory(num_lanes)
    return _run_pool(job, num_lanes // 2, None, report)


def _run_batch(
    job: _Job, lanes: Lane, place: Placement, found: Snapshot | None, report: Reporter
) -> Run:
    """Run one batch of lanes, new or from a snapshot, until all have ended."""
    batch = LaneBatch(job.keys, lanes, job.source, job.limits, place, job.clock)
    if found is not None:
        batch.restore(found)
    return _drive(batch, job, report)


def _run_pool(job: _Job, width: int, found: Snapshot | None, report: Reporter) -> Run:
    """Run restarts in turn in a pool of `width` lanes."""
    num, race = job.request.num_restarts, job.request.layout.race
    data, rest = job.source.at(0)[0], (job.limits.max_steps, race, job.clock)
    pool = LanePool(Pool(job.keys, job.source.setup, job.starts, data, num, width, *rest))
    if found is not None:
        pool.restore(found)
    return _drive(pool, job, report)


def _drive(work: LaneBatch | LanePool, job: _Job, report: Reporter) -> Run:
    """Run the host loop, which ends between two chunks on Ctrl-C."""
    with interrupts() as interrupted:
        stopped = drive(
            work, interrupted, until=job.limits.until, report=report, sink=job.checkpoint
        )
    return work.outcome(stopped)


def _as_fit(
    request: Request, setup: Setup, data: Data, run: Run, ranking: Ranking, timing: Timing
) -> Fit:
    """Make the `Fit`; if lanes were ranked by rows, its findings weigh the ranking's draws."""
    fit = Fit(
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
        timing=timing,
        interrupted=run.interrupted,
        key=request.key,
        data=data,
        pool=run.pool,
    )
    if ranking.draws is None:
        return fit
    weights = importance_weights_of(*ranking.draws, ranking.log_weights)
    return replace(fit, findings=findings_of(fit, weights))
