"""Hamiltonian Monte Carlo: hundreds of short chains in one batch.

Chains start at draws of q. If their marginals do not drift, q is right there; if they do, their
states replace its draws. The chains run in coordinates whitened by q, and adapt one common step
size together.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

from jaxvi._compilation import STEPS, light_jit
from jaxvi._numerics import normals
from jaxvi._types import Data, Scalar
from jaxvi.target import Target, values_and_gradients

# length of the shortest trajectories, in sds of q: after a quarter of a period a Gaussian's state
# does not depend on where it started
_MIN_TRAJECTORY_SD = 1.4
_MIN_LEAPFROG_STEPS, MAX_LEAPFROG_STEPS = 2, 8
_TARGET_ACCEPTANCE = 0.8
_FIRST_STEP_SD = 0.5  # of q
_SHORT_STEP_PROBABILITY = 0.25  # share of transitions with shorter steps, for narrow regions
_SHORT_STEP_FACTOR = 0.25  # of the step size
# of the step size, drawn by each chain: trajectories of one length may return to where they began
MIN_STEP_FACTOR, MAX_STEP_FACTOR = 0.6, 1.2
_GAIN_EXPONENT = 0.6  # transition t adapts the step size by a gain of t^-0.6


class Chains(NamedTuple):
    """State of all chains: positions, log densities, gradients and the common step size.

    A chain whose start had no finite density has the value -inf, and accepts the first finite
    point.
    """

    z: Float[Array, "chains dim"]
    value: Float[Array, "chains"]
    gradient: Float[Array, "chains dim"]
    log_step: Scalar
    num_transitions: Int[Array, ""]
    acceptance: Scalar  # mean over chains in the last transition


def min_leapfrog_steps(log_step: Scalar) -> Int[Array, ""]:
    """Leapfrog steps in the shortest transitions: a quarter of a Gaussian's period."""
    wanted = _MIN_TRAJECTORY_SD * jnp.exp(-log_step)
    return jnp.round(jnp.clip(wanted, _MIN_LEAPFROG_STEPS, MAX_LEAPFROG_STEPS)).astype(jnp.int32)


def acceptance_probability(
    before: Float[Array, "chains"],
    value: Float[Array, "chains"],
    momentum: Float[Array, "chains dim"],
    last: Float[Array, "chains dim"],
) -> Float[Array, "chains"]:
    """Metropolis acceptance probability of a Hamiltonian transition's end.

    Args:
        before: log density at the start.
        value: log density at the end.
        momentum: momentum at the start.
        last: momentum at the end.
    """
    finite = jnp.where(jnp.isfinite(before), before, jnp.finfo(before.dtype).min)
    gain = value - finite + 0.5 * (jnp.sum(momentum**2, axis=-1) - jnp.sum(last**2, axis=-1))
    return jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0.0)), 0.0)


def adapted_log_step(
    log_step: Scalar, num_transitions: Int[Array, ""], acceptance: Scalar
) -> Scalar:
    """Log step size after a stochastic approximation step towards the target acceptance."""
    gain = (1.0 + num_transitions.astype(log_step.dtype)) ** -_GAIN_EXPONENT
    return log_step + gain * (acceptance - _TARGET_ACCEPTANCE)


def start_chains(
    target: Target,
    z: Float[Array, "chains dim"],
    scale: Float[Array, "dim"] | Float[Array, "dim dim"],
    data: Data,
    *,
    num_kept: int,
) -> Chains:
    """Chains at the rows of z, with log densities and gradients there.

    They are advanced by one step of length zero, so that the compiled program that advances
    chains also starts them.

    Args:
        target: the log density.
        z: starting points.
        scale: as for `advance_chains`.
        data: handed to the log density.
        num_kept: as `advance_chains` will be given.
    """
    num, dtype = len(z), z.dtype
    zero = np.int32(0)
    numbers = np.full(num, -np.inf, dtype), np.zeros(z.shape, dtype), np.array(-np.inf, dtype)
    still = Chains(z, *(jnp.asarray(x) for x in (*numbers, zero, np.array(0.0, dtype))))
    key = jax.random.key(0)  # of momenta that a step of length zero ignores
    chains, _ = _advance(key, still, scale, data, np.int32(1), np.int32(1), target, num_kept)
    step = jnp.asarray(np.log(np.array(_FIRST_STEP_SD, dtype)))
    return chains._replace(log_step=step, num_transitions=jnp.asarray(zero))


def advance_chains(
    key: Key[Array, ""],
    chains: Chains,
    scale: Float[Array, "dim"] | Float[Array, "dim dim"],
    data: Data,
    *,
    target: Target,
    num_kept: int,
    thin: int = 1,
) -> tuple[Chains, Float[Array, "kept chains dim"]]:
    """`num_kept * thin` transitions of all chains, and every `thin`-th of their states.

    Each transition is Hamiltonian, with a Metropolis correction (Duane et al. 1987). It has 2 to 8
    leapfrog steps: their number is drawn between that of a trajectory of 1.4 sds and 8. After a
    quarter of a period a Gaussian's state does not depend on its start; where q's scales are not
    the posterior's, longer trajectories help. Each chain draws its own step length. The step size
    adapts to an acceptance of 0.8, with a gain that decreases over all transitions so far. Every
    fourth transition has steps a quarter as long, for narrow regions, and does not count for the
    adaptation.

    Args:
        key: a random key.
        chains: their state.
        scale: q's standard deviations, or a triangular factor of its covariance.
        data: handed to the log density.
        target: the log density.
        num_kept: states to return of each chain.
        thin: transitions between two of them.
    """
    most = np.int32(MAX_LEAPFROG_STEPS)
    return _advance(key, chains, scale, data, np.int32(thin), most, target, num_kept)


