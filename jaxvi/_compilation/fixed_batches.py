"""Calls in blocks of a fixed number of rows, so that one program serves any number of rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

BLOCK_ROWS = 4_096


def apply_in_blocks(
    program: Callable[[Any], Any], rows: Float[np.ndarray, "rows _"]
) -> Float[np.ndarray, "rows _"]:
    """Call `program` on blocks of rows and join the results; the last block is padded."""
    padded = np.resize(rows, (-(-len(rows) // BLOCK_ROWS) * BLOCK_ROWS, rows.shape[1]))
    blocks = [
        np.asarray(program(padded[i : i + BLOCK_ROWS])) for i in range(0, len(padded), BLOCK_ROWS)
    ]
    return np.concatenate(blocks)[: len(rows)]
