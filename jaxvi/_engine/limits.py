"""Limits of a run (steps, time, patience with slow lanes), and the length of its chunks."""

import math
from typing import NamedTuple

import numpy as np

from jaxvi._engine.placement import Seen
from jaxvi._status import Status

MAX_BLOCKS = 64  # of a chunk: the rows of history that its compiled program holds
_CHUNK_SECONDS = 0.3
_MIN_PATIENCE_STEPS = 50  # counted as usual where lanes converge faster


def next_blocks(blocks: int, seconds_a_block: float) -> int:
    """Number of blocks of the next chunk, after one of `blocks`, for chunks of 0.3 seconds."""
    return min(MAX_BLOCKS, 4 * blocks, max(1, int(_CHUNK_SECONDS / seconds_a_block)))


class Limits(NamedTuple):
    """Step limit, time limit, and patience with lanes that converge later than most.

    `until` is a time on the clock of `time.perf_counter`; the chunk that passes it is the last.
    `patience` is a multiple of the usual number of steps, None for no limit.
    """

    max_steps: int
    until: float
    patience: float | None

    def next_look(self, step: int, length: int) -> int:
        """The next step at which `steps` is asked, a multiple of the block length.

        The first comes when patience may first run out, each later one a quarter later than the
        one before. It depends on steps alone, so that a run is the same however chunks are timed.
        """
        if self.patience is None:
            return self.max_steps
        look = math.ceil(0.5 * self.patience * _MIN_PATIENCE_STEPS / length) * length
        while look <= step:
            look += max(1, look // (4 * length)) * length
        return look

    def steps(self, lanes: Seen) -> int:
        """The step limit by what is known now: `patience` times the median of converged lanes."""
        done = lanes.status == Status.CONVERGED
        if self.patience is None or not done.any():
            return self.max_steps
        usual = max(float(np.median(lanes.step[done])), _MIN_PATIENCE_STEPS)
        # while few lanes have converged, the median says little: wait longer
        patience = self.patience * len(done) / (2.0 * done.sum())
        return min(self.max_steps, math.ceil(patience * usual))
