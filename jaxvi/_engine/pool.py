"""A pool: a fixed number of lanes through which more restarts pass, one after another.

A batch that waits for its slowest lane leaves the others idle. In a pool, between two chunks,
restarts that have ended are stored and others begin in their lanes, as a cohort with steps of its
own. Noise depends on a restart's own step, so that every restart runs as it would alone.

Where a chunk ends depends on the clock. When restarts are stored, pruned and begun does not: it is
when enough of them have ended or a race is due, whatever the chunks. So the same restarts
share the batch at the same steps in every run, and a resumed run is the same bit for bit.
"""

import math
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxvi._compilation import ONCE, STEPS, CompileClock, light_jit
from jaxvi._engine.history import HistoryRecorder
from jaxvi._engine.lanes import lane_results, noise_keys
from jaxvi._engine.limits import MAX_BLOCKS, next_blocks
from jaxvi._engine.loop import Lane, block_length, run_cohorts
from jaxvi._engine.memory import noise_size
from jaxvi._engine.race import Race
from jaxvi._engine.setup import AnySetup, Setup
from jaxvi._engine.starts import Starts, WarmStart, lanes_at_starts
from jaxvi._numerics import Keys
from jaxvi._status import Status
from jaxvi._types import Data

_WIDTH_OVER_COHORT_SIZE = 16  # a cohort begins when 1/16 of the lanes are free
_MAX_COHORTS = 64
_MAX_COHORT_NOISE_NUMBERS = 2**24  # of a block's noise, all cohorts together


class Places(NamedTuple):
    """What each lane of a pool holds: restart, cohort, whether it moves; and cohorts' steps."""

    restart: Any  # of (lanes,), and so `cohort` and `moves`; NumPy's on the host
    cohort: Any
    moves: Any
    step: Any


@light_jit(ONCE, static_argnames="setup")
def start_some(
    keys: Keys,
    z: Float[Array, "*all dim"] | None,
    start_scale: Float[Array, "*each"],
    data: Data,
    warm: WarmStart | None,
    restarts: Int[Array, "some"],
    *,
    setup: Setup,
) -> Lane:
    """Lanes for these restarts, at their starts."""
    return lanes_at_starts(setup, keys, restarts, z, start_scale, data, warm)


@partial(jax.jit, donate_argnames=("lanes",))
def place_lanes(lanes: Lane, fresh: Lane, places: Int[Array, "some"]) -> Lane:
    """Write fresh lanes into these places; a place past the last lane is ignored."""
    return jax.tree.map(lambda old, new: old.at[places].set(new, mode="drop"), lanes, fresh)


@light_jit(STEPS, static_argnames=("setup", "rows"), donate_argnames=("lanes",))
def advance_pool(
    keys: Keys,
    lanes: Lane,
    places: Places,
    num_steps: Int[Array, ""],
    blocks: Int[Array, ""],
    least_running: Int[Array, ""],
    data: Data,
    *,
    setup: AnySetup,
    rows: int,
) -> tuple[Lane, Float[Array, "rows lanes"], Int[Array, ""]]:
    """Advance the lanes that move by a chunk, see `run_cohorts`."""
    held = jnp.where(places.moves, lanes.status, Status.STEP_LIMIT)
    moved, history, done = run_cohorts(
        setup,
        noise_keys(keys, places.restart, setup),
        lanes._replace(status=held),
        places.cohort,
        places.step,
        num_steps,
        blocks,
        least_running,
        rows,
        data,
    )
    status = jnp.where(places.moves, moved.status, lanes.status)
    return moved._replace(status=status), history, done


class PoolUse(NamedTuple):
    """How a pool was used: its width, cohorts begun, and the share of lane-steps that were idle."""

    width: int
    cohorts: int
    idle_share: float


class Results(NamedTuple):
    """Results of all restarts, filled in as they end; steps are -1 for one that never began."""

    phi: Any
    status: Int[np.ndarray, "restarts"]
    steps: Int[np.ndarray, "restarts"]


