"""Compiling programs in threads ahead of their first call, and running calls in parallel.

Most of a first fit's time is compiling. XLA releases Python's lock, so that threads compile some
programs while the caller traces others. A later call with arguments of the same shapes finds the
compiled program in JAX's cache.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Result = TypeVar("Result")
Lowering = Callable[[], jax.stages.Lowered]
_MAX_COMPILED = 1_000
_MAX_COMPILING_THREADS = 2  # few, as XLA also compiles parts of one program in parallel


class _Compiled:
    """Which programs were compiled ahead, as JAX's own caches have them: for all threads.

    It holds hashes, which keep no arrays alive, and the latest alone. A thread that asks while
    another compiles the same programs compiles them, too, which costs time and nothing else.
    """

    def __init__(self, max_size: int) -> None:
        self._lock, self._max_size = threading.Lock(), max_size
        self._hashes: OrderedDict[int, None] = OrderedDict()

    def has(self, key: int) -> bool:
        with self._lock:
            return key in self._hashes

    def add(self, key: int) -> None:
        with self._lock:
            self._hashes[key] = None
            while len(self._hashes) > self._max_size:
                self._hashes.popitem(last=False)


_compiled = _Compiled(_MAX_COMPILED)


@contextlib.contextmanager
def compiling_ahead(
    name: Hashable, shapes: Any, lowerings: Iterable[Lowering]
) -> Iterator[list[Future[None]] | None]:
    """Lower programs one after the other in this thread, and compile two at a time in others.

    Yields a future for each program, in the order in which they begin, or None if programs of
    this name were compiled before for arguments of the same shapes. Errors are suppressed: they
    are raised again where the program is called.
    """
    leaves, treedef = jax.tree.flatten(shapes)
    key = hash((name, treedef, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)))
    if _compiled.has(key):
        yield None
        return
    with_settings = _settings()

    def compile_(lowered: jax.stages.Lowered) -> None:
        with contextlib.suppress(Exception), with_settings():
            lowered.compile()

    threads = ThreadPoolExecutor(_MAX_COMPILING_THREADS, thread_name_prefix="jaxvi-compiling")
    try:
        futures = []
        for lower in lowerings:
            with contextlib.suppress(Exception):
                futures.append(threads.submit(compile_, lower()))
        yield futures
    finally:  # after Ctrl-C, programs that have not begun are not compiled
        threads.shutdown(cancel_futures=True)
    _compiled.add(key)


def side_by_side(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """Results of several calls, each in a thread of its own; of a single one in this thread."""
    if len(calls) < 2:
        return [call() for call in calls]
    with_settings = _settings()

    def work(call: Callable[[], Result]) -> Result:
        with with_settings():
            return jax.block_until_ready(call())

    with ThreadPoolExecutor(len(calls), thread_name_prefix="jaxvi-running") as threads:
        return list(threads.map(work, calls))


def _settings() -> Callable[[], contextlib.ExitStack]:
    """A context that gives another thread this one's JAX settings, which are per thread."""
    wide = jnp.result_type(float) == jnp.float64
    config: Any = jax.config  # not all versions declare this setting
    device = config.jax_default_device

    def enter() -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        stack.enter_context(jax.enable_x64(wide))
        stack.enter_context(jax.default_device(device))
        return stack

    return enter