# arguments are positional: calls that name them differently would each compile a program
@light_jit(STEPS, static_argnums=(6, 7))
def _advance(
    key: Key[Array, ""],
    chains: Chains,
    scale: Float[Array, "dim"] | Float[Array, "dim dim"],
    data: Data,
    thin: Any,
    max_leapfrog_steps: Any,
    target: Target,
    num_kept: int,
) -> tuple[Chains, Float[Array, "kept chains dim"]]:
    def some(chains: Chains, key: Key[Array, ""]) -> tuple[Chains, Float[Array, "chains dim"]]:
        def one(i: Int[Array, ""], chains: Chains) -> Chains:
            return _transition(
                jax.random.fold_in(key, i), chains, scale, target, data, max_leapfrog_steps
            )

        chains = lax.fori_loop(0, thin, one, chains)
        return chains, chains.z

    return lax.scan(some, chains, jax.random.split(key, num_kept))


def _transition(
    key: Key[Array, ""],
    chains: Chains,
    scale: Float[Array, "dim"] | Float[Array, "dim dim"],
    target: Target,
    data: Data,
    max_leapfrog_steps: Int[Array, ""],
) -> Chains:
    """One Hamiltonian transition of every chain."""
    key_momentum, key_length, key_accept, key_leaps = jax.random.split(key, 4)
    shape, dtype = chains.z.shape, chains.z.dtype
    momentum = normals(key_momentum, shape, dtype)
    drawn = jax.random.uniform(key_length, (shape[0],), dtype)
    short_step = drawn < _SHORT_STEP_PROBABILITY
    step_factor = MIN_STEP_FACTOR + (MAX_STEP_FACTOR - MIN_STEP_FACTOR) * (
        drawn - _SHORT_STEP_PROBABILITY
    ) / (1.0 - _SHORT_STEP_PROBABILITY)
    step_factor = jnp.where(short_step, _SHORT_STEP_FACTOR, step_factor)[:, None]
    # a chain without a finite density takes steps of q's scale; a log step of -inf moves none
    known = jnp.isfinite(chains.value)[:, None] | ~jnp.isfinite(chains.log_step)
    step = jnp.where(known, jnp.exp(chains.log_step), _FIRST_STEP_SD) * step_factor
    leaps = jax.random.randint(
        key_leaps, (), min_leapfrog_steps(chains.log_step), MAX_LEAPFROG_STEPS + 1
    )
    leaps = jnp.minimum(leaps, max_leapfrog_steps)

    def evaluate(z: Array) -> tuple[Array, ...]:
        value, gradient = _finite(target, z, data)
        return _whiten_gradient(scale, gradient), value, gradient

    force = _whiten_gradient(scale, chains.gradient)
    start = (chains.z, momentum, force, chains.value, chains.gradient)
    velocity = partial(_unwhiten, scale)
    z, last, _, value, gradient = leapfrog(start, step, velocity, evaluate, leaps)
    chance = acceptance_probability(chains.value, value, momentum, last)
    accepted = jax.random.uniform(key_accept, (shape[0],), dtype) < chance
    usual = jnp.sum(jnp.where(short_step, 0.0, chance)) / jnp.maximum(jnp.sum(~short_step), 1)
    return Chains(
        z=jnp.where(accepted[:, None], z, chains.z),
        value=jnp.where(accepted, value, chains.value),
        gradient=jnp.where(accepted[:, None], gradient, chains.gradient),
        log_step=adapted_log_step(chains.log_step, chains.num_transitions, usual),
        num_transitions=chains.num_transitions + 1,
        acceptance=usual,
    )


def leapfrog(
    start: tuple[Array, ...],
    step: Float[Array, "chains 1"],
    velocity: Callable[[Array], Array],
    evaluate: Callable[[Array], tuple[Array, ...]],
    num_steps: Int[Array, ""],
) -> tuple[Array, ...]:
    """Leapfrog integration of Hamilton's equations for all chains.

    Args:
        start: position, momentum, and what `evaluate` gives at the position.
        step: step length of each chain.
        velocity: a momentum's velocity.
        evaluate: force at a position, and anything else that is wanted of the last one.
        num_steps: leapfrog steps.
    """

    def advance(_: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        position, momentum, force = carry[:3]
        momentum = momentum + 0.5 * step * force
        position = position + step * velocity(momentum)
        force, *rest = evaluate(position)
        return position, momentum + 0.5 * step * force, force, *rest

    return lax.fori_loop(0, num_steps, advance, start)


def _finite(
    target: Target, z: Float[Array, "chains dim"], data: Data
) -> tuple[Float[Array, "chains"], Float[Array, "chains dim"]]:
    """The log density and its gradient; -inf and zero where one of them is not finite."""
    value, gradient = values_and_gradients(target, z, data)
    good = jnp.isfinite(value) & jnp.isfinite(gradient).all(axis=-1)
    return jnp.where(good, value, -jnp.inf), jnp.where(good[:, None], gradient, 0.0)


def _unwhiten(
    scale: Float[Array, "dim"] | Float[Array, "dim dim"], rows: Float[Array, "chains dim"]
) -> Float[Array, "chains dim"]:
    """Velocities or steps from whitened coordinates to z."""
    return rows * scale[None] if scale.ndim == 1 else rows @ scale.T


def _whiten_gradient(
    scale: Float[Array, "dim"] | Float[Array, "dim dim"], rows: Float[Array, "chains dim"]
) -> Float[Array, "chains dim"]:
    """Gradients from z to whitened coordinates."""
    return rows * scale[None] if scale.ndim == 1 else rows @ scale
