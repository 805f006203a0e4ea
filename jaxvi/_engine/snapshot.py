"""Snapshots: the state of a run between two chunks, which checkpoints store."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


class Snapshot(NamedTuple):
    """The state of a run between two chunks: its lanes, other arrays, and plain numbers."""

    lanes: Any
    arrays: dict[str, np.ndarray]
    numbers: dict[str, int | float]

    @property
    def width(self) -> int | None:
        """Number of lanes of a pool; None if all restarts run together."""
        return len(self.arrays["restart"]) if "restart" in self.arrays else None

    @property
    def place(self) -> tuple[int | None, int | float]:
        """Pool width and step, which differ between any two snapshots of a run."""
        return self.width, self.numbers["step"]


@runtime_checkable
class SnapshotSink(Protocol):
    """Stores a run's snapshots, and decides when one is due."""

    def is_due(self) -> bool:
        """Whether a snapshot is due by now."""

    def save(self, snapshot: Snapshot) -> None:
        """Store a snapshot, unless the last one stored is the same."""
