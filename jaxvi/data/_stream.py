"""Streams: data that do not fit in memory, read in blocks and shuffled within windows."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvi._arguments import check_field, integer
from jaxvi.data._column_files import ColumnFile, is_column_file
from jaxvi.target import num_rows

_BLOCK_ROWS = 4_096  # rows of an array that are read together


@dataclass(frozen=True, eq=False)
class Stream:
    """Data too large for memory: `jaxvi.fit(..., data=Stream(source), minibatch=Minibatch(256))`.

    A thread reads the batches of the next chunk of steps and hands them to the device while the
    previous chunk is used. The device holds two chunks (of 32 MiB at most, unless 8 batches take
    more), and the host a window besides, however many rows there are.

    Rows are shuffled within windows, anew in each epoch. Blocks of rows fill a window, in shuffled
    order where the source can be read in any order; the window's rows are used in random order;
    then comes the next window. Every row is used once an epoch. Rows that lie far apart in a
    source that can only be read in order never share a window: shuffle such a source once,
    beforehand. What a step sees depends on key and step alone, if the source gives the same blocks
    each time.

    Args:
        source: one of

            * an array, a `numpy.memmap`, or a tuple or dictionary of such, all with one row for
              each observation on their leading axis;
            * the path of a Parquet or Arrow (Feather) file, whose columns become a dictionary of
              arrays; needs pyarrow. Blocks are row groups or record batches;
            * a list of blocks, or anything else that can be gone through more than once and gives
              blocks; a block is an array, or a tuple or dictionary of arrays.
        num_rows: rows of one epoch. Arrays and files know them, and the blocks of others are
            counted by going through them once, unless it is given; an epoch that turns out to have
            another number ends the fit with an error, since the scale of the likelihood is wrong.
        window: rows among which rows are shuffled, at least.

    Raises:
        TypeError: a source that is none of these, or can be gone through only once.
        ImportError: a file, and no pyarrow.

    Example:
        >>> stream = jaxvi.Stream(X, window=8)
    """

    source: Any
    num_rows: int | None = None
    window: int = 65_536
    _reader: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_field(self, "window", integer)
        check_field(self, "num_rows", integer, optional=True)
        object.__setattr__(self, "_reader", _reader_of(self.source))

    def count(self) -> int:
        """Rows in one epoch: given, known by the source, or counted by reading it once."""
        known = self._reader.num_rows
        if known is not None and self.num_rows not in (None, known):
            raise ValueError(
                f"Stream: expected num_rows the number of rows there are; got {self.num_rows} for "
                f"{known}; try leaving it out."
            )
        if known is None:
            known = self.num_rows
        if known is None:
            known = sum(num_rows(block) for block in self.blocks())
            object.__setattr__(self, "num_rows", known)
        return known

    def arrays(self) -> Any:
        """The source if it is arrays, of which any rows can be read; else None."""
        return self._reader.arrays if isinstance(self._reader, _Arrays) else None

    def blocks(self, rng: np.random.Generator | None = None) -> Iterator[Any]:
        """One epoch's blocks as pytrees of NumPy arrays, shuffled by `rng` if possible."""
        for block in self._reader.blocks(rng):
            yield jax.tree.map(_canonical, block)


def in_memory(data: Any, what: str) -> Any:
    """The data, if they are in memory and not a stream, as `what` needs them.

    Raises:
        TypeError: a stream.
    """
    if isinstance(data, Stream):
        raise TypeError(
            f"{what}: expected a fit to data in memory; got one to a {type(data).__name__}; try "
            "fit.verdict, which rests on importance weights on all rows, or a fit to fewer rows."
        )
    return data


def _canonical(leaf: Any) -> np.ndarray:
    """An array in JAX's dtype: float32 in place of float64 unless 64-bit types are on."""
    array = np.asarray(leaf)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


class _Arrays:
    """Source of blocks: arrays, of which any rows can be read."""

    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays
        self.num_rows: int | None = num_rows(arrays)

    def blocks(self, rng: np.random.Generator | None) -> Iterator[Any]:
        """Blocks of neighbouring rows, in shuffled order given `rng`."""
        firsts = np.arange(0, self.num_rows or 0, _BLOCK_ROWS)
        for first in firsts if rng is None else rng.permutation(firsts):
            yield jax.tree.map(lambda leaf, i=int(first): leaf[i : i + _BLOCK_ROWS], self.arrays)


class _Blocks:
    """Source of blocks: an iterable, read in its own order."""

    num_rows: int | None = None

    def __init__(self, blocks: Iterable[Any]) -> None:
        self.source = blocks

    def blocks(self, rng: np.random.Generator | None) -> Iterator[Any]:
        """Blocks in the source's order."""
        return iter(self.source)


