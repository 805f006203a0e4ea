"""One solver, many restarts: checks at the door, lanes in chunks, a Fit."""

import contextlib
import math
import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jaxvi import _arguments
from jaxvi._compilation import (
    compile_clock,
    one_thread,
)
from jaxvi._engine import (
    MOST_TOGETHER,
    DataSource,
    EvalDraws,
    Lane,
    Limits,
    OneDevice,
    OnMesh,
    Pool,
    Ranking,
    Reporter,
    Run,
    Setup,
    Snapshot,
    Spread,
    Starts,
    Streamed,
    data_source,
    make_reporter,
    make_setup,
    out_of_memory,
    run_chunks,
    run_pool,
    start_lanes,
    usual_width,
    warn_of_memory,
)
from jaxvi._fitting.arguments import (
    check_concrete,
    check_data,
    check_hashable,
    check_layout,
    check_parts,
    check_solver,
    check_some_start,
    checked_start_scales,
    unconstrained_starts,
)
from jaxvi._fitting.precompile import CompileAlso, _await, _compiling, _Wanted
from jaxvi._fitting.request import Layout
from jaxvi._numerics import Keys, split_key
from jaxvi._persistence import Batch
from jaxvi._types import Data
from jaxvi.data import Stream, placed
from jaxvi.diagnostics import ImportanceWeights
from jaxvi.results import Fit, Timing, findings_of, warm_start
from jaxvi.target import Target


@one_thread()
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
    stop_when_sharp: bool = False,
    compile_also: CompileAlso | None = None,
    layout: Layout = Layout(),
    progress: bool | Reporter | None = None,
    checkpoint: Batch | None = None,
    minibatch: Any = None,
) -> Fit:
    """`jaxvi.fit` with one solver: every restart is a lane of one compiled batch.

    The lanes run together in chunks; the winner is chosen by a fresh bound on draws common to
    all, and every lane stays in the result. Arguments are those of `jaxvi.fit`, checked here; but
    for `patience`: once half of the lanes have converged, others get at most so many times the
    steps that these took, while fewer have, more in proportion; and for `stop_when_sharp`, see
    `rank_phis`. `compile_also` tells programs that the caller wants next, to be compiled with the
    others. Lanes that `checkpoint` has are gone on with.
    """
    began = time.perf_counter()
    key = _arguments.typed_key(key)
    _arguments.instance("target", target, Target, "jaxvi.Target(log_density, supports)")
    check_layout(layout, minibatch, data)
    check_concrete(data)
    on_one = layout.mesh is None
    dtype = check_data(target, data, minibatch) if on_one else target.check(data)
    mesh, num_rows = None, 0
    if not isinstance(data, Stream):
        data, mesh, num_rows = placed(target, data, layout.mesh)
    check_parts(family, objective, solver, noise)
    setup = make_setup(target, family, objective, solver, noise)
    check_hashable(setup)
    setup.check()
    check_solver(setup, minibatch)
    num_restarts = _arguments.integer("num_restarts", num_restarts, 1)
    max_steps = _arguments.integer("max_steps", max_steps, 1)
    num_eval_draws = _arguments.integer("num_eval_draws", num_eval_draws, 2)
    scale = checked_start_scales(start_scale, num_restarts, dtype)
    if max_seconds is not None:
        _arguments.number("max_seconds", max_seconds, above=0.0)
    warm = warm_start(start, setup, dtype) if isinstance(start, Fit) else None
    z = None if warm else unconstrained_starts(target, start, num_restarts, dtype)
    keys = split_key(key)
    with compile_clock() as compiling, contextlib.ExitStack() as stack:
        setup = setup.prepared(data, dtype)
        source = stack.enter_context(data_source(setup, keys.noise, data, minibatch, dtype))
        place = None if mesh is None else OnMesh(mesh, num_restarts, num_rows)
        report, close = make_reporter(progress if place is None or place.reports else False)
        budget = math.inf if max_seconds is None else began + max_seconds
        limits = Limits(max_steps, budget, patience)
        starts = Starts(z, scale, source.first, warm)
        found = _find(checkpoint, source.setup, keys, starts, max_steps)
        lanes = found.width if found else _pool_width(layout, num_restarts, source, keys, starts)
        if place is not None:
            source, keys = Spread(place, setup, data), place.place_keys(key)
            run = _run_on_mesh(place, keys, starts, source, limits, report, checkpoint, found)
        elif lanes is None:
            wanted = _Wanted(num_restarts, num_eval_draws, compile_also)
            run = _run_together(keys, starts, source, wanted, limits, report, checkpoint, found)
        else:
            loop = (keys, source.setup, starts, source.at(0)[0])
            pool = Pool(*loop, num_restarts, lanes, max_steps, layout.race)
            run = run_pool(pool, limits, report, checkpoint, found)
        close()
        check_some_start(run.status, source.first)
        ranking, weighed = source.rank(
            keys, run.phi, run.status, EvalDraws(num_eval_draws, stop_when_sharp)
        )
    timing = Timing(compiling.seconds, run.seconds, time.perf_counter() - began)
    return _as_fit(setup, run, ranking, weighed, timing, key, data)


