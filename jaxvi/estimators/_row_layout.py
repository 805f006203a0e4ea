"""The layout of rows for a conjugate model: centred, features leading, in padded blocks."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jaxvi.models import MixtureData

_BLOCK = 2**15  # numbers of a block, features times rows
_PIECE = 2**16  # rows that are copied at once
_ALIGNED = 64  # bytes to which arrays are aligned
_LEAST, _MOST = 256, 8192  # limits on the rows of a block


class Layout(NamedTuple):
    """Number of blocks and rows of a block, rounded so that few layouts serve all data sizes."""

    blocks: int
    rows: int

    @property
    def padded(self) -> int:
        """Number of rows with padding."""
        return self.blocks * self.rows


def layout(num_rows: int, num_features: int) -> Layout:
    """A layout with little padding, whose blocks and their products stay in cache."""
    block = 2 ** round(math.log2(_BLOCK / num_features))
    block = min(max(block, _LEAST), _MOST)
    if num_rows <= block:
        return Layout(1, max(_rounded(num_rows), 16))
    return Layout(_rounded(-(-num_rows // block)), block)


def _rounded(num: int) -> int:
    """Rounded up to four binary digits, so that similar numbers of rows share programs."""
    unit = 2 ** max(num.bit_length() - 4, 0)
    return -(-num // unit) * unit


def in_blocks(rows: Float[np.ndarray, "rows columns"], place: Layout) -> Float[np.ndarray, "..."]:
    """Rows as an array (blocks, columns, rows), padded with zeros."""
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
    """The scatter matrix of the rows about their mean; its diagonal alone if not `whole`."""
    mean = rows.mean(axis=0, dtype=np.float64)
    found: Any = 0.0
    for first in range(0, len(rows), _PIECE):
        gaps = rows[first : first + _PIECE] - mean
        found = found + (gaps.T @ gaps if whole else np.einsum("ri,ri->i", gaps, gaps))
    return found


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array, aligned so that JAX uses it on a CPU without a copy."""
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
    """Data of a mixture: rows less `centre`, in blocks; `prior.mean` must be centred already."""
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
