"""The compile clock: seconds that one thread spends tracing, lowering and compiling."""

import contextlib
import threading
import time
from collections.abc import Iterator

import jax

_COMPILE_EVENTS = frozenset(
    f"/jax/core/compile/{name}"
    for name in (
        "jaxpr_trace_duration",
        "jaxpr_to_mlir_module_duration",
        "backend_compile_duration",
    )
)


class CompileClock:
    """Seconds of compiling in the thread that made the clock; other threads have their own."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._thread = threading.get_ident()

    def on_duration(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        """Add the duration of a JAX event, if it is compilation in this thread."""
        if event in _COMPILE_EVENTS and threading.get_ident() == self._thread:
            self.seconds += duration_secs

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Add the time spent in the context, waiting for programs that other threads compile."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began


@contextlib.contextmanager
def compile_clock() -> Iterator[CompileClock]:
    """A clock that listens to JAX's compile events until the context ends."""
    clock = CompileClock()
    listener = clock.on_duration
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield clock
    finally:
        # the listener is gone if other code has cleared all of JAX's listeners meanwhile
        with contextlib.suppress(AssertionError, ValueError):
            jax.monitoring.unregister_event_duration_listener(listener)
