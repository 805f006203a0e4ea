"""The history of bounds during a run: means over stretches of steps, in bounded memory."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

_MAX_NUMBERS = 2**21
_MIN_ROWS, _MAX_ROWS = 16, 2048


class History(NamedTuple):
    """Mean bound of every lane over stretches of steps; `step` is the last step of each."""

    step: Int[np.ndarray, "rows"]
    bound: Float[np.ndarray, "rows lanes"]


class HistoryRecorder:
    """Mean bounds by restart and stretch of steps; stretches double, so memory is bounded."""

    def __init__(self, num_restarts: int, length: int, dtype: Any = np.float32) -> None:
        self._rows = min(max(_MAX_NUMBERS // num_restarts, _MIN_ROWS), _MAX_ROWS)
        self._length, self._stretch = length, 1
        self._sums = np.zeros((self._rows, num_restarts), dtype)
        self._blocks = np.zeros((self._rows, num_restarts), np.int32)

    def add(
        self,
        rows: Float[np.ndarray, "rows lanes"],
        restart: Int[np.ndarray, "lanes"],
        first: Int[np.ndarray, "lanes"],
        num_steps: int,
        taken: Int[np.ndarray, "lanes"],
    ) -> None:
        """Add a chunk's blocks: each lane's from step `first` to its last, `taken`."""
        for i, row in enumerate(rows):  # block by block, so that chunk lengths don't matter
            steps = first + num_steps * i
            ran = steps < taken
            block = steps[ran] // self._length
            while block.max(initial=0) // self._stretch >= self._rows:
                self._double()
            place = block // self._stretch, restart[ran]
            self._sums[place] += row[ran]
            self._blocks[place] += 1

    def _double(self) -> None:
        """Double the stretch: add up neighbouring rows in pairs."""
        for name in ("_sums", "_blocks"):
            all_rows = getattr(self, name)
            half = np.zeros_like(all_rows)
            half[: -(-self._rows // 2)] += all_rows[0::2]
            half[: self._rows // 2] += all_rows[1::2]
            setattr(self, name, half)
        self._stretch *= 2

    def to_arrays(self, num: int) -> tuple[dict[str, np.ndarray], dict[str, int | float]]:
        """Arrays and numbers of the first restarts' history, for a snapshot."""
        used = slice(self._num_used()), slice(num)
        arrays = {"history_sums": self._sums[used], "history_blocks": self._blocks[used]}
        return arrays, {"stretch": self._stretch}

    def restore(self, arrays: dict[str, np.ndarray], numbers: dict[str, int | float]) -> None:
        """Set the history to what `to_arrays` returned."""
        rows, num = arrays["history_sums"].shape
        self._sums[:rows, :num] = arrays["history_sums"]
        self._blocks[:rows, :num] = arrays["history_blocks"]
        self._stretch = int(numbers["stretch"])

    def _num_used(self) -> int:
        """Number of rows up to the last one with a block."""
        return int(np.flatnonzero(self._blocks.any(axis=1)).max(initial=-1)) + 1

    def history(self, last_step: int, num: int) -> History:
        """Mean bounds of the first `num` restarts, NaN for stretches in which one took no step."""
        used = self._num_used()
        sums, blocks = self._sums[:used, :num], self._blocks[:used, :num]
        means = np.where(blocks > 0, sums / np.maximum(blocks, 1), np.nan)
        last = np.arange(1, used + 1) * self._stretch * self._length
        return History(np.minimum(last, last_step), means)
