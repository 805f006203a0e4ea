"""A pool of lanes for many restarts: one that has ended makes room for the next.

A batch that waits for its slowest lane wastes what the others could do. Here a fixed number of
lanes run; between two chunks finished restarts are put away and others begin in their places, as
a cohort with steps of its own. Noise belongs to a restart's own step, so that every restart sees
what it would see alone.
"""

import math
import time
import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxvi import _door
from jaxvi._loop import AnySetup, Lane, Setup, block_length, run_cohorts
from jaxvi._pace import ROWS, next_blocks
from jaxvi._race import Race
from jaxvi._status import Status
from jaxvi._stretched_history import StretchedHistory
from jaxvi._types import Data
from jaxvi.lanes import Keys, WarmStart, lane_results, lanes_at_starts, noise_keys

MOST_TOGETHER = 64  # restarts that always run as one batch, unless told otherwise
_SHARE = 16  # a cohort is one in so many lanes
_MOST_COHORTS = 64
_COHORTS_NOISE = 2**24  # numbers
_BUDGET = 2**30  # bytes of lanes at once, where the device doesn't say what it has
_WIDEST, _WIDE = {"cpu": 256}, 4_096  # with more, every lane takes as much longer


class Places(NamedTuple):
    """Who is where in a pool: each lane's restart and cohort, whether it moves; cohorts' steps."""

    restart: Any  # of (lanes,), and so `cohort` and `moves`; NumPy's on the host
    cohort: Any
    moves: Any
    step: Any


@partial(jax.jit, static_argnames="setup")
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


@partial(jax.jit, static_argnames=("setup", "rows"), donate_argnames=("lanes",))
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


class Starts(NamedTuple):
    """Where restarts begin, as `start_lanes` has it."""

    z: Float[Array, "*all dim"] | None
    scale: Float[Array, "*each"]
    data: Data
    warm: WarmStart | None


class Results(NamedTuple):
    """Of all restarts, filled in as they end; -1 steps where one was never begun."""

    phi: Any
    status: Int[np.ndarray, "restarts"]
    steps: Int[np.ndarray, "restarts"]


def out_of_memory(error: Exception) -> bool:
    """Whether a device or the system had no more."""
    words = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def warn_of_memory(width: int) -> None:
    """What is done about it."""
    warnings.warn(
        f"{width} restarts at once don't fit in memory: they run in a pool of {width // 2} lanes; "
        f"pool={width // 2} or less says so from the start.",
        RuntimeWarning,
        stacklevel=6,
    )


