"""Rows of data as a conjugate model wants them: centred, features leading, in padded blocks."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jaxvi.models import MixtureData

_BLOCK = 2**15  # numbers of a block, features times rows
_PIECE = 2**16  # rows of which copies are made
_ALIGNED = 64  # bytes
_LEAST, _MOST = 256, 8192  # rows of a block


class Layout(NamedTuple):
    """How many blocks of how many rows; few layouts serve all numbers of rows."""

    blocks: int
    rows: int

    @property
    def padded(self) -> int:
        """Rows there is room for."""
        return self.blocks * self.rows


def layout(num_rows: int, num_features: int) -> Layout:
    """Blocks that stay in cache with all that is made of them, and little padding."""
    block = 2 ** round(math.log2(_BLOCK / num_features))
    block = min(max(block, _LEAST), _MOST)
    if num_rows <= block:
        return Layout(1, max(_rounded(num_rows), 16))
    return Layout(_rounded(-(-num_rows // block)), block)


def _rounded(num: int) -> int:
    """Up to four binary digits, so that a small change in a number often is none."""
    unit = 2 ** max(num.bit_length() - 4, 0)
    return -(-num // unit) * unit


def in_blocks(rows: Float[np.ndarray, "rows columns"], place: Layout) -> Float[np.ndarray, "..."]:
    """(blocks, columns, rows), zero where there is no row."""
    num, columns = rows.shape
    whole, rest = divmod(num, place.rows)
    blocks = _aligned((place.blocks, columns, place.rows), rows.dtype)
    inner = rows[: whole * place.rows].reshape(whole, place.rows, columns)
    blocks[:whole] = inner.transpose(0, 2, 1)
    blocks[whole:] = 0.0
    if rest:
        blocks[whole, :, :rest] = rows[whole * place.rows :].T
    return blocks


def scatter(rows: Float[np.ndarray, "rows dim"], whole: bool) -> Float[np.ndarray, "dim *dim"]:
    """Sums of products of deviations from the mean; of squares alone where not `whole`."""
    mean = rows.mean(axis=0, dtype=np.float64)
    found: Any = 0.0
    for first in range(0, len(rows), _PIECE):
        gaps = rows[first : first + _PIECE] - mean
        found = found + (gaps.T @ gaps if whole else np.einsum("ri,ri->i", gaps, gaps))
    return found


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that JAX takes over on a CPU without copying it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNED, np.uint8)
    first = -memory.ctypes.data % _ALIGNED
    return memory[first : first + size].view(dtype).reshape(shape)


def as_data(
    rows: Float[np.ndarray, "rows dim"],
    centre: Float[np.ndarray, "dim"],
    prior: Any,
    place: Layout,
    tied: bool,
) -> MixtureData:
    """Rows less `centre`, in blocks; `prior.mean` is taken to be centred already."""
    x = in_blocks(rows, place)
    weight = _aligned((place.blocks, place.rows), rows.dtype)
    weight.reshape(-1)[:] = np.arange(place.padded) < len(rows)
    x -= centre.astype(x.dtype)[None, :, None]
    used, rest = divmod(len(rows), place.rows)
    x[used + (rest > 0) :] = 0.0
    if rest:
        x[used, :, rest:] = 0.0
    cross = np.einsum("bir,bjr->ij", x, x, optimize=True) if tied else np.zeros((0, 0), x.dtype)
    x, weight, cross = jax.device_put((x, weight, cross))
    return MixtureData(x, weight, cross, prior)
