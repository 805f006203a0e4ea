"""The minibatch of each step: from rows on the device, or from a chunk of a stream.

Batches are data for a target's `scaled`, whose log density takes `(scale, rows)`. Data without
minibatches pass through all functions unchanged.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Key

from jaxvi._types import Data, Scalar
from jaxvi.data._minibatch import shifted, shuffle_seeds, shuffled_rows
from jaxvi.target import num_rows

_STEPS_PER_COMPARED_BATCH = 800
_COMPARISON_STEPS_AHEAD = 64  # steps, no fewer than a block has
_BATCHES_KEY_NUMBER = 2**32 - 1  # folded into the noise's key: no step and no lane has this number


class ScaledRows(NamedTuple):
    """A minibatch: some rows, and the number of all rows over theirs."""

    scale: Scalar
    rows: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Resident:
    """All rows, on the device; each step sees `size` of them, in an order shuffled by `seeds`."""

    seeds: Any
    scale: Any
    rows: Any
    size: int = field(metadata={"static": True})


class Chunk(NamedTuple):
    """Minibatches of a stream that are on the device: those of the steps from `first` on."""

    first: Int[Array, ""]
    scale: Scalar
    rows: Any


class _Block(NamedTuple):
    """Source of a block's minibatches, the block's first step, and the rows that its steps see."""

    source: Resident | Chunk
    first: Int[Array, ""]
    indices: Int[Array, "steps size"] | None  # only for a resident source


def stream_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """Key of a run's minibatches, from the key of its noise."""
    return jax.random.fold_in(key, jnp.uint32(_BATCHES_KEY_NUMBER))


def resident(key: Key[Array, ""], rows: Any, size: int, dtype: Any) -> Resident:
    """Data of the loop from rows in memory; `key` is that of the run's noise."""
    rows = jax.tree.map(jnp.asarray, rows)
    scale = jnp.asarray(num_rows(rows) / size, dtype)
    return Resident(shuffle_seeds(stream_key(key)), scale, rows, size)


def at_block(data: Data, step: Int[Array, ""], length: int) -> Data:
    """Data for the block of steps that begins with `step`, the same for all lanes."""
    if isinstance(data, Resident):
        steps = step + jnp.arange(length, dtype=jnp.int32)
        indices = shuffled_rows(data.seeds, steps, num_rows(data.rows), data.size)
        return _Block(data, step, indices)
    if isinstance(data, Chunk):
        return _Block(data, step, None)
    return data


def at_blocks(
    data: Data, steps: Int[Array, "cohorts"], cohort: Int[Array, "lanes"], length: int
) -> tuple[Data, Any]:
    """Data for a block of lanes whose cohorts are at different steps, and its axes for `vmap`."""
    if not isinstance(data, Resident):
        return data, None
    indices = jax.vmap(lambda step: at_block(data, step, length).indices)(steps)
    return _Block(data, steps[cohort], indices[cohort]), _Block(None, 0, 0)  # type: ignore[arg-type]


def at_step(block: Data, step: int | Int[Array, ""]) -> Data:
    """Data of one step, counted from the block's first."""
    if not isinstance(block, _Block):
        return block
    if block.indices is not None:
        return _batch_of_rows(block.source, block.indices[step])
    return _batch_of_chunk(block, step)


def num_compared(block: Data) -> int | Int[Array, ""]:
    """Number of minibatches over which bounds are averaged when two phi are compared.

    One minibatch is as noisy as a gradient, and differences that matter late in a run are smaller.
    At step t the number is t / 800, which costs a run about a fifth of its time.
    """
    if not isinstance(block, _Block):
        return 1
    return jnp.maximum(block.first // _STEPS_PER_COMPARED_BATCH, 1)


def at_comparison(block: Data, step: int | Int[Array, ""], turn: Int[Array, ""]) -> Data:
    """Data for comparing bounds: each turn another minibatch, but not that of phi's last step."""
    if not isinstance(block, _Block):
        return block
    if block.indices is not None:
        total = num_rows(block.source.rows)
        return _batch_of_rows(block.source, shifted(block.indices[step], turn, total))
    return _batch_of_chunk(block, step + _COMPARISON_STEPS_AHEAD * (turn + 1))


def _batch_of_rows(data: Any, chosen: Int[Array, "size"]) -> ScaledRows:
    """The minibatch of the chosen rows."""
    rows = jax.tree.map(lambda leaf: leaf.at[chosen].get(mode="clip"), data.rows)
    return ScaledRows(data.scale, rows)


def _batch_of_chunk(block: _Block, step: int | Int[Array, ""]) -> ScaledRows:
    """The minibatch of a step in a chunk, which is repeated from its beginning."""
    chunk: Any = block.source
    place = (block.first - chunk.first + step) % num_rows(chunk.rows)
    rows = jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, place, 0, False), chunk.rows)
    return ScaledRows(chunk.scale, rows)


def first_batch(data: Data) -> Data:
    """A first minibatch, on which starting points are searched for; other data unchanged."""
    if isinstance(data, Resident):
        return ScaledRows(data.scale, jax.tree.map(lambda leaf: leaf[: data.size], data.rows))
    return data
