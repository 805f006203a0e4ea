"""Coordinate ascent on a mixture's bound, many restarts as lanes of the engine's loop."""

import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxvi._compilation import one_thread
from jaxvi._engine import (
    ConjugateSetup,
    Lane,
    Progress,
    Snapshot,
    advance_lanes,
    drive,
    interrupts,
    start_lane,
)
from jaxvi._numerics import Keys, pytrees
from jaxvi._status import Status
from jaxvi.models import ConjugateGaussianMixture, MixtureData, MixturePhi, Sums
from jaxvi.solvers import Ascent, CoordinateAscent

_TRACE_ROWS = 128  # of bounds, one a step, that one call of the program records
_MIN_THREAD_LANES, _MAX_THREAD_LANES = 4, 32  # that a thread runs together
_CHUNK_PRODUCTS = 2e10  # multiplications of a chunk, about a second of two cores


class Ascended(NamedTuple):
    """The outcome of all restarts; `trace` has the bound after every step, NaN after the last."""

    phis: Any  # a `MixturePhi` of NumPy arrays
    bounds: Float[np.ndarray, "lanes"]
    status: Int[np.ndarray, "lanes"]
    steps: Int[np.ndarray, "lanes"]
    trace: Float[np.ndarray, "steps lanes"]
    seconds: float
    interrupted: bool

    @property
    def best(self) -> int:
        """The restart with the largest bound; the first of equals."""
        return int(np.argmax(np.where(np.isfinite(self.bounds), self.bounds, -np.inf)))

    def phi(self, lane: int) -> Any:
        """The variational parameters of one restart."""
        return jax.tree.map(lambda leaf: leaf[lane], self.phis)

    def first(self, num: int) -> "Ascended":
        """The outcome of the first `num` restarts only."""
        return self._replace(
            phis=jax.tree.map(lambda leaf: leaf[:num], self.phis),
            bounds=self.bounds[:num],
            status=self.status[:num],
            steps=self.steps[:num],
            trace=self.trace[:, :num],
        )


