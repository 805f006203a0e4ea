"""Histories: mean bounds of lanes during a run, in bounded memory."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxvi._engine.loop import Lane
from jaxvi._engine.snapshot import Snapshot

_NUMBERS = 2**21
_ROWS = (16, 2048)  # at least and at most
_HISTORY_ROWS = 2048


class StretchedHistory:
    """Mean bounds by restart and stretch of steps; stretches double, so memory is bounded."""

    def __init__(self, num_restarts: int, length: int) -> None:
        least, most = _ROWS
        self._rows = min(max(_NUMBERS // num_restarts, least), most)
        self._length, self._stretch = length, 1
        self._sums = np.zeros((self._rows, num_restarts), np.float32)
        self._blocks = np.zeros((self._rows, num_restarts), np.int32)

    def add(
        self,
        rows: Float[np.ndarray, "rows lanes"],
        restart: Int[np.ndarray, "lanes"],
        first: Int[np.ndarray, "lanes"],
        num_steps: int,
        taken: Int[np.ndarray, "lanes"],
    ) -> None:
        """Blocks of a chunk from each lane's `first` step on, until it had `taken` all of its."""
        for i, row in enumerate(rows):  # block by block: however the run was cut
            steps = first + num_steps * i
            ran = steps < taken
            block = steps[ran] // self._length
            while block.max(initial=0) // self._stretch >= self._rows:
                self._double()
            place = block // self._stretch, restart[ran]
            self._sums[place] += row[ran]
            self._blocks[place] += 1

    def _double(self) -> None:
        """Stretches two by two."""
        for name in ("_sums", "_blocks"):
            whole = getattr(self, name)
            half = np.zeros_like(whole)
            half[: -(-self._rows // 2)] += whole[0::2]
            half[: self._rows // 2] += whole[1::2]
            setattr(self, name, half)
        self._stretch *= 2

    def kept(self, num: int) -> tuple[dict[str, np.ndarray], dict[str, int | float]]:
        """What a checkpoint holds of the first restarts' history: arrays and numbers."""
        used = slice(self._used()), slice(num)
        arrays = {"history_sums": self._sums[used], "history_blocks": self._blocks[used]}
        return arrays, {"stretch": self._stretch}

    def restore(self, arrays: dict[str, np.ndarray], numbers: dict[str, int | float]) -> None:
        """As it was kept."""
        rows, num = arrays["history_sums"].shape
        self._sums[:rows, :num] = arrays["history_sums"]
        self._blocks[:rows, :num] = arrays["history_blocks"]
        self._stretch = int(numbers["stretch"])

    def _used(self) -> int:
        """Rows that hold something."""
        return int(np.flatnonzero(self._blocks.any(axis=1)).max(initial=-1)) + 1

    def table(
        self, max_steps: int, num: int
    ) -> tuple[Int[np.ndarray, "rows"], Float[np.ndarray, "rows {num}"]]:
        """The last step of every row, and means of the first restarts; NaN where one took none."""
        used = self._used()
        sums, blocks = self._sums[:used, :num], self._blocks[:used, :num]
        means = np.where(blocks > 0, sums / np.maximum(blocks, 1), np.float32(np.nan))
        last = np.arange(1, used + 1) * self._stretch * self._length
        return np.minimum(last, max_steps), means


class History(NamedTuple):
    """Mean bound of every lane over stretches of steps; `step` is the last step of each."""

    step: Int[np.ndarray, "rows"]
    bound: Float[np.ndarray, "rows lanes"]


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
