"""All restarts as one batch of lanes that run together: work for the host loop."""

import math
import time

import numpy as np

from jaxvi._compilation import CompileClock
from jaxvi._engine.data_sources import DataSource, StreamBroke, warn_of_broken_stream
from jaxvi._engine.driver import Run
from jaxvi._engine.history import History, HistoryRecorder
from jaxvi._engine.limits import MAX_BLOCKS, Limits, next_blocks
from jaxvi._engine.loop import Lane, block_length
from jaxvi._engine.placement import Placement
from jaxvi._engine.progress import Progress
from jaxvi._engine.snapshot import Snapshot
from jaxvi._numerics import Keys
from jaxvi._status import Status


class LaneBatch:
    """Lanes that run together until every one of them has ended or reached its limit."""

    def __init__(
        self,
        keys: Keys,
        lanes: Lane,
        source: DataSource,
        limits: Limits,
        place: Placement,
        clock: CompileClock,
    ) -> None:
        self._keys, self._lanes, self._source = keys, lanes, source
        self._limits, self._place, self._clock = limits, place, clock
        self._seen = place.look(lanes)
        self._length = block_length(source.setup)
        num, dtype = len(self._seen.status), self._seen.bound.dtype
        self._history = HistoryRecorder(num, self._length, dtype)
        self._blocks, self._step, self._seconds = 1, 0, 0.0
        self._max_steps = limits.max_steps

    @property
    def running(self) -> bool:
        """Whether a lane runs that may take another step."""
        some = bool((self._seen.status == Status.RUNNING).any())
        return some and self._step < self._max_steps

    def settle(self) -> None:
        """Do nothing: all restarts have a lane from the start."""

    def advance(self) -> bool:
        """Run a chunk of all lanes, up to the end of the data at hand or of the limits."""
        first, length = self._step, self._length
        try:
            data, end = self._source.at(first)
        except StreamBroke as error:
            warn_of_broken_stream(error, first)
            return False
        look = self._limits.next_look(first, length)
        goal = min(first + self._blocks * length, self._max_steps, look, end)
        began, compiled = time.perf_counter(), self._clock.seconds
        self._lanes, self._seen, rows, self._step = self._place.advance_lanes(
            self._keys, self._lanes, first, goal, data, setup=self._source.setup, rows=MAX_BLOCKS
        )
        elapsed = time.perf_counter() - began - (self._clock.seconds - compiled)
        self._seconds += max(elapsed, 0.0)
        self._record(rows, first)
        done = math.ceil((self._step - first) / length)
        self._blocks = next_blocks(self._blocks, max(elapsed, 1e-6) / done)
        if self._step == look:
            self._max_steps = self._limits.steps(self._seen)
        return True

    def _record(self, rows: np.ndarray, first: int) -> None:
        """Add a chunk's blocks to the history; a lane that has ended repeats its last bound."""
        num = rows.shape[1]
        blocks = rows[: math.ceil((self._step - first) / self._length)]
        steps = np.full(num, first), self._length, np.full(num, self._step)
        self._history.add(blocks, np.arange(num), *steps)

    def agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Decide, alike in all processes, whether to stop, to save, and the next chunk's blocks."""
        self._blocks, stop, save = self._place.agree(self._blocks, stop, save)
        return stop, save

    def progress(self, seconds: float) -> Progress:
        """The state of the run; the best bound is the mean over a lane's last block."""
        bounds = self._seen.bound
        finite = bounds[np.isfinite(bounds)]
        running = int((self._seen.status == Status.RUNNING).sum())
        best = float(finite.max()) if finite.size else math.nan
        return Progress(self._step, self._max_steps, len(bounds), running, best, seconds)

    def snapshot(self) -> Snapshot:
        """Lanes, history and counters, to resume from."""
        arrays, numbers = self._history.to_arrays(len(self._seen.status))
        numbers |= {"step": self._step, "max_steps": self._max_steps, "seconds": self._seconds}
        return Snapshot(self._place.all_lanes(self._lanes), arrays, numbers)

    def restore(self, found: Snapshot) -> None:
        """Set history and counters to a snapshot's, whose lanes this batch was made with."""
        self._history.restore(found.arrays, found.numbers)
        numbers = found.numbers
        self._step, self._max_steps = int(numbers["step"]), int(numbers["max_steps"])
        self._seconds = float(numbers["seconds"])

    def outcome(self, stopped: bool) -> Run:
        """Parameters, status, steps and history of every lane, also of those that were stopped."""
        status = self._seen.status.copy()
        status[status == Status.RUNNING] = Status.INTERRUPTED if stopped else Status.STEP_LIMIT
        phi = self._place.results(self._lanes, self._source.setup)
        step, bounds = self._history.history(self._step, len(status))
        history = History(step, bounds.astype(self._seen.bound.dtype))
        return Run(phi, status, self._seen.step, history, self._seconds, stopped)
