"""The compile clock: seconds that one thread spends tracing, lowering and compiling."""

import contextlib
import threading
import time
from collections.abc import Iterator

import jax

_WAIT_EVENT = "/jaxvi/compile/wait_duration"
_COMPILE_EVENTS = frozenset(
    (
        "/jax/core/compile/jaxpr_trace_duration",
        "/jax/core/compile/jaxpr_to_mlir_module_duration",
        "/jax/core/compile/backend_compile_duration",
        _WAIT_EVENT,
    )
)


class CompileClock:
    """Seconds of compiling in the thread that made the clock; other threads have their own."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._thread = threading.get_ident()

    def on_duration(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        """Add the duration of an event, if it is compilation, or a wait for it, in this thread."""
        if event in _COMPILE_EVENTS and threading.get_ident() == self._thread:
            self.seconds += duration_secs

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time spent in the context, waiting for programs that other threads compile.

        It is reported as an event, so that clocks around this one count it, too.
        """
        began = time.perf_counter()
        try:
            yield
        finally:
            waited = time.perf_counter() - began
            jax.monitoring.record_event_duration_secs(_WAIT_EVENT, waited)


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
