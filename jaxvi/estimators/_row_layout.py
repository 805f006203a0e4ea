"""The layout of rows for a conjugate model: centred, features leading, in padded blocks."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jaxvi.models import MixtureData

_BLOCK_NUMBERS = 2**15  # features times rows of a block
_PIECE_ROWS = 2**16  # that are copied together
_ALIGNMENT_BYTES = 64  # of arrays
_MIN_BLOCK_ROWS, _MAX_BLOCK_ROWS = 256, 8192


class Layout(NamedTuple):
    """Number of blocks and rows of a block, rounded so that few layouts serve all data sizes."""

    blocks: int
    rows: int

    @property
    def padded(self) -> int:
        """Number of rows of all blocks, with padding."""
        return self.blocks * self.rows


def layout(num_rows: int, num_features: int) -> Layout:
    """A layout with little padding, whose blocks and their products stay in cache."""
    block = 2 ** round(math.log2(_BLOCK_NUMBERS / num_features))
    block = min(max(block, _MIN_BLOCK_ROWS), _MAX_BLOCK_ROWS)
    if num_rows <= block:
        return Layout(1, max(_rounded(num_rows), 16))
    return Layout(_rounded(-(-num_rows // block)), block)


def _rounded(num: int) -> int:
    """Rounded up to four binary digits, so that similar numbers of rows share programs."""
    unit = 2 ** max(num.bit_length() - 4, 0)
    return -(-num // unit) * unit


def padded_blocks(
    rows: Float[np.ndarray, "rows columns"], place: Layout
) -> Float[np.ndarray, "..."]:
    """Rows as an array (blocks, columns, rows), padded with zeros."""
    num, columns = rows.shape
    num_full, rest = divmod(num, place.rows)
    blocks = _aligned((place.blocks, columns, place.rows), rows.dtype)
    inner = rows[: num_full * place.rows].reshape(num_full, place.rows, columns)
    blocks[:num_full] = inner.transpose(0, 2, 1)
    blocks[num_full:] = 0.0
    if rest:
        blocks[num_full, :, :rest] = rows[num_full * place.rows :].T
    return blocks


def scatter(rows: Float[np.ndarray, "rows dim"], full: bool) -> Float[np.ndarray, "dim *dim"]:
    """The scatter matrix of the rows about their mean; its diagonal alone if not `full`."""
    mean = rows.mean(axis=0, dtype=np.float64)
    found: Any = 0.0
    for first in range(0, len(rows), _PIECE_ROWS):
        gaps = rows[first : first + _PIECE_ROWS] - mean
        found = found + (gaps.T @ gaps if full else np.einsum("ri,ri->i", gaps, gaps))
    return found


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array, aligned so that JAX uses it on a CPU without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT_BYTES, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[first : first + size].view(dtype).reshape(shape)


def as_data(
    rows: Float[np.ndarray, "rows dim"],
    centre: Float[np.ndarray, "dim"],
    prior: Any,
    place: Layout,
    tied: bool,
) -> MixtureData:
    """Data of a mixture: rows less `centre`, in blocks; `prior.mean` must be centred already."""
    x = padded_blocks(rows, place)
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
