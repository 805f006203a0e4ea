"""Where a run's data come from: all at every step, minibatches of rows in memory, or a stream."""

import abc
import contextlib
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from jaxvi._compilation import Lowering
from jaxvi._engine.loop import block_length
from jaxvi._engine.ranking import Ranking, lower_ranking, rank_phis, ranking_rows
from jaxvi._engine.ranking_by_rows import RowBlocks, lower_ranking_by_rows, rank_by_rows, slices
from jaxvi._engine.setup import Setup
from jaxvi._numerics import Keys
from jaxvi._sampling import draw_noise, lower_sampling, sampling_rows
from jaxvi._types import Data, Phi
from jaxvi.data import (
    Chunk,
    Minibatch,
    ScaledRows,
    ShuffledRows,
    Stream,
    WrongCount,
    first_batch,
    regular,
    resident,
    stream_key,
)
from jaxvi.target import num_rows

_CHUNK_BYTES = 2**25
_RANKING_BLOCK_ROWS = 16_384  # of the last pass, in which lanes are ranked on all rows


class StreamBroke(Exception):
    """The source of a stream raised; its own exception is the cause."""


class EvalDraws(NamedTuple):
    """Number of draws that lanes are ranked on, and whether to stop early, see `rank_phis`."""

    num_draws: int
    stop_when_sharp: bool = False


class DataSource(abc.ABC):
    """The data of each chunk of a run, and the setup that evaluates them.

    Attributes:
        setup: the static parts; for minibatches its target scales up their log likelihood.
        first: data at which lanes look for starts.
    """

    setup: Setup
    first: Data

    @abc.abstractmethod
    def at(self, step: int) -> tuple[Data, int]:
        """Data for the steps from `step` on, and the first step that needs other data."""

    def lower_first(self, keys: Keys, num_lanes: int, num_draws: int) -> list[Lowering]:
        """Programs of `rank` that don't depend on the log density, to compile first."""
        return []

    @abc.abstractmethod
    def lower_rest(self, keys: Keys, lanes: Any, num_draws: int) -> list[Lowering]:
        """The other programs of `rank`, for `lanes` of these shapes."""

    @abc.abstractmethod
    def rank(
        self, keys: Keys, phi: Phi, status: Int[np.ndarray, "lanes"], draws: EvalDraws
    ) -> Ranking:
        """Every lane's bound on all data; with minibatches also the best lane's draws.

        With minibatches, all draws are used: ranking doesn't stop early.
        """


class Whole(DataSource):
    """Data source that gives all data at every step."""

    def __init__(self, setup: Setup, data: Data) -> None:
        self.setup, self.first = setup, data

    def at(self, step: int) -> tuple[Data, int]:
        """All data; they serve every step."""
        return self.first, 2**31 - 1

    def lower_first(self, keys: Keys, num_lanes: int, num_draws: int) -> list[Lowering]:
        """Programs that draw the noise of `rank_phis`, and one that draws from one lane's q."""
        target, family = self.setup.target, self.setup.family
        key, dim, dtype = keys.ranking, target.dim, target.dtype(self.first)
        few = sampling_rows(1, family, dim)
        rows = dict.fromkeys([*ranking_rows(num_lanes, dim, num_draws), few])
        return [
            *(partial(draw_noise.lower, key, family, num, dim, dtype) for num in rows),
            *lower_sampling(key, target, family, dtype),
        ]

    def lower_rest(self, keys: Keys, lanes: Any, num_draws: int) -> list[Lowering]:
        """The programs of `rank_phis`."""
        return lower_ranking(keys, lanes, self.first, setup=self.setup, num_draws=num_draws)

    def rank(
        self, keys: Keys, phi: Phi, status: Int[np.ndarray, "lanes"], draws: EvalDraws
    ) -> Ranking:
        """Every lane's bound on fresh draws common to all, see `rank_phis`."""
        return rank_phis(keys, phi, status, self.first, setup=self.setup, **draws._asdict())


class InMemory(DataSource):
    """Minibatches of rows in device memory, chosen at random on the device."""

    def __init__(self, setup: Setup, key: Key[Array, ""], rows: Any, size: int, dtype: Any) -> None:
        self._target, self._rows = setup.target, rows
        self.setup = replace(setup, target=setup.target.scaled)
        self._data = resident(key, rows, size, dtype)
        self.first = first_batch(self._data)

    def at(self, step: int) -> tuple[Data, int]:
        """All rows, for every step: a step chooses its own minibatch."""
        return self._data, 2**31 - 1

    def lower_rest(self, keys: Keys, lanes: Any, num_draws: int) -> list[Lowering]:
        """The programs of `rank_by_rows`, for a block of the usual size."""
        block = _abstract(self._rows, min(_RANKING_BLOCK_ROWS, num_rows(self._rows)))
        return lower_ranking_by_rows(keys, lanes, block, self._target, self.setup, num_draws)

    def rank(
        self, keys: Keys, phi: Phi, status: Int[np.ndarray, "lanes"], draws: EvalDraws
    ) -> Ranking:
        """Every lane's bound on all rows, a block of rows at a time."""
        blocks = slices(self._rows, _RANKING_BLOCK_ROWS)
        return rank_by_rows(keys, phi, status, blocks, self._target, self.setup, draws.num_draws)