class Pool:
    """Many restarts in a few lanes: `settle` and `advance` in turn until all have `ended`."""

    def __init__(
        self,
        keys: Keys,
        setup: Setup,
        starts: Starts,
        data: Data,
        num_restarts: int,
        width: int,
        max_steps: int,
        race: bool,
        clock: CompileClock,
    ) -> None:
        self.keys, self.setup, self.starts, self.data = keys, setup, starts, data
        self.num_restarts, self.width, self.max_steps = num_restarts, width, max_steps
        self.clock = clock
        self.race = Race(keys.ranking, setup, data, num_restarts) if race else None
        self.length = block_length(setup)
        self.some = max(1, width // _WIDTH_OVER_COHORT_SIZE)
        self.begun = 0
        self.blocks = 1  # of the next chunk
        self.seconds = 0.0
        self.cohorts, self.lane_steps = 0, 0
        noise = noise_size(setup)
        most = min(width, _MAX_COHORTS, max(4, _MAX_COHORT_NOISE_NUMBERS // (noise * self.length)))
        no_restart = np.full(width, -1, np.int32)
        cohort, steps = np.zeros_like(no_restart), np.zeros(most, np.int32)
        self.places = Places(no_restart, cohort, no_restart > 0, steps)
        self.lanes: Lane | None = None
        self.status = np.full(width, Status.NO_START)  # of the lanes, as the device has them
        self.results: Results | None = None
        self.history = HistoryRecorder(num_restarts, self.length)

    def narrower(self) -> "Pool":
        """A new pool for the same restarts, with half the lanes."""
        arguments = (self.keys, self.setup, self.starts, self.data, self.num_restarts)
        rest = (self.max_steps, self.race is not None, self.clock)
        return Pool(*arguments, self.width // 2, *rest)

    @property
    def is_new(self) -> bool:
        """Whether no lane has taken a step yet."""
        return not self.lane_steps

    @property
    def occupied(self) -> Bool[np.ndarray, "lanes"]:
        """Which lanes hold a restart that has not been stored."""
        return self.places.restart >= 0

    @property
    def steps(self) -> Int[np.ndarray, "lanes"]:
        """The step of each lane's cohort, which is the lane's while it runs."""
        return self.places.step[self.places.cohort]

    @property
    def running(self) -> Bool[np.ndarray, "lanes"]:
        """Which lanes hold a restart that has not ended."""
        return self.occupied & (self.status == Status.RUNNING) & (self.steps < self.max_steps)

    @property
    def ended(self) -> int:
        """Number of restarts that have ended and been stored."""
        return self.begun - int(self.occupied.sum())

    @property
    def num_left(self) -> int:
        """Number of restarts that run or have not begun."""
        return self.num_restarts - self.begun + int(self.running.sum())

    @property
    def last_step(self) -> int:
        """The largest step of any running lane."""
        return int(self.steps[self.running].max(initial=0))

    @property
    def best_bound(self) -> float:
        """The largest mean bound over the last block, of running lanes."""
        if self.lanes is None or not self.running.any():
            return math.nan
        bounds = np.asarray(self.lanes.bound)[self.running]
        return float(np.max(bounds[np.isfinite(bounds)], initial=-math.inf))

    def settle(self) -> None:
        """Store restarts that have ended and begin others, until it is no longer time to."""
        while self.ended < self.num_restarts and self._is_time():
            if self.lanes is not None:
                self.collect()
            self.fill()

    def _is_time(self) -> bool:
        """Whether no lane runs, a race is due, or enough lanes are free for a cohort.

        `advance` ends a chunk at the first block where this is so.
        """
        running = self.running
        due = self.race is not None and self.race.is_due(
            self.places.restart[running], self.steps[running]
        )
        room = self._until_room(running)
        return due or not running.any() or (room is not None and room <= 0 and self._unused() >= 0)

    def _until_room(self, running: Bool[np.ndarray, "lanes"]) -> int | None:
        """How many lanes have to end before the next cohort begins; None if there is none."""
        some = min(self.some, self.num_restarts - self.begun)
        return some - int((~running).sum()) if some else None

    def _unused(self) -> int:
        """The number of a cohort without running lanes, or -1."""
        used = np.bincount(self.places.cohort[self.running], minlength=len(self.places.step))
        return -1 if used.all() else int(np.argmin(used > 0))

    def fill(self) -> None:
        """Begin a cohort of new restarts in free lanes, if enough are free."""
        free = np.flatnonzero(~self.occupied)
        left = self.num_restarts - self.begun
        cohort = self._unused()
        if not left or cohort < 0 or len(free) < min(self.some, left):
            return
        self.places.step[cohort] = 0
        self.cohorts += 1
        for first in range(0, min(len(free), left), self.some):
            slots = free[first : first + min(self.some, left)]
            restarts = self.begun + np.arange(len(slots))
            padding = self.some - len(slots)
            fresh = start_some(
                self.keys,
                *self.starts,
                jnp.asarray(np.pad(restarts, (0, padding), mode="edge"), jnp.int32),
                setup=self.setup,
            )
            if self.lanes is None:
                self.lanes = _empty_lanes(fresh, self.width)
                self.results = no_results(self.lanes, self.setup, self.num_restarts)
            places = jnp.asarray(np.pad(slots, (0, padding), constant_values=self.width), jnp.int32)
            self.lanes = place_lanes(self.lanes, fresh, places)
            self.places.restart[slots] = restarts
            self.places.cohort[slots] = cohort
            self.begun += len(slots)
            left -= len(slots)
        assert self.lanes is not None
        self.status = np.array(self.lanes.status)

    def advance(self) -> None:
        """Run a chunk: full blocks, or if none fits before the step limit, the last short block."""
        running = self.running
        if not running.any():
            return
        left = np.where(running, self.max_steps - self.steps, 0)
        full = left >= self.length
        steps = self.length if full.any() else int(left[left > 0].min())
        moves = full if full.any() else left == steps
        blocks, least = self._limits(running, moves, left, steps)
        began, compiled = time.perf_counter(), self.clock.seconds
        self.lanes, rows, done = advance_pool(
            self.keys,
            self.lanes,
            Places(*(jnp.asarray(part) for part in self.places._replace(moves=moves))),
            jnp.int32(steps),
            jnp.int32(blocks),
            jnp.int32(least),
            self.data,
            setup=self.setup,
            rows=MAX_BLOCKS,
        )
        done = int(done)
        elapsed = time.perf_counter() - began - (self.clock.seconds - compiled)
        elapsed = max(elapsed, 1e-6)
        self.seconds += elapsed
        self.lane_steps += done * steps * self.width
        self.status, taken = np.array(self.lanes.status), np.array(self.lanes.step)
        ran = np.flatnonzero(moves)
        restart, first = self.places.restart[ran], self.steps[ran]
        self.history.add(np.asarray(rows)[:done, ran], restart, first, steps, taken[ran])
        self.places.step[np.unique(self.places.cohort[moves])] += done * steps
        self.blocks = next_blocks(self.blocks, elapsed / max(done, 1))

    def _limits(
        self,
        running: Bool[np.ndarray, "lanes"],
        moves: Bool[np.ndarray, "lanes"],
        left: Int[np.ndarray, "lanes"],
        steps: int,
    ) -> tuple[int, int]:
        """The most blocks of a chunk, and the fewest running lanes with which it goes on.

        Both together end the chunk at the block where it is time to settle.
        """
        blocks = min(self.blocks, int((left[moves] // steps).min()), MAX_BLOCKS)
        if self.race is not None:
            to_look = self.race.until_look(self.places.restart[moves], self.steps[moves])
            blocks = min(blocks, -(-to_look // steps))
        room = self._until_room(running)
        if room is None:
            return blocks, 1
        if room <= 0:  # lanes are free but all cohorts are in use: check after every block
            return 1, 1
        return blocks, max(int(moves.sum()) - room + 1, 1)

    def collect(self, ending: Status | None = None) -> None:
        """Store restarts that have ended; with `ending`, also running ones, with that status."""
        assert self.lanes is not None
        assert self.results is not None
        status, steps = self.status.copy(), self.steps
        status[(status == Status.RUNNING) & (steps >= self.max_steps)] = Status.STEP_LIMIT
        phis = None
        if self.race is not None and ending is None:
            phis = lane_results(self.lanes, setup=self.setup)
            running = self.occupied & (status == Status.RUNNING)
            behind = self.race.look(phis, self.places.restart, steps, running, self.occupied)
            status[behind] = Status.PRUNED
        if ending is not None:
            status[status == Status.RUNNING] = ending
        done = np.flatnonzero(self.occupied & (status != Status.RUNNING))
        if not len(done):
            return
        phis = lane_results(self.lanes, setup=self.setup) if phis is None else phis
        restarts = self.places.restart[done]
        for all_, here in zip(
            jax.tree.leaves(self.results.phi), jax.tree.leaves(phis), strict=True
        ):
            all_[restarts] = np.asarray(here)[done]
        self.results.status[restarts] = status[done]
        self.results.steps[restarts] = np.asarray(self.lanes.step)[done]
        self.places.restart[done] = -1

    def end(self) -> Results:
        """Store running restarts as interrupted; returns the results of all that were begun."""
        self.collect(Status.INTERRUPTED)
        assert self.results is not None
        return jax.tree.map(lambda leaf: leaf[: self.begun], self.results)

    def use(self) -> PoolUse:
        """Width, number of cohorts and idle share so far."""
        assert self.results is not None
        taken = int(np.maximum(self.results.steps, 0).sum())
        return PoolUse(self.width, self.cohorts, 1.0 - taken / max(self.lane_steps, 1))


def _empty_lanes(fresh: Lane, width: int) -> Lane:
    """A pool's lanes before any restart has begun; their status is `NO_START`."""
    lanes = jax.tree.map(lambda leaf: jnp.zeros((width, *leaf.shape[1:]), leaf.dtype), fresh)
    return lanes._replace(status=jnp.full(width, Status.NO_START, jnp.int32))


def no_results(lanes: Lane, setup: Setup, num: int) -> Results:
    """Results of `num` restarts, none of which has ended."""
    phis = jax.eval_shape(partial(lane_results, setup=setup), lanes)
    phi = jax.tree.map(lambda leaf: np.zeros((num, *leaf.shape[1:]), leaf.dtype), phis)
    return Results(phi, np.full(num, Status.NO_START), np.full(num, -1))
