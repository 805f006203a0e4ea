"""Rows of data as a conjugate model wants them: centred, features leading, in padded blocks."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxvi.models import MixtureData, MixturePrior

_BLOCK = 2**17  # numbers of a block, features times rows
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
    blocks = np.zeros((place.blocks, columns, place.rows), rows.dtype)
    inner = rows[: whole * place.rows].reshape(whole, place.rows, columns)
    blocks[:whole] = inner.transpose(0, 2, 1)
    if rest:
        blocks[whole, :, :rest] = rows[whole * place.rows :].T
    return blocks


def as_data(
    rows: Float[np.ndarray, "rows dim"],
    centre: Float[np.ndarray, "dim"],
    prior: MixturePrior,
    place: Layout,
    tied: bool,
) -> MixtureData:
    """Rows less `centre`, in blocks; `prior.mean` is taken to be centred already."""
    x = in_blocks(rows, place)
    weight = np.zeros((place.blocks, place.rows), rows.dtype)
    weight.reshape(-1)[: len(rows)] = 1.0
    np.subtract(x, centre[None, :, None].astype(x.dtype), out=x)
    x *= weight[:, None, :]
    cross = np.einsum("bir,bjr->ij", x, x, optimize=True) if tied else np.zeros((0, 0), x.dtype)
    return MixtureData(jnp.asarray(x), jnp.asarray(weight), jnp.asarray(cross, x.dtype), prior)
