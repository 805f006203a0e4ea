"""Programs compiled and run side by side: XLA lets go of Python's lock meanwhile.

Most of what a first fit waits for is compiling: threads can have programs compiled while the
caller traces others; called later with such arguments, JAX finds them made.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Result = TypeVar("Result")
Lowering = Callable[[], jax.stages.Lowered]
_KNOWN: OrderedDict[int, None] = OrderedDict()  # hashes, which keep nobody's data alive
_MOST_KNOWN = 1_000
_TOGETHER = 2  # XLA compiles parts of one program side by side, too


@contextlib.contextmanager
def compiling_ahead(
    name: Hashable, shapes: Any, lowerings: Iterable[Lowering]
) -> Iterator[list[Future[None]] | None]:
    """Lowers programs here, one after the other, and compiles two at a time in threads.

    Yields what to wait for, in their order, which is that in which they begin. Not a second time
    for one name and arguments of the same shapes: None is yielded then. What goes wrong goes wrong
    again where the program is called, and is told there.
    """
    leaves, treedef = jax.tree.flatten(shapes)
    key = hash((name, treedef, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)))
    if key in _KNOWN:
        yield None
        return
    as_here = _settings()

    def compile_(lowered: jax.stages.Lowered) -> None:
        with contextlib.suppress(Exception), as_here():
            lowered.compile()

    threads = ThreadPoolExecutor(_TOGETHER, thread_name_prefix="jaxvi-compiling")
    try:
        coming = []
        for lower in lowerings:
            with contextlib.suppress(Exception):
                coming.append(threads.submit(compile_, lower()))
        yield coming
    finally:  # after Ctrl-C not those that have not begun
        threads.shutdown(cancel_futures=True)
    _KNOWN[key] = None
    while len(_KNOWN) > _MOST_KNOWN:
        _KNOWN.popitem(last=False)


def side_by_side(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """What the calls give, each made in a thread of its own where there are several."""
    if len(calls) < 2:
        return [call() for call in calls]
    as_here = _settings()

    def work(call: Callable[[], Result]) -> Result:
        with as_here():
            return jax.block_until_ready(call())

    with ThreadPoolExecutor(len(calls), thread_name_prefix="jaxvi-running") as threads:
        return list(threads.map(work, calls))


def _settings() -> Callable[[], contextlib.ExitStack]:
    """JAX's settings of this thread for another, which has its own."""
    wide = jnp.result_type(float) == jnp.float64
    config: Any = jax.config  # not all versions declare this setting
    device = config.jax_default_device

    def enter() -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        stack.enter_context(jax.enable_x64(wide))
        stack.enter_context(jax.default_device(device))
        return stack

    return enter
