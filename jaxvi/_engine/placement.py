"""Where the lanes of a fit run: on one device, or on a mesh (`on_mesh.py`)."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from jaxvi._engine.lanes import advance_lanes, lane_results
from jaxvi._engine.loop import Lane
from jaxvi._engine.setup import Setup
from jaxvi._numerics import Keys
from jaxvi._types import Data, Phi


class Seen(NamedTuple):
    """Status, step and bound of every lane, as the host reads them between two chunks."""

    status: Int[np.ndarray, "lanes"]
    step: Int[np.ndarray, "lanes"]
    bound: Float[np.ndarray, "lanes"]


@runtime_checkable
class Placement(Protocol):
    """Programs that run lanes on one or many devices; results are arrays of all lanes."""

    @property
    def reports(self) -> bool:
        """Whether this process reports progress."""

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
        """Advance all lanes by a chunk; returns lanes, what the host reads, bounds, next step."""

    def look(self, lanes: Lane) -> Seen:
        """Status, step and bound of every lane."""

    def results(self, lanes: Lane, setup: Setup) -> Phi:
        """The variational parameters of every lane."""

    def agree(self, blocks: int, stop: bool, save: bool) -> tuple[int, bool, bool]:
        """The first process decides on block counts and on saving; any process may stop."""

    def all_lanes(self, lanes: Lane) -> Lane:
        """All lanes, copied to this process."""


class OneDevice:
    """Lanes on JAX's default device, in one process."""

    @property
    def reports(self) -> bool:
        """Whether this process reports progress: as the only one, it does."""
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
        """Advance all lanes by a chunk; returns lanes, what the host reads, bounds, next step."""
        first, last = np.int32(first_step), np.int32(last_step)
        lanes, bounds, reached = advance_lanes(
            keys, lanes, first, last, data, setup=setup, rows=rows
        )
        return lanes, self.look(lanes), np.asarray(bounds), int(reached)

    def look(self, lanes: Lane) -> Seen:
        """Status, step and bound of every lane."""
        return Seen(np.asarray(lanes.status), np.asarray(lanes.step), np.asarray(lanes.bound))

    def results(self, lanes: Lane, setup: Setup) -> Phi:
        """The variational parameters of every lane."""
        return lane_results(lanes, setup=setup)

    def agree(self, blocks: int, stop: bool, save: bool) -> tuple[int, bool, bool]:
        """With one process, what it asks for."""
        return blocks, stop, save

    def all_lanes(self, lanes: Lane) -> Lane:
        """The lanes, which are all in this process."""
        return lanes
