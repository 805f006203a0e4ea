"""Functions of rows, so many at a time that one program serves any number of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

BLOCK = 4_096  # rows


def in_blocks(
    program: Callable[[Any], Any], rows: Float[np.ndarray, "rows _"]
) -> Float[np.ndarray, "rows _"]:
    """`program` of blocks of rows, put together; the last block is filled up with some again."""
    padded = np.resize(rows, (-(-len(rows) // BLOCK) * BLOCK, rows.shape[1]))
    blocks = [np.asarray(program(padded[i : i + BLOCK])) for i in range(0, len(padded), BLOCK)]
    return np.concatenate(blocks)[: len(rows)]
