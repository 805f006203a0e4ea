"""Coordinate ascent of many restarts of a mixture: lanes of the engine's own loop."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvi import _tree
from jaxvi._interrupts import interrupts
from jaxvi._loop import ConjugateSetup, Lane, start_lane
from jaxvi._status import Status
from jaxvi.lanes import advance_lanes, split_key
from jaxvi.models import ConjugateGaussianMixture, MixtureData, MixturePhi, Sums
from jaxvi.solvers import Ascent, CoordinateAscent

_ROWS = 128  # of history that a program keeps
_CHUNK = 2e10  # products of a chunk, about a second of two cores


class Ascended(NamedTuple):
    """Restarts at their ends. `trace` has every restart's bound after every step, else NaN."""

    phis: MixturePhi
    bounds: Float[np.ndarray, "lanes"]
    status: Int[np.ndarray, "lanes"]
    steps: Int[np.ndarray, "lanes"]
    trace: Float[np.ndarray, "steps lanes"]
    seconds: float
    interrupted: bool

    @property
    def best(self) -> int:
        """The largest bound; the first of equals."""
        return int(np.argmax(np.where(np.isfinite(self.bounds), self.bounds, -np.inf)))

    def phi(self, lane: int) -> MixturePhi:
        """One restart's."""
        return jax.tree.map(lambda leaf: np.asarray(leaf[lane]), self.phis)


def ascend(
    model: ConjugateGaussianMixture,
    data: MixtureData,
    phis: MixturePhi,
    bounds: Float[np.ndarray, "lanes"] | None,
    tolerance: float,
    max_steps: int,
) -> Ascended:
    """All lanes from `phis`, whose `bounds` are known where a run goes on, until they end."""
    setup = ConjugateSetup(model, CoordinateAscent())
    given = Ascent(data, jnp.asarray(tolerance, data.x.dtype))
    lanes = _start(phis, bounds, given, setup=setup)
    keys, traces, step, began = split_key(jax.random.key(0)), [], 0, time.perf_counter()
    pace = _steps_of_a_chunk(model, data, lanes)
    with interrupts() as interrupted:
        while step < max_steps and not interrupted.is_set():
            goal = min(step + pace, max_steps)
            lanes, rows, reached = advance_lanes(
                keys, lanes, jnp.int32(step), jnp.int32(goal), given, setup=setup, rows=_ROWS
            )
            traces.append(np.asarray(rows)[: int(reached) - step])
            step = int(reached)
            if not (np.asarray(lanes.status) == Status.RUNNING).any():
                break
    steps = np.asarray(lanes.step)
    trace = np.concatenate(traces) if traces else np.zeros((0, len(steps)))
    trace = np.where(np.arange(len(trace))[:, None] < steps[None], trace, np.nan)
    return Ascended(
        lanes.state.phi,
        np.asarray(lanes.state.bound),
        np.asarray(lanes.status),
        steps,
        trace,
        time.perf_counter() - began,
        interrupted.is_set(),
    )


def _steps_of_a_chunk(model: ConjugateGaussianMixture, data: MixtureData, lanes: Lane) -> int:
    """So many that an interrupt is soon seen."""
    blocks, dim, rows = data.x.shape
    features = dim * dim if model.covariance_type == "full" else 2 * dim
    each = 4.0 * len(lanes.status) * model.num_components * features * blocks * rows
    return int(min(max(_CHUNK / each, 1), _ROWS))


@partial(jax.jit, static_argnames="setup")
def _start(
    phis: MixturePhi,
    bounds: Any,
    given: Ascent,
    *,
    setup: ConjugateSetup,
) -> Lane:
    def one(phi: MixturePhi) -> Lane:
        return start_lane(setup, phi, _tree.all_finite(phi), given)

    lanes = jax.vmap(one)(phis)
    if bounds is None:
        return lanes
    return lanes._replace(state=lanes.state._replace(bound=jnp.asarray(bounds)))


@partial(jax.jit, static_argnames="model")
def from_responsibilities(
    responsibilities: Float[Array, "lanes blocks components rows"],
    data: MixtureData,
    centre: Float[Array, "dim"],
    *,
    model: ConjugateGaussianMixture,
) -> MixturePhi:
    """Every lane's first global step."""

    def one(shares: Array) -> MixturePhi:
        return first_step(model.given(shares, data), data, centre, model=model)

    return jax.vmap(one)(responsibilities)


@partial(jax.jit, static_argnames="model")
def first_step(
    sums: Sums, data: MixtureData, centre: Float[Array, "dim"], *, model: ConjugateGaussianMixture
) -> MixturePhi:
    """Parameters from responsibilities that are given.

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
    responsibilities: Float[Array, "blocks components rows"],
    data: MixtureData,
    *,
    model: ConjugateGaussianMixture,
) -> Sums:
    """Sums of one lane."""
    return model.given(responsibilities, data)


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
    """Restarts, `at_once` lanes at a time; `start(first, number)` gives where some begin."""
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
        jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(group.phis for group in groups)),
        np.concatenate([group.bounds for group in groups]),
        np.concatenate([group.status for group in groups]),
        np.concatenate([group.steps for group in groups]),
        np.concatenate(traces, axis=1),
        sum(group.seconds for group in groups),
        groups[-1].interrupted,
    )
