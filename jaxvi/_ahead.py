"""Programs compiled side by side: most of what a first fit waits for is compiling.

XLA lets go of Python's lock while it compiles, so that a thread can have one program compiled
while the caller has another; called later with such arguments, JAX finds it made.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

_KNOWN: OrderedDict[int, None] = OrderedDict()  # hashes, which keep nobody's data alive
_MOST_KNOWN = 1_000


@contextlib.contextmanager
def compiling_ahead(
    name: Hashable, shapes: Any, program: Callable[[], Any]
) -> Iterator[Callable[[], None] | None]:
    """Calls `program`, which lowers and compiles, in a thread; yields what waits for it.

    Not a second time for one name and arguments of the same shapes: None is yielded then. What
    goes wrong in the thread goes wrong again where the program is called, and is told there.
    """
    leaves, treedef = jax.tree.flatten(shapes)
    key = hash((name, treedef, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)))
    if key in _KNOWN:
        yield None
        return
    wide = jnp.result_type(float) == jnp.float64  # each thread has its own

    def work() -> None:
        with contextlib.suppress(Exception), jax.enable_x64(wide):
            program()

    thread = threading.Thread(target=work, name="jaxvi-compiling", daemon=True)
    thread.start()
    try:
        yield thread.join
    finally:
        thread.join()
    _KNOWN[key] = None
    while len(_KNOWN) > _MOST_KNOWN:
        _KNOWN.popitem(last=False)
