"""Where the lanes of a fit run: on one device, or (`_on_mesh.py`) on many."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from jaxvi._engine.lanes import advance_lanes, lane_results
from jaxvi._engine.loop import Lane
from jaxvi._engine.setup import Setup
from jaxvi._numerics import Keys
from jaxvi._types import Data, Phi


class Seen(NamedTuple):
    """What the host looks at between two chunks."""

    status: Int[np.ndarray, "lanes"]
    step: Int[np.ndarray, "lanes"]
    bound: Float[np.ndarray, "lanes"]


@runtime_checkable
class Placement(Protocol):
    """What the host asks of lanes, wherever they are; what it gets is whole."""

    @property
    def reports(self) -> bool:
        """Whether this process tells of progress."""

    def advance_lanes(
        self,
        keys: Keys,
        lanes: Lane,
        first_step: int,
        last_step: int,
        data: Data,
        *,
        setup: Setup,
        rows: int,
    ) -> tuple[Lane, Seen, Float[np.ndarray, "rows lanes"], int]:
        """As `lanes.advance_lanes`, and what the host needs to see of the lanes."""

    def look(self, lanes: Lane) -> Seen:
        """What the host needs to see of them."""

    def results(self, lanes: Lane, setup: Setup) -> Phi:
        """Every lane's parameters."""

    def agree(self, blocks: int, stop: bool, save: bool) -> tuple[int, bool, bool]:
        """What all processes do next: the first one's number of blocks, and whether to save is
        its to say, too; stop if any wants to."""

    def whole(self, lanes: Lane) -> Lane:
        """All of the lanes, in this process."""


class OneDevice:
    """Everything where JAX puts it by itself."""

    @property
    def reports(self) -> bool:
        """There is nobody else."""
        return True

    def advance_lanes(
        self,
        keys: Keys,
        lanes: Lane,
        first_step: int,
        last_step: int,
        data: Data,
        *,
        setup: Setup,
        rows: int,
    ) -> tuple[Lane, Seen, Float[np.ndarray, "rows lanes"], int]:
        """A chunk of the run."""
        first, last = np.int32(first_step), np.int32(last_step)
        lanes, bounds, reached = advance_lanes(
            keys, lanes, first, last, data, setup=setup, rows=rows
        )
        return lanes, self.look(lanes), np.asarray(bounds), int(reached)

    def look(self, lanes: Lane) -> Seen:
        """What the host needs to see of them."""
        return Seen(np.asarray(lanes.status), np.asarray(lanes.step), np.asarray(lanes.bound))

    def results(self, lanes: Lane, setup: Setup) -> Phi:
        """Every lane's parameters."""
        return lane_results(lanes, setup=setup)

    def agree(self, blocks: int, stop: bool, save: bool) -> tuple[int, bool, bool]:
        """Agreed."""
        return blocks, stop, save

    def whole(self, lanes: Lane) -> Lane:
        """As they are."""
        return lanes
