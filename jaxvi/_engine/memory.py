"""How many lanes fit in a device's memory, and the warning if they don't."""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxvi._engine.loop import block_length
from jaxvi._engine.setup import Setup
from jaxvi._engine.starts import Starts, start_lanes
from jaxvi._numerics import Keys

MAX_LANES_TOGETHER = 64  # restarts that run as one batch whatever their size, by default
_DEFAULT_BUDGET_BYTES = 2**30  # of all lanes, if the device doesn't say what it has
_MAX_WIDTH, _MAX_WIDTH_ON_CPU = 4_096, 256  # with more lanes, steps take longer in proportion
_RESTARTS_PER_LANE = 16  # of a wide pool on a CPU: lanes idle while the last restarts end


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that a device or the system ran out of memory."""
    words = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def warn_of_memory(width: int) -> None:
    """Warn that restarts run in a pool of half the width, since they don't fit in memory."""
    warnings.warn(
        f"{width} restarts at once don't fit in memory: they run in a pool of {width // 2} lanes; "
        f"pool={width // 2} or less says so from the start.",
        RuntimeWarning,
        stacklevel=6,
    )


def usual_width(setup: Setup, keys: Keys, starts: Starts, num_restarts: int) -> int:
    """The default pool width: lanes that take at most a quarter of the device's memory."""
    one = jax.eval_shape(partial(start_lanes, setup=setup, num_lanes=1), keys, *starts)
    # a lane's state and the noise of a block; large data are evaluated in slices of bounded size
    each = _bytes(one) + 8 * noise_size(setup) * block_length(setup)
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit", 4 * _DEFAULT_BUDGET_BYTES) // 4
    widest = _MAX_WIDTH
    if device.platform == "cpu":
        widest = _MAX_WIDTH_ON_CPU
        if num_restarts > widest:
            widest = min(widest, max(MAX_LANES_TOGETHER, num_restarts // _RESTARTS_PER_LANE))
    return max(1, min(widest, limit // each))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def noise_size(setup: Setup) -> int:
    """How many numbers the noise of one step holds."""
    row = jax.eval_shape(lambda: setup.draw(jax.random.key(0), 0, jnp.dtype("float32")))
    return max(row.size, 1)
