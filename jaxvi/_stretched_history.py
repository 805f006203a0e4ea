"""Histories of many restarts in bounded memory."""

import numpy as np
from jaxtyping import Float, Int

_NUMBERS = 2**21
_ROWS = (16, 2048)  # at least and at most


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
        if not len(rows):
            return
        steps = first[None] + num_steps * np.arange(len(rows))[:, None]
        ran = steps < taken[None]
        block = steps // self._length
        while block.max() // self._stretch >= self._rows:
            for name in ("_sums", "_blocks"):
                whole = getattr(self, name)
                half = np.zeros_like(whole)
                half[: -(-self._rows // 2)] += whole[0::2]
                half[: self._rows // 2] += whole[1::2]
                setattr(self, name, half)
            self._stretch *= 2
        row, column = block // self._stretch, np.broadcast_to(restart, block.shape)
        np.add.at(self._sums, (row[ran], column[ran]), rows[ran])
        np.add.at(self._blocks, (row[ran], column[ran]), 1)

    def table(
        self, max_steps: int, num: int
    ) -> tuple[Int[np.ndarray, "rows"], Float[np.ndarray, "rows {num}"]]:
        """The last step of every row, and means of the first restarts; NaN where one took none."""
        used = int(np.flatnonzero(self._blocks.any(axis=1)).max(initial=-1)) + 1
        sums, blocks = self._sums[:used, :num], self._blocks[:used, :num]
        means = np.where(blocks > 0, sums / np.maximum(blocks, 1), np.float32(np.nan))
        last = np.arange(1, used + 1) * self._stretch * self._length
        return np.minimum(last, max_steps), means
