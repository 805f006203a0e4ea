"""One restart as a pure function, `jaxvi.run`, and its pieces."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxvi._engine.loop import Lane, run_lane
from jaxvi._engine.setup import Setup, make_setup
from jaxvi._engine.starts import initial_lane
from jaxvi._numerics import split_key
from jaxvi._status import Status
from jaxvi._types import Data, Phi
from jaxvi.data import Minibatch, first_batch, resident
from jaxvi.families import Family
from jaxvi.noise import NoiseSource
from jaxvi.objectives import Objective
from jaxvi.solvers import Solver
from jaxvi.target import Target


class LaneResult(NamedTuple):
    """The result of one restart: parameters, status code, steps taken, last mean bound."""

    phi: Phi
    status: Int[Array, ""]
    step: Int[Array, ""]
    bound: Float[Array, ""]


def noise_key(
    key: Key[Array, ""], setup: Setup, *, lane: int | Int[Array, ""] = 0
) -> Key[Array, ""]:
    """The key that a run's noise is drawn under, made from the user's `key`.

    The same for all lanes where they share their noise (`setup.noise.shared`), else the lane's
    own. Noise of step t is `setup.draw(noise_key(key, setup), t, dtype)`.

    Args:
        key: the key that `jaxvi.run` or `jaxvi.fit` would get.
        setup: the parts.
        lane: number of the restart, counted from 0; each has its own start and noise.

    Example:
        >>> setup = jaxvi.engine.make_setup(target, jaxvi.MeanField())
        >>> setup.draw(jaxvi.engine.noise_key(key, setup), 7, target.dtype()).shape
        (8, 4)
    """
    stream = split_key(key).noise
    return stream if setup.shared else jax.random.fold_in(stream, jnp.asarray(lane, jnp.int32))


def begin_lane(
    key: Key[Array, ""],
    setup: Setup,
    data: Data = None,
    *,
    start: Any = None,
    start_scale: float | Float[Array, ""] = 1.0,
    lane: int | Int[Array, ""] = 0,
) -> Lane:
    """A restart before its first step: where `jaxvi.run` with the same arguments begins.

    `lane.state` is `solver.init(phi, problem)` and `solver.result(lane.state)` the first phi. Pure:
    map it over keys, data, starts or numbers of lanes. Cost: a gradient of the log density a try.

    Args:
        key: the key that `jaxvi.run` or `jaxvi.fit` would get.
        setup: the parts.
        data: handed to the log density.
        start: parameters to start at exactly, constrained; None draws a start.
        start_scale: standard deviation of a drawn start, unconstrained.
        lane: number of the restart, counted from 0; each has its own start and noise.

    Returns:
        The lane; its status is `NO_START` where the log density or its gradient is not finite
        at the start, or after 20 tries of a drawn one.

    Example:
        >>> setup = jaxvi.engine.make_setup(target, jaxvi.MeanField())
        >>> def first_phi(lane):
        ...     return setup.solver.result(jaxvi.engine.begin_lane(key, setup, lane=lane).state)
        >>> jax.vmap(first_phi)(jnp.arange(3)).loc.shape
        (3, 4)
    """
    target, index = setup.target, jnp.asarray(lane, jnp.int32)
    z = None if start is None else target.unconstrain(start).astype(target.dtype(data))
    keys = split_key(key)
    return initial_lane(setup, keys.start, index, z, jnp.asarray(start_scale), data)


def run(
    key: Key[Array, ""],
    target: Target,
    family: Family,
    *,
    objective: Objective | None = None,
    solver: Solver | None = None,
    noise: NoiseSource | None = None,
    data: Data = None,
    start: Any = None,
    start_scale: float = 1.0,
    max_steps: int | Int[Array, ""] = 10_000,
    lane: int | Int[Array, ""] = 0,
    minibatch: Minibatch | None = None,
) -> LaneResult:
    """One restart as a pure function: jit it, vmap it over keys, data or starts, nest it.

    `run(key, ..., lane=i)` is what lane i of `fit(key, ...)` does, up to rounding. There is no
    progress, ranking or check of the arguments' values here: that is `jaxvi.fit`.

    Args:
        key: a typed random key.
        target: the log density.
        family: the variational family.
        objective: what suits the solver by default, `ELBO()` for most.
        solver: `Stochastic()` by default.
        noise: what suits the solver by default, `Fresh()` for most.
        data: handed to the log density.
        start: parameters to start at exactly, constrained; None draws a start.
        start_scale: standard deviation of a drawn start, unconstrained.
        max_steps: step limit.
        lane: number of the restart, counted from 0; each has its own start and noise.
        minibatch: `jaxvi.Minibatch(size)` for steps on some rows of the data at a time.

    Returns:
        The lane's parameters, status, steps and last mean bound.

    Example:
        >>> many = jax.vmap(lambda k: jaxvi.run(k, target, jaxvi.MeanField()))(keys)
    """
    setup = make_setup(target, family, objective, solver, noise)
    setup.check()
    own = noise_key(key, setup, lane=lane)
    if minibatch is not None:
        data = resident(split_key(key).noise, data, minibatch.size, target.dtype(data))
        setup = replace(setup, target=target.scaled)
    at = first_batch(data)
    first = begin_lane(key, setup, at, start=start, start_scale=start_scale, lane=lane)
    last = run_lane(setup, own, first, jnp.asarray(max_steps, jnp.int32), data)
    status = jnp.where(last.status == Status.RUNNING, Status.STEP_LIMIT, last.status)
    return LaneResult(setup.solver.result(last.state), status, last.step, last.bound)
