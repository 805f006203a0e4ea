"""A pool of lanes for many restarts: one that has ended makes room for the next.

A batch that waits for its slowest lane wastes what the others could do. Here a fixed number of
lanes run; between two chunks finished restarts are put away and others begin in their places, as
a cohort with steps of its own. Noise belongs to a restart's own step, so that every restart sees
what it would see alone.

Where a chunk ends depends on the clock. When restarts are put away, dropped and begun does not: it
is when enough of them have ended, or are due for a look, whatever the chunks. So the same restarts
share the batch at the same steps in every run, and a run that was stopped goes on bit for bit.
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

_SHARE = 16  # a cohort is one in so many lanes
_MOST_COHORTS = 64
_COHORTS_NOISE = 2**24  # numbers


class Places(NamedTuple):
    """Who is where in a pool: each lane's restart and cohort, whether it moves; cohorts' steps."""

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
    """These restarts at their starts, as `start_lanes` has them."""
    return lanes_at_starts(setup, keys, restarts, z, start_scale, data, warm)


@partial(jax.jit, donate_argnames=("lanes",))
def place_lanes(lanes: Lane, fresh: Lane, places: Int[Array, "some"]) -> Lane:
    """Lanes with fresh ones in some places; a place beyond the last is nowhere."""
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
    """A chunk of those lanes that move; see `run_cohorts`."""
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
    """Of all restarts, filled in as they end; -1 steps where one was never begun."""

    phi: Any
    status: Int[np.ndarray, "restarts"]
    steps: Int[np.ndarray, "restarts"]


class Pool:
    """A run of many restarts: `settle` and `advance`, in turn, until `ended` is all of them."""

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
        self.some = max(1, width // _SHARE)
        self.begun = 0
        self.blocks = 1  # of the next chunk
        self.seconds = 0.0
        self.cohorts, self.lane_steps = 0, 0
        noise = noise_size(setup)
        most = min(width, _MOST_COHORTS, max(4, _COHORTS_NOISE // (noise * self.length)))
        nobody = np.full(width, -1, np.int32)
        cohort, steps = np.zeros_like(nobody), np.zeros(most, np.int32)
        self.places = Places(nobody, cohort, nobody > 0, steps)
        self.lanes: Lane | None = None
        self.status = np.full(width, Status.NO_START)  # of the lanes, as the device has them
        self.results: Results | None = None
        self.history = HistoryRecorder(num_restarts, self.length)

    def narrower(self) -> "Pool":
        """A new pool of half the width."""
        arguments = (self.keys, self.setup, self.starts, self.data, self.num_restarts)
        rest = (self.max_steps, self.race is not None, self.clock)
        return Pool(*arguments, self.width // 2, *rest)

    @property
    def is_new(self) -> bool:
        """Whether no lane has moved yet."""
        return not self.lane_steps

    @property
    def occupied(self) -> Bool[np.ndarray, "lanes"]:
        """Lanes that hold a restart which has not been put away."""
        return self.places.restart >= 0

    @property
    def steps(self) -> Int[np.ndarray, "lanes"]:
        """Each lane's step, while it runs."""
        return self.places.step[self.places.cohort]

    @property
    def running(self) -> Bool[np.ndarray, "lanes"]:
        """Lanes that go on."""
        return self.occupied & (self.status == Status.RUNNING) & (self.steps < self.max_steps)

    @property
    def ended(self) -> int:
        """Restarts that have been put away."""
        return self.begun - int(self.occupied.sum())

    @property
    def num_left(self) -> int:
        """Restarts that have not ended."""
        return self.num_restarts - self.begun + int(self.running.sum())

    @property
    def last_step(self) -> int:
        """The largest step of a lane that runs."""
        return int(self.steps[self.running].max(initial=0))

    @property
    def best_bound(self) -> float:
        """The largest mean bound of a block, of lanes that run."""
        if self.lanes is None or not self.running.any():
            return math.nan
        bounds = np.asarray(self.lanes.bound)[self.running]
        return float(np.max(bounds[np.isfinite(bounds)], initial=-math.inf))

    def settle(self) -> None:
        """Put away what has ended and begin others, as often as it is time for it."""
        while self.ended < self.num_restarts and self._is_time():
            if self.lanes is not None:
                self.collect()
            self.fill()

    def _is_time(self) -> bool:
        """Whether nobody runs, a race looks, or there is room enough for a cohort.

        `advance` lets no chunk run past such a block, however long its chunks are.
        """
        running = self.running
        due = self.race is not None and self.race.is_due(
            self.places.restart[running], self.steps[running]
        )
        room = self._until_room(running)
        return due or not running.any() or (room is not None and room <= 0 and self._unused() >= 0)

    def _until_room(self, running: Bool[np.ndarray, "lanes"]) -> int | None:
        """How many lanes have to end for the next cohort; None where none is to come."""
        some = min(self.some, self.num_restarts - self.begun)
        return some - int((~running).sum()) if some else None

    def _unused(self) -> int:
        """A cohort of which nobody runs, or -1."""
        used = np.bincount(self.places.cohort[self.running], minlength=len(self.places.step))
        return -1 if used.all() else int(np.argmin(used > 0))

    def fill(self) -> None:
        """A cohort of new restarts in free lanes, where there are enough of them."""
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
                self.lanes = _nobody(fresh, self.width)
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
        """A chunk: full blocks where there is room for one, else the rest of a cohort's last."""
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
        """Blocks of `steps` steps at most, and the least number of lanes that run in a chunk, so
        that it does not run past the block at which it is time to settle."""
        blocks = min(self.blocks, int((left[moves] // steps).min()), MAX_BLOCKS)
        if self.race is not None:
            to_look = self.race.until_look(self.places.restart[moves], self.steps[moves])
            blocks = min(blocks, -(-to_look // steps))
        room = self._until_room(running)
        if room is None:
            return blocks, 1
        if room <= 0:  # there is room, but no cohort: has one come free?
            return 1, 1
        return blocks, max(int(moves.sum()) - room + 1, 1)

    def collect(self, ending: Status | None = None) -> None:
        """Put away what has ended; with `ending`, everything, what runs with that status."""
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
        """Of all restarts that were begun."""
        self.collect(Status.INTERRUPTED)
        assert self.results is not None
        return jax.tree.map(lambda leaf: leaf[: self.begun], self.results)

    def use(self) -> PoolUse:
        """How the pool was used so far."""
        assert self.results is not None
        taken = int(np.maximum(self.results.steps, 0).sum())
        return PoolUse(self.width, self.cohorts, 1.0 - taken / max(self.lane_steps, 1))


def _nobody(fresh: Lane, width: int) -> Lane:
    """Lanes that have ended before they began."""
    lanes = jax.tree.map(lambda leaf: jnp.zeros((width, *leaf.shape[1:]), leaf.dtype), fresh)
    return lanes._replace(status=jnp.full(width, Status.NO_START, jnp.int32))


def no_results(lanes: Lane, setup: Setup, num: int) -> Results:
    """Results of `num` restarts, none of which has ended."""
    phis = jax.eval_shape(partial(lane_results, setup=setup), lanes)
    phi = jax.tree.map(lambda leaf: np.zeros((num, *leaf.shape[1:]), leaf.dtype), phis)
    return Results(phi, np.full(num, Status.NO_START), np.full(num, -1))
