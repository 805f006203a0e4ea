"""The identity of a stream, from a sample of it: it may be too large to read as a whole."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from jaxvi.data import Stream

_MAX_ROWS = 4_096  # that enter the digest


def identify(stream: Stream) -> tuple[Any, list[list[Any]]]:
    """What identifies a stream, to be digested; and path, shape and dtype of every array.

    Its identity is the number of rows and the window, the size and the time of the last change of
    every file, and a sample of rows: evenly spaced ones of arrays, the first ones of blocks.
    """
    arrays, total = stream.arrays(), stream.count()
    if arrays is None:
        rows = jax.tree.map(lambda leaf: np.asarray(leaf)[:_MAX_ROWS], next(stream.blocks()))
    else:
        chosen = np.linspace(0, total - 1, min(total, _MAX_ROWS)).astype(int)
        rows = jax.tree.map(lambda leaf: np.asarray(leaf[chosen]), arrays)
    files: list[Any] = [stream.source] if isinstance(stream.source, str | Path) else []
    files += [leaf.filename for leaf in jax.tree.leaves(arrays) if isinstance(leaf, np.memmap)]
    found = [os.stat(path) for path in files if path and Path(path).exists()]
    stats = [(stat.st_size, stat.st_mtime_ns) for stat in found]
    named, structure = tree_flatten_with_path(rows)
    shapes = [[keystr(path), [total, *leaf.shape[1:]], str(leaf.dtype)] for path, leaf in named]
    content = [leaf for _, leaf in named]
    return (total, stream.window, stats, str(structure), shapes, content), shapes