def _as_fit(
    setup: Setup,
    run: Run,
    ranking: Ranking,
    weighed: ImportanceWeights | None,
    timing: Timing,
    key: Array,
    data: Data,
) -> Fit:
    """What ran, as the user sees it."""
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
        key=key,
        data=data,
        pool=run.pool,
    )
    return fit if weighed is None else replace(fit, findings=findings_of(fit, weighed))


def _pool_width(
    asked: Layout, num_restarts: int, source: DataSource, keys: Keys, starts: Starts
) -> int | None:
    """Lanes of a pool; None where all restarts run together."""
    pool, race, mesh = asked
    if pool is None:
        together = mesh is not None or isinstance(source, Streamed)
        together |= num_restarts <= MOST_TOGETHER
        pool = num_restarts
        if not together:
            pool = usual_width(source.setup, keys, starts, num_restarts)
    return min(pool, num_restarts) if race or pool < num_restarts else None


def _run_on_mesh(
    place: OnMesh,
    keys: Keys,
    starts: Starts,
    source: DataSource,
    limits: Limits,
    report: Reporter,
    checkpoint: Batch | None,
    found: Snapshot | None,
) -> Run:
    """All restarts, dealt out to the devices of a mesh."""
    z, scale, data, warm = starts
    if checkpoint is not None:
        place.check_same(-1 if found is None else int(found.numbers["step"]))
    if found is None:
        lanes = place.start_lanes(keys, z, scale, source.first, warm, setup=source.setup)
        check_some_start(place.look(lanes).status, data)
    else:
        lanes = place.place_lanes(found.lanes)
    return run_chunks(keys, lanes, source, limits, report, checkpoint, found, place)


def _run_together(
    keys: Keys,
    starts: Starts,
    source: DataSource,
    wanted: _Wanted,
    limits: Limits,
    report: Reporter,
    checkpoint: Batch | None,
    found: Snapshot | None,
) -> Run:
    """All restarts as one batch; where it doesn't fit in memory, as a pool of half as many."""
    setup, num_lanes = source.setup, wanted.num_lanes
    try:
        first = source.lower_first(keys, num_lanes, wanted.num_eval_draws)
        with _compiling(source, keys, starts, wanted, first) as coming:
            if found is None:
                _await(coming[: len(first) + 1] if coming else [])
                lanes = start_lanes(keys, *starts, setup=setup, num_lanes=num_lanes)
                check_some_start(np.asarray(lanes.status), starts.data)
            else:
                lanes = found.lanes
            _await(coming or [])
        return run_chunks(keys, lanes, source, limits, report, checkpoint, found, OneDevice())
    except Exception as error:
        can_halve = num_lanes > 1 and found is None and not isinstance(source, Streamed)
        if not (can_halve and out_of_memory(error)):
            raise
        warn_of_memory(num_lanes)
    data = source.at(0)[0]
    pool = Pool(keys, setup, starts, data, num_lanes, num_lanes // 2, limits.max_steps, False)
    return run_pool(pool, limits, report, checkpoint, None)


def _find(
    checkpoint: Batch | None,
    setup: Setup,
    keys: Keys,
    starts: Starts,
    max_steps: int,
) -> Snapshot | None:
    """Where the same restarts were left, if they were."""
    if checkpoint is None:
        return None

    def lanes(num: int) -> Lane:
        return jax.eval_shape(partial(start_lanes, setup=setup, num_lanes=num), keys, *starts)

    parts = (setup.family, setup.objective, setup.solver, setup.noise, keys, max_steps)
    return checkpoint.find(lanes, parts, (starts.z, starts.scale, starts.warm))
