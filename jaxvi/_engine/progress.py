"""Progress reports of a run: a bar on a terminal, plain lines elsewhere, or a callable."""

import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

_BAR_WIDTH = 24
_PLAIN_INTERVAL_SECONDS = 10.0


class Progress(NamedTuple):
    """The state of a run between two chunks: steps, running lanes, best bound, seconds."""

    step: int
    max_steps: int
    num_restarts: int
    num_running: int
    best_bound: float  # largest mean over a lane's last block; NaN before the first
    seconds: float


Reporter = Callable[[Progress], None]


def report_progress(progress: Progress, report: Reporter, interrupted: threading.Event) -> None:
    """Call the observer; a KeyboardInterrupt raised in it stops the run as Ctrl-C does.

    Any other exception of the observer becomes a warning, and the fit goes on.
    """
    try:
        report(progress)
    except KeyboardInterrupt:
        interrupted.set()
    except Exception as error:
        warnings.warn(
            f"progress: expected a function that takes a jaxvi.Progress; it raised {error!r}; the "
            "fit goes on.",
            RuntimeWarning,
            stacklevel=2,
        )


@runtime_checkable
class TextStream(Protocol):
    """A text stream that progress is written to, such as `sys.stderr`."""

    def write(self, text: str, /) -> int:
        """Write text to the stream."""

    def flush(self) -> None:
        """Write out what is buffered."""

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""


def make_reporter(
    progress: bool | Reporter | None, stream: TextStream | None = None
) -> tuple[Reporter, Callable[[], None]]:
    """`(report, close)` for the `progress` argument of `fit`.

    None and True write to `stream` (standard error): a bar that overwrites itself on a terminal,
    else a line every ten seconds; True writes the first line at once. False is silent.
    """
    if callable(progress):
        return progress, _close_nothing
    if progress is False:
        return lambda _: None, _close_nothing
    stream = stream or sys.stderr
    if stream.isatty():
        return _bar(stream)
    return _plain_lines(stream, at_once=progress is True), _close_nothing


def _close_nothing() -> None:
    """Do nothing: there is no line to erase."""


def describe(state: Progress) -> str:
    """One line of text with step, running lanes, best bound and seconds."""
    return (
        f"step {state.step:,} of {state.max_steps:,}, {state.num_running} of "
        f"{state.num_restarts} lanes running, best bound {state.best_bound:.2f}, "
        f"{state.seconds:.1f} s"
    )


def _bar(stream: TextStream) -> tuple[Reporter, Callable[[], None]]:
    written = 0

    def report(state: Progress) -> None:
        nonlocal written
        done = round(_BAR_WIDTH * state.step / state.max_steps)
        line = f"[{'#' * done}{'.' * (_BAR_WIDTH - done)}] {describe(state)}"
        stream.write("\r" + line.ljust(written))
        stream.flush()
        written = len(line)

    def close() -> None:
        if written:
            stream.write("\r" + " " * written + "\r")
            stream.flush()

    return report, close


def _plain_lines(stream: TextStream, *, at_once: bool) -> Reporter:
    last = -float("inf") if at_once else time.monotonic()

    def report(state: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PLAIN_INTERVAL_SECONDS:
            stream.write(describe(state) + "\n")
            stream.flush()
            last = now

    return report