class Streamed(DataSource):
    """Minibatches from a stream; a thread reads the next chunk's while this chunk is computed."""

    def __init__(
        self, setup: Setup, key: Key[Array, ""], stream: Stream, size: int, dtype: Any
    ) -> None:
        self._stream, self._target, self._size = stream, setup.target, size
        self._wide = jnp.result_type(float) == jnp.float64  # each thread has its own
        self._total = stream.count()
        self._scale = jnp.asarray(self._total / size, dtype)
        self._seed = int(jax.random.bits(stream_key(key), (), jnp.uint32))
        self._pool = ThreadPoolExecutor(1, "jaxvi-stream")
        self.setup = replace(setup, target=setup.target.scaled)
        sample = next(regular(stream.blocks(), size))
        row = sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves(sample))
        length = block_length(self.setup)
        blocks = _CHUNK_BYTES // max(row * size * length, 1)
        self._steps = length * min(max(blocks, 1), 64)
        self._chunk: Chunk | None = None
        self._first_step = 0
        self._begin(0)
        self._advance(0)
        assert self._chunk is not None
        self.first = ScaledRows(self._scale, jax.tree.map(lambda leaf: leaf[0], self._chunk.rows))

    def _begin(self, first: int) -> None:
        """Start reading at this step; the result of a read in progress is dropped."""
        self._source = ShuffledRows(self._stream, self._seed, self._total, first * self._size)
        self._next: Future[Any] = self._pool.submit(self._read, self._source)

    def _read(self, source: ShuffledRows) -> Any:
        """The batches of the next chunk's steps, on the device."""
        shape = (self._steps, self._size)
        with jax.enable_x64(self._wide):
            rows = source.take(self._steps * self._size)
            return jax.device_put(jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), rows))

    def _advance(self, first: int) -> None:
        self._chunk = None  # freed, so that no more than two are in memory
        rows = self._next.result()
        self._chunk = Chunk(jnp.int32(first), self._scale, rows)
        self._first_step = first
        self._next = self._pool.submit(self._read, self._source)

    def at(self, step: int) -> tuple[Data, int]:
        """The chunk that holds `step`, waited for; steps never go back to an earlier chunk.

        Raises:
            StreamBroke: the source raised before the chunk was read.
            WrongCount: an epoch had another number of rows.
        """
        end = self._first_step + self._steps
        if step >= end:
            last, first = self._chunk, step // self._steps * self._steps
            try:
                if first > end:
                    self._source.stopped.set()
                    self._begin(first)
                self._advance(first)
            except WrongCount:
                raise
            except Exception as error:
                self._chunk = last
                raise StreamBroke(step) from error
            end = first + self._steps
        return self._chunk, end

    def rank(
        self, keys: Keys, phi: Phi, status: Int[np.ndarray, "lanes"], draws: EvalDraws
    ) -> Ranking:
        """Every lane's bound on all rows; if the source raises, on the rows read until then."""
        self.close()  # only one thread at a time may read a source
        blocks = RowBlocks(
            self._total, regular(self._stream.blocks(), _RANKING_BLOCK_ROWS), self._held
        )
        return rank_by_rows(keys, phi, status, blocks, self._target, self.setup, draws.num_draws)

    def lower_rest(self, keys: Keys, lanes: Any, num_draws: int) -> list[Lowering]:
        """The programs of `rank_by_rows`, for a block of the usual size."""
        block = _abstract(self.first.rows, min(_RANKING_BLOCK_ROWS, self._total))
        return lower_ranking_by_rows(keys, lanes, block, self._target, self.setup, num_draws)

    def _held(self) -> Iterator[Any]:
        """The rows of the chunk in memory, for when the source gives no others."""
        assert self._chunk is not None
        yield jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), self._chunk.rows)

    def close(self) -> None:
        """Stop the reading thread after the block that it is reading."""
        self._source.stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _abstract(rows: Any, size: int) -> Any:
    """The shapes of a block of `size` such rows."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), rows
    )


@contextlib.contextmanager
def data_source(
    setup: Setup, key: Key[Array, ""], data: Data, minibatch: Minibatch | None, dtype: Any
) -> Iterator[DataSource]:
    """Open the data source for these data; `key` is the key of the run's noise."""
    if minibatch is None:
        yield Whole(setup, data)
    elif isinstance(data, Stream):
        source = Streamed(setup, key, data, minibatch.size, dtype)
        try:
            yield source
        finally:
            source.close()
    else:
        yield InMemory(setup, key, data, minibatch.size, dtype)


def warn_of_broken_stream(error: StreamBroke, steps: int) -> None:
    """Warn that a stream raised, and say that the fit up to `steps` is kept."""
    cause = error.__cause__
    warnings.warn(
        f"the data stream raised {type(cause).__name__} ({cause}) after step {steps:,}: the fit "
        "is the result of the steps until then, marked as interrupted",
        RuntimeWarning,
        stacklevel=3,
    )