def usual_width(setup: Setup, keys: Keys, starts: Starts) -> int:
    """Lanes that the device holds easily."""
    one = jax.eval_shape(partial(start_some, setup=setup), keys, *starts, jnp.zeros(1, jnp.int32))
    noise, num_draws = _noise(setup)
    # noise of a block; and of every draw what a density may keep of the data for its gradient
    each = _bytes(one) + 8 * noise * block_length(setup) + 2 * num_draws * _bytes(starts.data)
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit", 4 * _BUDGET) // 4
    return max(1, min(_WIDEST.get(device.platform, _WIDE), limit // each))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _noise(setup: Setup) -> tuple[int, int]:
    """Numbers of a step's noise, and its rows."""
    row = jax.eval_shape(lambda: setup.draw(jax.random.key(0), 0, jnp.dtype("float32")))
    return max(row.size, 1), row.shape[0]


class Pool:
    """A run of many restarts, chunk by chunk: `fill`, `advance` and `collect`, in turn."""

    def __init__(
        self,
        keys: Keys,
        setup: Setup,
        starts: Starts,
        num_restarts: int,
        width: int,
        max_steps: int,
        race: Race | None,
    ) -> None:
        self.keys, self.setup, self.starts, self.race = keys, setup, starts, race
        self.num_restarts, self.width, self.max_steps = num_restarts, width, max_steps
        self.length = block_length(setup)
        self.some = max(1, width // _SHARE)
        self.begun = 0
        self.blocks = 1  # of the next chunk
        self.seconds = 0.0
        self.cohorts, self.lane_steps = 0, 0
        noise, _ = _noise(setup)
        most = min(width, _MOST_COHORTS, max(4, _COHORTS_NOISE // (noise * self.length)))
        nobody = np.full(width, -1, np.int32)
        cohort, steps = np.zeros_like(nobody), np.zeros(most, np.int32)
        self.places = Places(nobody, cohort, nobody > 0, steps)
        self.lanes: Lane | None = None
        self.results: Results | None = None
        self.history = StretchedHistory(num_restarts, self.length)

    @property
    def occupied(self) -> Bool[np.ndarray, "lanes"]:
        """Lanes that hold a restart which has not ended."""
        return self.places.restart >= 0

    def turn(self) -> "Pool":
        """Fill, advance, collect; a pool of half the width where its first chunk doesn't fit."""
        first = self.results is None and not self.lane_steps
        try:
            self.fill()
            self.collect()
            if self.occupied.any():
                self.advance()
                self.collect()
        except Exception as error:
            if not (first and self.width > 1 and out_of_memory(error)):
                raise
            warn_of_memory(self.width)
            return self.narrower()
        return self

    def narrower(self) -> "Pool":
        """A new pool of half the width."""
        arguments = (self.keys, self.setup, self.starts, self.num_restarts)
        return Pool(*arguments, self.width // 2, self.max_steps, self.race)

    def end(self) -> Results:
        """Of all restarts that were begun."""
        self.collect(Status.INTERRUPTED)
        assert self.results is not None
        return jax.tree.map(lambda leaf: leaf[: self.begun], self.results)

    @property
    def last_step(self) -> int:
        """The largest step of a lane that runs."""
        return int(self.places.step[self.places.cohort[self.occupied]].max(initial=0))

    @property
    def best_bound(self) -> float:
        """The largest mean bound of a block, of lanes that run."""
        if self.lanes is None or not self.occupied.any():
            return math.nan
        bounds = np.asarray(self.lanes.bound)[self.occupied]
        return float(np.max(bounds[np.isfinite(bounds)], initial=-math.inf))

    @property
    def ended(self) -> int:
        """Restarts that have."""
        return self.begun - int(self.occupied.sum())

    def fill(self) -> None:
        """A cohort of new restarts in free lanes, where there are enough of them."""
        free = np.flatnonzero(~self.occupied)
        left = self.num_restarts - self.begun
        alive = np.bincount(self.places.cohort[self.occupied], minlength=len(self.places.step))
        unused = np.flatnonzero(alive == 0)
        if not left or not len(unused) or len(free) < min(self.some, left):
            return
        cohort = int(unused[0])
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
            places = jnp.asarray(np.pad(slots, (0, padding), constant_values=self.width), jnp.int32)
            self.lanes = place_lanes(self.lanes, fresh, places)
            self.places.restart[slots] = restarts
            self.places.cohort[slots] = cohort
            self.begun += len(slots)
            left -= len(slots)

    def advance(self) -> None:
        """A chunk: full blocks where there is room for one, else the rest of a cohort's last."""
        places = self.places
        left = np.where(self.occupied, self.max_steps - places.step[places.cohort], 0)
        full = left >= self.length
        steps = self.length if full.any() else int(left[left > 0].min())
        moves = full if full.any() else left == steps
        blocks = min(self.blocks, int((left[moves] // steps).min()), ROWS)
        if self.race is not None:
            to_look = self.race.until_look(places.restart[moves], places.step[places.cohort[moves]])
            blocks = min(blocks, -(-to_look // steps))
        running = int(moves.sum())
        waiting = self.begun < self.num_restarts
        least = max(running - self.some + 1, 1) if waiting and running > self.some else 1
        with _door.compile_clock() as compiling:
            began = time.perf_counter()
            self.lanes, rows, done = advance_pool(
                self.keys,
                self.lanes,
                Places(*(jnp.asarray(part) for part in places._replace(moves=moves))),
                jnp.int32(steps),
                jnp.int32(blocks),
                jnp.int32(least),
                self.starts.data,
                setup=self.setup,
                rows=ROWS,
            )
            done = int(done)
            elapsed = max(time.perf_counter() - began - compiling.seconds, 1e-6)
        self.seconds += elapsed
        self.lane_steps += done * steps * self.width
        taken = np.asarray(self.lanes.step)
        ran = np.flatnonzero(moves)
        first = places.step[places.cohort[ran]]
        self.history.add(
            np.asarray(rows)[:done, ran], places.restart[ran], first, steps, taken[ran]
        )
        places.step[np.unique(places.cohort[moves])] += done * steps
        pace = elapsed / max(done, 1)
        self.blocks = next_blocks(self.blocks, pace)

    def collect(self, ending: Status | None = None) -> None:
        """Put away what has ended; with `ending`, everything, what runs with that status."""
        assert self.lanes is not None
        status = np.array(self.lanes.status)
        steps = self.places.step[self.places.cohort]
        status[(status == Status.RUNNING) & (steps >= self.max_steps)] = Status.STEP_LIMIT
        phis = None
        if self.race is not None and ending is None:
            phis = lane_results(self.lanes, setup=self.setup)
            running = self.occupied & (status == Status.RUNNING)
            behind = self.race.look(phis, self.places.restart, steps, running, self.occupied)
            status[behind] = Status.OVERTAKEN
        if ending is not None:
            status[status == Status.RUNNING] = ending
        done = np.flatnonzero(self.occupied & (status != Status.RUNNING))
        if not len(done):
            return
        phis = lane_results(self.lanes, setup=self.setup) if phis is None else phis
        phis = jax.tree.map(np.asarray, phis)
        if self.results is None:
            self.results = _empty(phis, self.num_restarts)
        restarts = self.places.restart[done]
        for all_, here in zip(
            jax.tree.leaves(self.results.phi), jax.tree.leaves(phis), strict=True
        ):
            all_[restarts] = here[done]
        self.results.status[restarts] = status[done]
        self.results.steps[restarts] = np.asarray(self.lanes.step)[done]
        self.places.restart[done] = -1

    def use(self) -> PoolUse:
        """How the pool was used so far."""
        assert self.results is not None
        taken = int(np.maximum(self.results.steps, 0).sum())
        return PoolUse(self.width, self.cohorts, 1.0 - taken / max(self.lane_steps, 1))


def _nobody(fresh: Lane, width: int) -> Lane:
    """Lanes that have ended before they began."""
    lanes = jax.tree.map(lambda leaf: jnp.zeros((width, *leaf.shape[1:]), leaf.dtype), fresh)
    return lanes._replace(status=jnp.full(width, Status.NO_START, jnp.int32))


def _empty(phis: Any, num: int) -> Results:
    phi = jax.tree.map(lambda leaf: np.zeros((num, *leaf.shape[1:]), leaf.dtype), phis)
    return Results(phi, np.full(num, Status.NO_START), np.full(num, -1))
