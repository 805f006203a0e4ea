"""All lanes of a batch together, in chunks, until they have ended."""

import math
import threading
import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxvi._checkpoint import Snapshot, SnapshotSink
from jaxvi._compilation import compile_clock
from jaxvi._feed import Feed, StreamBroke, tell
from jaxvi._interrupts import interrupts
from jaxvi._loop import Lane, block_length
from jaxvi._numerics import Keys
from jaxvi._pace import MAX_BLOCKS, next_blocks
from jaxvi._placement import Placement, Seen
from jaxvi._pool import PoolUse
from jaxvi._progress import Progress, Reporter, tell_of
from jaxvi._status import Status
from jaxvi._types import Phi
from jaxvi.result import History

_FEWEST_STEPS = 50
_HISTORY_ROWS = 2048


class Limits(NamedTuple):
    """Steps; the time on the clock at which a chunk is the last; patience with stragglers."""

    max_steps: int
    until: float
    patience: float | None

    def next_look(self, step: int, length: int) -> int:
        """The step at which to ask how many steps lanes may take, whatever the clock makes of
        chunks: first when it may be too many, then each some quarter later than the one before,
        and a whole number of blocks."""
        if self.patience is None:
            return self.max_steps
        look = math.ceil(0.5 * self.patience * _FEWEST_STEPS / length) * length
        while look <= step:
            look += max(1, look // (4 * length)) * length
        return look

    def steps(self, lanes: Seen) -> int:
        """Steps that lanes may take, as far as can be told by now."""
        done = lanes.status == Status.CONVERGED
        if self.patience is None or not done.any():
            return self.max_steps
        usual = max(float(np.median(lanes.step[done])), _FEWEST_STEPS)
        # the fewer have converged, the more may be said for waiting
        patience = self.patience * len(done) / (2.0 * done.sum())
        return min(self.max_steps, math.ceil(patience * usual))


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
    feed: Feed,
    limits: Limits,
    report: Reporter,
    checkpoint: SnapshotSink | None,
    found: Snapshot | None,
    place: Placement,
) -> Run:
    """Chunks until every lane has ended, a limit, or an interrupt between two chunks."""
    max_steps, seen = limits.max_steps, place.look(lanes)
    setup, length = feed.setup, block_length(feed.setup)
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
                data, end = feed.at(step)
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
    tell_of(progress, report, interrupted)


class Recorder:
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
            if len(self._rows) > _HISTORY_ROWS:  # row by row: however the run was cut
                self._thin()

    def _thin(self) -> None:
        """Rows two by two; an odd one at the end goes back to be averaged with the next."""
        paired = len(self._rows) // 2 * 2
        self._partial = self._rows[paired:] * self._stretch + self._partial
        self._steps = self._steps[1:paired:2]
        self._rows = [np.mean(self._rows[i : i + 2], axis=0) for i in range(0, paired, 2)]
        self._stretch *= 2

    def snapshot(self, lanes: Lane, step: int, max_steps: int, seconds: float) -> Snapshot:
        """All that a run needs to go on."""
        none = np.zeros((0, self._num_lanes))
        arrays = {
            "steps": np.asarray(self._steps, int),
            "rows": np.stack(self._rows) if self._rows else none,
            "partial": np.stack(self._partial) if self._partial else none,
        }
        numbers: dict[str, int | float] = {
            "step": step,
            "max_steps": max_steps,
            "seconds": seconds,
            "stretch": self._stretch,
        }
        return Snapshot(lanes, arrays, numbers)

    def restore(self, found: Snapshot) -> tuple[int, int, float]:
        """What had been recorded; gives the step, the step limit and the seconds taken."""
        self._steps = found.arrays["steps"].tolist()
        self._rows, self._partial = list(found.arrays["rows"]), list(found.arrays["partial"])
        numbers = found.numbers
        self._stretch = int(numbers["stretch"])
        return int(numbers["step"]), int(numbers["max_steps"]), float(numbers["seconds"])

    def history(self) -> History:
        """What has been recorded."""
        bound = np.stack(self._rows) if self._rows else np.zeros((0, self._num_lanes))
        return History(np.asarray(self._steps, int), bound)
