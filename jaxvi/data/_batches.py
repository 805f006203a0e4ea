"""Data of which a step sees a batch: on the device, or a chunk of batches that came there.

Everything here is the data of a target's `scaled`, whose log density takes `(scale, rows)`. What
the loop is handed as data may be plain, and passes through unchanged.
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

_STEPS_A_COMPARISON = 800
_COMPARED_AHEAD = 64  # steps, no fewer than a block has
_STREAM = 2**32 - 1  # folded into the noise's key: no step and no lane has this number


class Batch(NamedTuple):
    """Rows of a step, and the number of all rows over theirs."""

    scale: Scalar
    rows: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Resident:
    """All rows on the device, of which each step takes `size`, by shuffles of these seeds."""

    seeds: Any
    scale: Any
    rows: Any
    size: int = field(metadata={"static": True})


class Chunk(NamedTuple):
    """The batches of the steps from `first` on, steps leading: what of a stream is here now."""

    first: Int[Array, ""]
    scale: Scalar
    rows: Any


class _Block(NamedTuple):
    """Where the batches of a block are: its first step, and which rows its steps see."""

    source: Resident | Chunk
    first: Int[Array, ""]
    indices: Int[Array, "steps size"] | None  # of a resident source


def stream_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """The key of the batches of a run, from that of its noise."""
    return jax.random.fold_in(key, jnp.uint32(_STREAM))


def resident(key: Key[Array, ""], rows: Any, size: int, dtype: Any) -> Resident:
    """Rows in memory as data of the loop; `key` is that of the run's noise."""
    rows = jax.tree.map(jnp.asarray, rows)
    scale = jnp.asarray(num_rows(rows) / size, dtype)
    return Resident(shuffle_seeds(stream_key(key)), scale, rows, size)


def at_block(data: Data, step: Int[Array, ""], length: int) -> Data:
    """What the steps of the block that begins with `step` need; the same for all lanes."""
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
    """The same for lanes of cohorts at steps of their own; and, as `vmap` has it, which axes of it
    are the lanes'."""
    if not isinstance(data, Resident):
        return data, None
    indices = jax.vmap(lambda step: at_block(data, step, length).indices)(steps)
    return _Block(data, steps[cohort], indices[cohort]), _Block(None, 0, 0)  # type: ignore[arg-type]


def at_step(block: Data, step: int | Int[Array, ""]) -> Data:
    """The data of a step, counted from the block's first."""
    if not isinstance(block, _Block):
        return block
    if block.indices is not None:
        return _pick(block.source, block.indices[step])
    return _ahead(block, step)


def num_compared(block: Data) -> int | Int[Array, ""]:
    """Batches on which a value of the bound is taken where two phi are compared.

    One has a gradient's noise, so that the differences that matter late in a run take more. By
    the time of step t the number is t / 800, which costs the run about a fifth of its time.
    """
    if not isinstance(block, _Block):
        return 1
    return jnp.maximum(block.first // _STEPS_A_COMPARISON, 1)


def at_comparison(block: Data, step: int | Int[Array, ""], turn: Int[Array, ""]) -> Data:
    """Data for a step's comparisons, another batch each turn: not those that phi has just seen."""
    if not isinstance(block, _Block):
        return block
    if block.indices is not None:
        total = num_rows(block.source.rows)
        return _pick(block.source, shifted(block.indices[step], turn, total))
    return _ahead(block, step + _COMPARED_AHEAD * (turn + 1))


def _pick(data: Any, chosen: Int[Array, "size"]) -> Batch:
    rows = jax.tree.map(lambda leaf: leaf.at[chosen].get(mode="clip"), data.rows)
    return Batch(data.scale, rows)


def _ahead(block: _Block, step: int | Int[Array, ""]) -> Batch:
    """The batch of a chunk's step; beyond its last, from its beginning again."""
    chunk: Any = block.source
    place = (block.first - chunk.first + step) % num_rows(chunk.rows)
    rows = jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, place, 0, False), chunk.rows)
    return Batch(chunk.scale, rows)


def first_batch(data: Data) -> Data:
    """Some rows, at which starts are looked for; plain data as they are."""
    if isinstance(data, Resident):
        return Batch(data.scale, jax.tree.map(lambda leaf: leaf[: data.size], data.rows))
    return data
