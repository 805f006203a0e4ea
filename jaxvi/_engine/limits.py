"""Limits of a run: steps, time, patience with stragglers, and the length of chunks."""

import math
from typing import NamedTuple

import numpy as np

from jaxvi._engine.placement import Seen
from jaxvi._status import Status

MAX_BLOCKS = 64  # of a chunk, which is what its program has room for
_CHUNK_SECONDS = 0.3
_FEWEST_STEPS = 50


def next_blocks(blocks: int, seconds_a_block: float) -> int:
    """Blocks of the next chunk, after one of `blocks`."""
    return min(MAX_BLOCKS, 4 * blocks, max(1, int(_CHUNK_SECONDS / seconds_a_block)))


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