def _reader_of(source: Any) -> Any:
    """The reader for a source: an object with `num_rows` and `blocks(rng)`."""
    if isinstance(source, str | Path):
        if not is_column_file(source):
            raise TypeError(
                "Stream: expected the path of a .parquet, .arrow or .feather file; got "
                f"{str(source)!r}; try numpy.memmap for numbers in a plain file."
            )
        return ColumnFile(source)
    if _is_array(source) or isinstance(source, tuple | dict):
        if all(_is_array(leaf) for leaf in jax.tree.leaves(source)):
            return _Arrays(source)
    elif isinstance(source, Iterable) and not isinstance(source, Iterator):
        return _Blocks(source)
    got = "one that can be gone through once" if isinstance(source, Iterator) else repr(source)
    raise TypeError(
        "Stream: expected arrays, a path, or an iterable of blocks that can be gone through again "
        f"for each epoch; got {got:.80}; try a list, or a class whose __iter__ reads from the "
        "beginning."
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | jax.Array)


class WrongCount(ValueError):
    """Error: an epoch of the stream had another number of rows than expected."""


class ShuffledRows:
    """Shuffled rows of a stream, epoch after epoch, from the row numbered `skip` on.

    The earlier rows of its epoch are read and dropped when the first rows are taken. Once another
    thread sets `stopped`, `take` raises `InterruptedError`.
    """

    def __init__(self, stream: Stream, seed: int, total: int, skip: int = 0) -> None:
        self._stream, self._seed, self._total = stream, seed, total
        self._pieces = self._windows(skip // total)
        self._rows: Any = None
        self.stopped = threading.Event()
        self._order = np.zeros(0, np.int64)
        self._skip = skip % total

    def take(self, num: int) -> Any:
        """The next `num` rows, as a pytree of new arrays."""
        while self._skip:
            self._skip -= len(self._next(self._skip)[1])
        out, done = None, 0
        while done < num:
            rows, order = self._next(num - done)
            if out is None:
                out = jax.tree.map(lambda a: np.empty((num, *a.shape[1:]), a.dtype), rows)
            part = jax.tree.map(lambda a, d=done, n=len(order): a[d : d + n], out)
            jax.tree.map(lambda a, o, i=order: np.take(a, i, 0, out=o, mode="clip"), rows, part)
            done += len(order)
        return out

    def _next(self, most: int) -> tuple[Any, np.ndarray]:
        """The window, and indices of at most `most` of its rows."""
        if not len(self._order):
            self._rows, self._order = next(self._pieces)
        chosen, self._order = self._order[:most], self._order[most:]
        return self._rows, chosen

    def _windows(self, epoch: int) -> Iterator[tuple[Any, np.ndarray]]:
        """Windows of rows and the order of rows in each, without end."""
        while True:
            rng = np.random.default_rng([self._seed, epoch])
            seen, held = 0, []
            for block in self._stream.blocks(rng):
                if self.stopped.is_set():
                    raise InterruptedError("nobody needs more rows")
                held.append(block)
                seen += num_rows(block)
                if sum(map(num_rows, held)) >= self._stream.window:
                    yield _shuffled(held, rng)
                    held = []
                if seen > self._total:
                    break
            if seen != self._total:
                more = "more" if seen > self._total else "only"
                raise WrongCount(
                    f"Stream: expected {self._total} rows in an epoch; got {more} "
                    f"{min(seen, self._total)}; try num_rows=None, and a source that gives the "
                    "same rows each time."
                )
            if held:
                yield _shuffled(held, rng)
            epoch += 1


def _shuffled(blocks: list[Any], rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    """The blocks joined to one window, and a random order of its rows."""
    rows = jax.tree.map(lambda *parts: np.concatenate(parts), *blocks)
    return rows, rng.permutation(num_rows(rows))


def regular(blocks: Iterable[Any], size: int) -> Iterator[Any]:
    """Regroup rows, in their order, into blocks of `size` rows; the last block may be smaller."""
    held: list[Any] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += num_rows(block)
        if count < size:
            continue
        rows = jax.tree.map(lambda *parts: np.concatenate(parts), *held)
        full = count // size * size
        for first in range(0, full, size):
            yield jax.tree.map(lambda leaf, i=first: leaf[i : i + size], rows)
        count -= full
        held = [jax.tree.map(lambda leaf, i=full: leaf[i:], rows)] if count else []
    if held:
        yield jax.tree.map(lambda *parts: np.concatenate(parts), *held)
