"""The host loop: it advances lanes in chunks, reports, saves checkpoints, and stops on request."""

import threading
import time
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxvi._engine.history import History
from jaxvi._engine.pool import PoolUse
from jaxvi._engine.progress import Progress, Reporter, report_progress
from jaxvi._engine.snapshot import Snapshot, SnapshotSink
from jaxvi._types import Phi


class Run(NamedTuple):
    """The outcome of all restarts: parameters, statuses, steps, history of bounds, seconds."""

    phi: Phi
    status: np.ndarray
    steps: np.ndarray
    history: History
    seconds: float
    interrupted: bool
    pool: PoolUse | None = None


@runtime_checkable
class Work(Protocol):
    """What the host loop advances: a batch of lanes, a pool of lanes, or a coordinate ascent."""

    @property
    def running(self) -> bool:
        """Whether there is another chunk to do."""

    def settle(self) -> None:
        """Host work between two chunks, such as starting new restarts in free lanes."""

    def advance(self) -> bool:
        """Run a chunk; False if no other can follow, because the data source raised."""

    def agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Decide whether to stop and to save, the same in all processes."""

    def progress(self, seconds: float) -> Progress:
        """Steps, lanes that run and best bound, `seconds` after the work began."""

    def snapshot(self) -> Snapshot:
        """Everything that is needed to resume from here."""


def drive(
    work: Work,
    interrupted: threading.Event,
    *,
    until: float,
    report: Reporter | None = None,
    sink: SnapshotSink | None = None,
) -> bool:
    """Advance until nothing runs or the loop is stopped; returns whether it was stopped.

    It stops between two chunks: on the event, on an observer's KeyboardInterrupt, after the time
    `until` on the clock of `time.perf_counter`, or because the data source raised.
    """
    began = time.perf_counter()

    def is_due() -> bool:
        return sink is not None and sink.is_due()

    def save() -> None:
        if sink is not None:
            sink.save(work.snapshot())

    work.settle()
    stop, due = work.agree(interrupted.is_set(), is_due())
    if due:
        save()
    while not stop and work.running:
        can_go_on = work.advance()
        now = time.perf_counter()
        if report is not None:
            report_progress(work.progress(now - began), report, interrupted)
        late = time.perf_counter() >= until
        stop, due = work.agree(interrupted.is_set() or late or not can_go_on, is_due())
        if stop:
            break
        work.settle()
        if due:
            save()
    save()
    return stop
