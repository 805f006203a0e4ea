"""Restarts as lanes: starts that differ, one compiled batch, a fair ranking."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxvi._compilation import ONCE, STEPS, light_jit
from jaxvi._loop import AnySetup, Lane, Setup, run_lane, run_lanes, start_lane
from jaxvi._numerics import Keys, split_key
from jaxvi._status import Status
from jaxvi._types import Data, Phi
from jaxvi.data import Minibatch, first_batch, resident
from jaxvi.families import Family, HasGaussianInit
from jaxvi.noise import Fresh, NoiseSource
from jaxvi.objectives import ELBO, Objective
from jaxvi.solvers import Defaults, HasDefaults, Solver, Stochastic, default_family
from jaxvi.target import Target, values_and_gradients

_START_TRIES = 20


class LaneResult(NamedTuple):
    """What became of one lane: parameters, status code, steps taken, its last mean bound."""

    phi: Phi
    status: Int[Array, ""]
    step: Int[Array, ""]
    bound: Float[Array, ""]


class WarmStart(NamedTuple):
    """Where another fit ended: phi of the same family, or else the Gaussian of its moments."""

    loc: Float[Array, "dim"]
    phi: Phi | None
    scale_tril: Float[Array, "dim dim"] | None


class Starts(NamedTuple):
    """Where restarts begin, as `start_lanes` has it."""

    z: Float[Array, "*all dim"] | None
    scale: Float[Array, "*each"]
    data: Data
    warm: WarmStart | None


def make_setup(target: Target, family: Any, objective: Any, solver: Any, noise: Any) -> Setup:
    """The parts as given, and where there is None what suits the solver."""
    solver = Stochastic() if solver is None else solver
    if isinstance(solver, HasDefaults):
        default = solver.defaults(family, target.dim)
    else:
        default = Defaults(default_family(target.dim), ELBO(), Fresh())
    return Setup(
        target,
        default.family if family is None else family,
        default.objective if objective is None else objective,
        solver,
        default.noise if noise is None else noise,
    )


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


def initial_lane(
    setup: Setup,
    key: Key[Array, ""],
    lane: Int[Array, ""],
    z: Float[Array, "dim"] | None,
    start_scale: Float[Array, ""],
    data: Data,
    jitter: Bool[Array, ""] | bool = False,
) -> Lane:
    """A lane at `z`, or at the first start drawn under its own key where all is finite.

    With `jitter`, a draw is `z` plus `start_scale` times a normal, whose sign changes from lane to
    lane of a pair; without z it comes from the target's own `start`, or around the origin. Each
    failed try halves the distance to the centre.
    """
    dtype = setup.target.dtype(data)

    def key_of(owner: Int[Array, ""], number: int | Int[Array, ""]) -> Key[Array, ""]:
        """Of the keys of a lane, or of a pair of lanes: those of its tries, and that of phi."""
        return jax.random.fold_in(key, owner * (_START_TRIES + 1) + number)

    def begin(found: Float[Array, "dim"], usable: Bool[Array, ""]) -> Lane:
        phi = setup.family.init(key_of(lane, _START_TRIES), setup.target.dim, start=found)
        return start_lane(setup, phi, usable, data)

    if z is not None and jitter is False:  # nothing to look for, and less to compile
        return begin(z, _is_usable(setup, z, data))

    def propose(attempt: Int[Array, ""]) -> Float[Array, "dim"]:
        if z is None and setup.target.start is not None:
            return setup.target.draw_start(key_of(lane, attempt), data).astype(dtype)
        spread = jnp.asarray(start_scale, dtype) * 0.5 ** attempt.astype(dtype)
        # of float32 in any case: a start needs no more, and normals of float64 take long to compile
        key_try = key_of(lane // 2, attempt)
        normal = jax.random.normal(key_try, (setup.target.dim,), jnp.float32)
        # every second lane goes the other way: a mode on one side is not missed by both
        step = jnp.where(lane % 2 == 0, spread, -spread) * normal.astype(dtype)
        return step if z is None else jnp.where(jitter, z + step, z)

    def search(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        attempt, _, _ = carry
        candidate = propose(attempt)
        return attempt + 1, candidate, _is_usable(setup, candidate, data)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        return ~carry[2] & (carry[0] < _START_TRIES)

    nothing = (jnp.zeros((), jnp.int32), jnp.zeros(setup.target.dim, dtype), jnp.zeros((), bool))
    _, found, usable = lax.while_loop(unfinished, search, nothing)
    return begin(found, usable)


def _is_usable(setup: Setup, z: Float[Array, "dim"], data: Data) -> Bool[Array, ""]:
    """Whether the log density and its gradient are finite."""
    value, grad = values_and_gradients(setup.target, z[None], data)
    return jnp.isfinite(value[0]) & jnp.isfinite(grad).all()


def _warm_lane(
    setup: Setup, key: Key[Array, ""], lane: Int[Array, ""], warm: WarmStart, data: Data
) -> Lane:
    """A lane where another fit ended; what its family has besides comes from the lane's key."""
    phi = warm.phi
    if phi is None:
        assert isinstance(setup.family, HasGaussianInit)  # the door said so
        assert warm.scale_tril is not None
        own = jax.random.fold_in(key, lane)
        phi = setup.family.init_gaussian(own, warm.loc, warm.scale_tril)
    return start_lane(setup, phi, _is_usable(setup, warm.loc, data), data)