@one_thread()
def ascend(
    model: ConjugateGaussianMixture,
    data: MixtureData,
    phis: Any,
    bounds: Float[np.ndarray, "lanes"] | None,
    tolerance: float,
    max_steps: int,
) -> Ascended:
    """Run coordinate ascent of all lanes from `phis`; `bounds` are theirs if a run is continued.

    On a CPU lanes are dealt out to threads, since XLA would run small ones on one core.
    """
    given = Ascent(data, np.asarray(tolerance, data.x.dtype))  # type: ignore[arg-type]
    setup = ConjugateSetup(model, CoordinateAscent())
    num = len(phis.means)
    num_threads = max(1, min(_cores(data), num // _MIN_THREAD_LANES)) if bounds is None else 1
    with interrupts() as interrupted:
        if num_threads == 1:
            lanes = _start(phis, bounds, np.ones(num, bool), given, setup=setup)
            return _run(lanes, given, setup, max_steps, interrupted)
        # groups of equal size, so that one program serves all: padding lanes never start. Groups
        # are small, so that few lanes wait for the slowest of them
        each = min(-(-num // num_threads), _MAX_THREAD_LANES)
        places = np.arange(-(-num // each) * each)
        phis = jax.tree.map(lambda leaf: np.asarray(leaf)[np.minimum(places, num - 1)], phis)
        lanes = jax.tree.map(np.asarray, _start(phis, None, places < num, given, setup=setup))
        deals = [
            jax.tree.map(lambda leaf, first=first: leaf[first : first + each], lanes)
            for first in places[::each]
        ]
        _advance(deals[0], given, setup, 0, 0)  # compiles
        wide, (device,) = jnp.result_type(float) == jnp.float64, data.x.devices()

        def work(deal: Lane) -> Ascended:
            with jax.enable_x64(wide), jax.default_device(device):
                return _run(deal, given, setup, max_steps, interrupted)

        began = time.perf_counter()
        with ThreadPoolExecutor(num_threads) as pool:
            joined = _joined(list(pool.map(work, deals)))
        return joined.first(num)._replace(seconds=time.perf_counter() - began)


def _cores(data: MixtureData) -> int:
    """Number of threads that can run programs in parallel."""
    (device,) = data.x.devices()
    return (os.cpu_count() or 1) if device.platform == "cpu" else 1


def _run(
    lanes: Lane, given: Ascent, setup: ConjugateSetup, max_steps: int, stop: threading.Event
) -> Ascended:
    """Run chunks until all lanes have ended, the step limit, or an interrupt."""
    began = time.perf_counter()
    ascent = _AscentLanes(lanes, given, setup, max_steps)
    drive(ascent, stop, until=math.inf)
    return ascent.outcome(time.perf_counter() - began, stop.is_set())


class _AscentLanes:
    """Lanes of a coordinate ascent, as work for the host loop; it records every step's bound."""

    def __init__(self, lanes: Lane, given: Ascent, setup: ConjugateSetup, max_steps: int) -> None:
        self._lanes, self._given, self._setup, self._max_steps = lanes, given, setup, max_steps
        self._step, self._traces = 0, [np.zeros((0, len(lanes.status)))]
        self._chunk = _steps_of_a_chunk(setup.model, given.data, lanes)

    @property
    def running(self) -> bool:
        """Whether a lane runs that may take another step."""
        some = bool((np.asarray(self._lanes.status) == Status.RUNNING).any())
        return some and self._step < self._max_steps

    def settle(self) -> None:
        """Do nothing: all restarts have a lane from the start."""

    def advance(self) -> bool:
        """Advance all lanes by a chunk."""
        goal = min(self._step + self._chunk, self._max_steps)
        self._lanes, rows, reached = _advance(
            self._lanes, self._given, self._setup, self._step, goal
        )
        self._traces.append(np.asarray(rows)[: int(reached) - self._step])
        self._step = int(reached)
        return True

    def agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """With one process, what it asks for."""
        return stop, save

    def progress(self, seconds: float) -> Progress:
        """Steps, running lanes and the best bound so far."""
        status, bounds = np.asarray(self._lanes.status), np.asarray(self._lanes.bound)
        running = int((status == Status.RUNNING).sum())
        best = float(np.max(bounds[np.isfinite(bounds)], initial=-math.inf))
        return Progress(self._step, self._max_steps, len(status), running, best, seconds)

    def snapshot(self) -> Snapshot:
        """Lanes, their bounds after every step, and the step."""
        return Snapshot(self._lanes, {"trace": self._trace()}, {"step": self._step})

    def _trace(self) -> Float[np.ndarray, "steps lanes"]:
        """Bounds after every step; NaN after a lane's last."""
        trace, steps = np.concatenate(self._traces[1:] or self._traces), self._lanes.step
        return np.where(np.arange(len(trace))[:, None] < np.asarray(steps)[None], trace, np.nan)

    def outcome(self, seconds: float, interrupted: bool) -> Ascended:
        """Parameters, bounds, status and steps of every lane, also of those that were stopped."""
        lanes = self._lanes
        return Ascended(
            jax.tree.map(np.asarray, lanes.state.phi),
            np.asarray(lanes.state.bound),
            np.asarray(lanes.status),
            np.asarray(lanes.step),
            self._trace(),
            seconds,
            interrupted,
        )


def _advance(
    lanes: Lane, given: Ascent, setup: ConjugateSetup, step: int, goal: int
) -> tuple[Lane, Array, Array]:
    return advance_lanes(
        _no_noise(), lanes, np.int32(step), np.int32(goal), given, setup=setup, rows=_TRACE_ROWS
    )


@cache
def _no_noise() -> Keys:
    """Keys to pass to `advance_lanes`, which coordinate ascent doesn't use."""
    key = jax.random.key(0)
    return Keys(key, key, key)


def _steps_of_a_chunk(model: Any, data: MixtureData, lanes: Lane) -> int:
    """Number of steps of a chunk, for about a second, so that an interrupt is soon noticed."""
    blocks, dim, rows = data.x.shape
    features = dim * dim if model.covariance_type == "full" else 2 * dim
    each = 4.0 * len(lanes.status) * model.num_components * features * blocks * rows
    return int(min(max(_CHUNK_PRODUCTS / each, 1), _TRACE_ROWS))


@partial(jax.jit, static_argnames="setup")
def _start(
    phis: Any,
    bounds: Any,
    there: Any,
    given: Ascent,
    *,
    setup: ConjugateSetup,
) -> Lane:
    def one(phi: MixturePhi, there: Bool[Array, ""]) -> Lane:
        return start_lane(setup, phi, pytrees.all_finite(phi) & there, given)

    lanes = jax.vmap(one)(phis, there)
    if bounds is None:
        return lanes
    return lanes._replace(state=lanes.state._replace(bound=jnp.asarray(bounds)))


@partial(jax.jit, static_argnames="model")
def from_responsibilities(
    responsibilities: Any,
    data: MixtureData,
    centre: Any,
    *,
    model: ConjugateGaussianMixture,
) -> MixturePhi:
    """Every lane's parameters after a first update from its responsibilities."""

    def one(shares: Array) -> MixturePhi:
        return first_step(model.given(shares, data), data, centre, model=model)

    return jax.vmap(one)(responsibilities)


@partial(jax.jit, static_argnames="model")
def first_step(
    sums: Sums, data: MixtureData, centre: Any, *, model: ConjugateGaussianMixture
) -> MixturePhi:
    """Parameters that maximise the bound, from sums weighted by given responsibilities.

    Where they don't add up to one by row (as those of a few rows that are drawn), scikit-learn's
    tied scatter depends on the origin: sums of x x^T are over all rows, of x over some.
    """
    if model.covariance_type == "tied":
        left = jnp.sum(data.weight) - jnp.sum(sums.size)
        mixed = jnp.outer(centre, sums.first.sum(axis=0))
        more = left * jnp.outer(centre, centre) - mixed - mixed.T
        # rounding of what is left, where nothing is, must not meet the square of a large origin
        sums = sums._replace(cross=sums.cross + jnp.where(left > 0.5, more, 0.0))
    return model.maximise(sums, data)


@partial(jax.jit, static_argnames="model")
def given(
    responsibilities: Any,
    data: MixtureData,
    first: Any,
    *,
    model: ConjugateGaussianMixture,
) -> Sums:
    """Sufficient statistics of some blocks of rows from block `first` on, by responsibilities."""
    num = len(responsibilities)
    x = jax.lax.dynamic_slice_in_dim(data.x, first, num)
    weight = jax.lax.dynamic_slice_in_dim(data.weight, first, num)
    return model.given(responsibilities, data._replace(x=x, weight=weight))


@partial(jax.jit, static_argnames="model")
def log_joint(
    phi: MixturePhi, x: Float[Array, "blocks dim rows"], *, model: ConjugateGaussianMixture
) -> Float[Array, "blocks components rows"]:
    """E[log p(x, component)] of every row."""
    return jax.lax.map(lambda block: model.log_joint(phi, block), x)


@partial(jax.jit, static_argnames="model")
def labels(
    phi: MixturePhi, x: Float[Array, "blocks dim rows"], *, model: ConjugateGaussianMixture
) -> Int[Array, "blocks rows"]:
    """The most probable component of every row."""
    return jax.lax.map(lambda block: jnp.argmax(model.log_joint(phi, block), axis=0), x)


def in_groups(
    model: ConjugateGaussianMixture,
    data: MixtureData,
    start: Callable[[int, int], MixturePhi],
    num_lanes: int,
    at_once: int,
    tolerance: float,
    max_steps: int,
) -> Ascended:
    """Run restarts, `at_once` lanes at a time; `start(first, number)` gives their parameters."""
    groups = []
    for first in range(0, num_lanes, at_once):
        phis = start(first, min(at_once, num_lanes - first))
        groups.append(ascend(model, data, phis, None, tolerance, max_steps))
        if groups[-1].interrupted:
            break
    return _joined(groups)


def _joined(groups: list[Ascended]) -> Ascended:
    if len(groups) == 1:
        return groups[0]
    length = max(len(group.trace) for group in groups)
    traces = []
    for group in groups:
        missing = np.full((length - len(group.trace), len(group.bounds)), np.nan)
        traces.append(np.concatenate([group.trace, missing]))
    return Ascended(
        jax.tree.map(lambda *leaves: np.concatenate(leaves), *(group.phis for group in groups)),
        np.concatenate([group.bounds for group in groups]),
        np.concatenate([group.status for group in groups]),
        np.concatenate([group.steps for group in groups]),
        np.concatenate(traces, axis=1),
        sum(group.seconds for group in groups),
        any(group.interrupted for group in groups),
    )
