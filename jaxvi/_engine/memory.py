"""How many lanes a device has room for, and what is told where they don't fit."""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxvi._engine.loop import block_length
from jaxvi._engine.setup import Setup
from jaxvi._engine.starts import Starts, start_lanes
from jaxvi._numerics import Keys

MOST_TOGETHER = 64  # restarts that always run as one batch, unless told otherwise
_BUDGET = 2**30  # bytes of lanes at once, where the device doesn't say what it has
_WIDE, _WIDE_ON_CPU = 4_096, 256  # with more, every lane takes as much longer
_TURNS = 16  # so many restarts for every lane, where lanes take their time: the last turn idles


def out_of_memory(error: Exception) -> bool:
    """Whether a device or the system had no more."""
    words = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def warn_of_memory(width: int) -> None:
    """What is done about it."""
    warnings.warn(
        f"{width} restarts at once don't fit in memory: they run in a pool of {width // 2} lanes; "
        f"pool={width // 2} or less says so from the start.",
        RuntimeWarning,
        stacklevel=6,
    )


def usual_width(setup: Setup, keys: Keys, starts: Starts, num_restarts: int) -> int:
    """Lanes that the device holds easily; on a CPU not so many that most restarts share a turn."""
    one = jax.eval_shape(partial(start_lanes, setup=setup, num_lanes=1), keys, *starts)
    # and noise of a block; what densities make of the data is bounded whatever the lanes
    each = _bytes(one) + 8 * noise_size(setup) * block_length(setup)
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit", 4 * _BUDGET) // 4
    widest = _WIDE
    if device.platform == "cpu":
        widest = _WIDE_ON_CPU
        if num_restarts > widest:
            widest = min(widest, max(MOST_TOGETHER, num_restarts // _TURNS))
    return max(1, min(widest, limit // each))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def noise_size(setup: Setup) -> int:
    """Numbers of a step's noise."""
    row = jax.eval_shape(lambda: setup.draw(jax.random.key(0), 0, jnp.dtype("float32")))
    return max(row.size, 1)
