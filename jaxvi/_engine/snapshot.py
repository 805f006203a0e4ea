"""Snapshots: all that a batch of lanes needs to go on."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


class Snapshot(NamedTuple):
    """A run between two chunks: its lanes, arrays of any shape, and plain numbers."""

    lanes: Any
    arrays: dict[str, np.ndarray]
    numbers: dict[str, int | float]

    @property
    def width(self) -> int | None:
        """Lanes of a pool; None where all restarts run together."""
        return len(self.arrays["restart"]) if "restart" in self.arrays else None

    @property
    def place(self) -> tuple[int | None, int | float]:
        """What tells it from others of the same run."""
        return self.width, self.numbers["step"]


@runtime_checkable
class SnapshotSink(Protocol):
    """Where a run leaves its snapshots; when one is due is not the run's to know."""

    def is_due(self) -> bool:
        """Whether it is time for one."""

    def save(self, snapshot: Snapshot) -> None:
        """Keep one, unless it is kept already."""