@light_jit(ONCE, static_argnames=("setup", "num_lanes"))
def start_lanes(
    keys: Keys,
    z: Float[Array, "*lanes dim"] | None,
    start_scale: Float[Array, "*each"],
    data: Data,
    warm: WarmStart | None = None,
    *,
    setup: Setup,
    num_lanes: int,
) -> Lane:
    """All lanes at their starts.

    z of shape (dim,) is where lane 0 starts, the others being scattered around it; z of shape
    (lanes, dim) gives every lane's own; None draws them all. A `warm` start is everybody's.
    `start_scale` is one for all, or one for each.
    """
    lanes = jnp.arange(num_lanes, dtype=jnp.int32)
    if z is not None and num_lanes == 1:
        z = z.reshape(1, -1)
    return lanes_at_starts(setup, keys, lanes, z, start_scale, data, warm)


def lanes_at_starts(
    setup: Setup,
    keys: Keys,
    lanes: Int[Array, "lanes"],
    z: Float[Array, "*all dim"] | None,
    start_scale: Float[Array, "*each"],
    data: Data,
    warm: WarmStart | None,
) -> Lane:
    """Some restarts; z and scales are those of all."""
    if warm is not None:
        return jax.vmap(lambda lane: _warm_lane(setup, keys.start, lane, warm, data))(lanes)
    batched = z is not None and z.ndim == 2
    scales = start_scale[lanes] if start_scale.ndim else jnp.broadcast_to(start_scale, len(lanes))

    def one(lane: Array, scale: Array, z: Array | None) -> Lane:
        jitter = False if batched else lane > 0
        return initial_lane(setup, keys.start, lane, z, scale, data, jitter)

    if z is not None and batched:
        return jax.vmap(one)(lanes, scales, z[lanes])
    return jax.vmap(one, (0, 0, None))(lanes, scales, z)


@light_jit(STEPS, static_argnames=("setup", "rows"), donate_argnames=("lanes",))
def advance_lanes(
    keys: Keys,
    lanes: Lane,
    first_step: Int[Array, ""],
    last_step: Int[Array, ""],
    data: Data,
    *,
    setup: AnySetup,
    rows: int,
) -> tuple[Lane, Float[Array, "rows lanes"], Int[Array, ""]]:
    """A chunk of the run: at most `rows` blocks of every lane."""
    indices = jnp.arange(lanes.status.shape[0], dtype=jnp.int32)
    own = noise_keys(keys, indices, setup)
    return run_lanes(setup, own, lanes, first_step, last_step, rows, data)


def noise_keys(keys: Keys, lanes: Int[Array, "lanes"], setup: AnySetup) -> Key[Array, "..."]:
    """One key where lanes share their noise, else those of the lanes of these numbers."""
    if setup.shared:
        return keys.noise
    return jax.vmap(jax.random.fold_in, (None, 0))(keys.noise, lanes)


@light_jit(ONCE, static_argnames="setup")
def lane_results(lanes: Lane, *, setup: AnySetup) -> Phi:
    """Every lane's parameters, as far as it has come."""
    return jax.vmap(setup.solver.result)(lanes.state)
