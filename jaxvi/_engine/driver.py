"""The host loop: it advances lanes in chunks, reports, saves, and stops when it is told to."""

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
    """What became of all restarts: parameters, statuses, steps, bounds on the way, seconds."""

    phi: Phi
    status: np.ndarray
    steps: np.ndarray
    history: History
    seconds: float
    interrupted: bool
    pool: PoolUse | None = None


@runtime_checkable
class Work(Protocol):
    """Lanes that the host loop advances: all restarts together, a pool of them, an ascent."""

    @property
    def running(self) -> bool:
        """Whether there is another chunk to do."""

    def settle(self) -> None:
        """What the host does between two chunks, such as to put new restarts into free lanes."""

    def advance(self) -> bool:
        """Do a chunk; False where there can be no other, since a source of data broke."""

    def agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save, where several processes or the work have a say."""

    def progress(self, seconds: float) -> Progress:
        """Where the work stands, so many seconds after it began."""

    def snapshot(self) -> Snapshot:
        """All that the work needs to go on from here."""


def drive(
    work: Work,
    interrupted: threading.Event,
    *,
    until: float,
    report: Reporter | None = None,
    sink: SnapshotSink | None = None,
) -> bool:
    """Advance until nothing runs or the loop is stopped; gives whether it was stopped.

    It is stopped between two chunks: by the event, by an observer's KeyboardInterrupt, after the
    time `until` on the clock of `time.perf_counter`, or since its data came to an end.
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
