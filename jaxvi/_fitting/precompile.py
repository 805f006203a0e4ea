"""Compiling ahead: a fit's programs are compiled in parallel before the first one runs."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from jaxvi._compilation import CompileClock, Lowering, compiling_ahead
from jaxvi._engine import (
    MAX_BLOCKS,
    DataSource,
    Setup,
    Starts,
    advance_lanes,
    lane_results,
    start_lanes,
)
from jaxvi._numerics import Keys
from jaxvi._types import Data

CompileAlso: TypeAlias = Callable[[Setup, Any, Data], Iterable[Lowering]]
"""Gives the programs to compile for a setup, the shapes of the lanes' parameters, and data."""


class Wanted(NamedTuple):
    """Numbers of lanes and draws to compile for, and a function that gives further programs."""

    num_lanes: int
    num_eval_draws: int
    also: CompileAlso | None


def compiling(
    source: DataSource,
    keys: Keys,
    starts: Starts,
    wanted: Wanted,
    first: list[Lowering],
) -> contextlib.AbstractContextManager[list[Future[None]] | None]:
    """Compile in threads: the `first` programs, then starts, ranking, `wanted.also`, steps."""
    step, setup, (data, _) = np.int32(0), source.setup, source.at(0)
    arguments, num_lanes = tuple(starts), wanted.num_lanes

    def lowerings() -> Iterator[Lowering]:
        yield from first
        start: dict[str, Any] = {"setup": setup, "num_lanes": num_lanes}
        yield partial(start_lanes.lower, keys, *arguments, **start)
        lanes = jax.eval_shape(partial(start_lanes, **start), keys, *arguments)
        yield from source.lower_rest(keys, lanes, wanted.num_eval_draws)
        if wanted.also is not None:
            phis = jax.eval_shape(partial(lane_results, setup=setup), lanes)
            yield from wanted.also(setup, phis, data)
        steps: dict[str, Any] = {"setup": setup, "rows": MAX_BLOCKS}
        yield partial(advance_lanes.lower, keys, lanes, step, step, data, **steps)
        yield partial(lane_results.lower, lanes, setup=setup)

    return compiling_ahead((setup, num_lanes), (keys, arguments, data), lowerings())


def wait_for(coming: list[Future[None]], clock: CompileClock) -> None:
    """Wait until programs are compiled, and count the time as compiling."""
    with clock.waiting():
        wait(coming)
