"""The compile clock: seconds that JAX spends tracing, lowering and compiling."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax


@dataclass(eq=False)
class Clock:
    """Seconds counted so far."""

    seconds: float = 0.0


class _Clocks(threading.local):
    """Those that run in this thread; what others compile meanwhile is not waited for here."""

    def __init__(self) -> None:
        self.running: list[Clock] = []

    def add(self, seconds: float) -> None:
        for clock in self.running:
            clock.seconds += seconds


_clocks = _Clocks()


def _on_duration(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event in _COMPILE_EVENTS:
        _clocks.add(duration_secs)


@contextlib.contextmanager
def waiting_for_compiler() -> Iterator[None]:
    """What passes meanwhile counts as compiling."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _clocks.add(time.perf_counter() - began)


_COMPILE_EVENTS = frozenset(
    f"/jax/core/compile/{name}"
    for name in (
        "jaxpr_trace_duration",
        "jaxpr_to_mlir_module_duration",
        "backend_compile_duration",
    )
)
jax.monitoring.register_event_duration_secs_listener(_on_duration)


@contextlib.contextmanager
def compile_clock() -> Iterator[Clock]:
    """Counts the seconds that JAX spends tracing, lowering and compiling meanwhile."""
    clock = Clock()
    _clocks.running.append(clock)
    try:
        yield clock
    finally:
        _clocks.running.remove(clock)
