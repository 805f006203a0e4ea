"""One restart as a pure function: `jaxvi.run`."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxvi._engine.loop import run_lane
from jaxvi._engine.setup import make_setup
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
    """What became of one lane: parameters, status code, steps taken, its last mean bound."""

    phi: Phi
    status: Int[Array, ""]
    step: Int[Array, ""]
    bound: Float[Array, ""]


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
        lane: which restart of the key's this is.
        minibatch: `jaxvi.Minibatch(size)` for steps on some rows of the data at a time.

    Returns:
        The lane's parameters, status, steps and last mean bound.

    Example:
        >>> many = jax.vmap(lambda k: jaxvi.run(k, target, jaxvi.MeanField()))(keys)
    """
    setup = make_setup(target, family, objective, solver, noise)
    setup.check()
    keys = split_key(key)
    index = jnp.asarray(lane, jnp.int32)
    z = None if start is None else target.unconstrain(start).astype(target.dtype(data))
    own = keys.noise if setup.noise.shared else jax.random.fold_in(keys.noise, index)
    if minibatch is not None:
        data = resident(keys.noise, data, minibatch.size, target.dtype(data))
        setup = replace(setup, target=target.scaled)
    at = first_batch(data)
    first = initial_lane(setup, keys.start, index, z, jnp.asarray(start_scale), at)
    last = run_lane(setup, own, first, jnp.asarray(max_steps, jnp.int32), data)
    status = jnp.where(last.status == Status.RUNNING, Status.STEP_LIMIT, last.status)
    return LaneResult(setup.solver.result(last.state), status, last.step, last.bound)
