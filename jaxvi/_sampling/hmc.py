"""Short Hamiltonian chains, hundreds at once: what draws become when the density moves them.

Chains that start at draws of q and don't drift are a witness for q, and those that drift mend it.
All are one batch, in coordinates whitened by q, with one step size that all adapt together.
"""

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

_QUARTER = 1.4  # sds of q that a transition goes: by a quarter of a period a Gaussian forgets
_FEWEST_LEAPS, MOST_LEAPS = 2, 8
_ACCEPTANCE = 0.8  # wanted
_FIRST_STEP = 0.5  # standard deviations of q
_CAREFUL, _SHORT = 0.25, 0.25  # share of moves by steps as short, for places as narrow
SHORTEST, LONGEST = 0.6, 1.2  # of the step size: chains of one length would come back in step
_FORGETTING = 0.6  # exponent of the gains by which the step size is adapted


class Chains(NamedTuple):
    """Where all chains are, the log density there and its gradient; and their common step size.

    A chain whose start had no finite density has -inf there, and takes the first finite point.
    """

    z: Float[Array, "chains dim"]
    value: Float[Array, "chains"]
    gradient: Float[Array, "chains dim"]
    log_step: Scalar
    num_transitions: Int[Array, ""]
    acceptance: Scalar  # mean over chains in the last transition


def fewest_leaps(log_step: Scalar) -> Int[Array, ""]:
    """Leapfrog steps of the shortest transitions: a quarter of a period."""
    wanted = _QUARTER * jnp.exp(-log_step)
    return jnp.round(jnp.clip(wanted, _FEWEST_LEAPS, MOST_LEAPS)).astype(jnp.int32)


def chance_of(
    before: Float[Array, "chains"],
    value: Float[Array, "chains"],
    momentum: Float[Array, "chains dim"],
    last: Float[Array, "chains dim"],
) -> Float[Array, "chains"]:
    """With which the end of a Hamiltonian transition is accepted, by the rule of Metropolis."""
    lost = jnp.where(jnp.isfinite(before), before, jnp.finfo(before.dtype).min)
    gain = value - lost + 0.5 * (jnp.sum(momentum**2, axis=-1) - jnp.sum(last**2, axis=-1))
    return jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0.0)), 0.0)


def adapted(log_step: Scalar, num_transitions: Int[Array, ""], acceptance: Scalar) -> Scalar:
    """The log of the step size, towards the acceptance that is wanted, by gains that fall."""
    pace = (1.0 + num_transitions.astype(log_step.dtype)) ** -_FORGETTING
    return log_step + pace * (acceptance - _ACCEPTANCE)


def start_chains(
    target: Target,
    z: Float[Array, "chains dim"],
    scale: Float[Array, "dim"] | Float[Array, "dim dim"],
    data: Data,
    *,
    num_kept: int,
) -> Chains:
    """Chains at the rows of z, by moves of no length: the program that advances them serves.

    Args:
        target: the log density.
        z: where they start.
        scale: as for `advance_chains`.
        data: handed to the log density.
        num_kept: as `advance_chains` will be given.
    """
    num, dtype = len(z), z.dtype
    none = np.int32(0)
    numbers = np.full(num, -np.inf, dtype), np.zeros(z.shape, dtype), np.array(-np.inf, dtype)
    still = Chains(z, *(jnp.asarray(x) for x in (*numbers, none, np.array(0.0, dtype))))
    key = jax.random.key(0)  # of momenta that move nothing
    chains, _ = _advance(key, still, scale, data, np.int32(1), np.int32(1), target, num_kept)
    step = jnp.asarray(np.log(np.array(_FIRST_STEP, dtype)))
    return chains._replace(log_step=step, num_transitions=jnp.asarray(none))


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

    A transition is Hamiltonian, of leapfrog steps of a length that each chain draws anew, accepted
    by the rule of Metropolis (Duane et al. 1987). There are 2 to 8 of them, drawn between as many
    as go 1.4 sds and 8: after a quarter of a period a Gaussian has forgotten where it was, and
    where q's scales are not the posterior's, longer ways get along. The step size goes to an
    acceptance of 0.8, by gains that fall with all transitions so far; every fourth move, and not
    among those, has steps a quarter as long, for places that are narrower than most.

    Args:
        key: a random key.
        chains: where they are.
        scale: q's standard deviations, or a triangular factor of its covariance.
        data: handed to the log density.
        target: the log density.
        num_kept: states to return of each chain.
        thin: transitions between two of them.
    """
    most = np.int32(MOST_LEAPS)
    return _advance(key, chains, scale, data, np.int32(thin), most, target, num_kept)


# all by position: calls that name arguments differently would each compile a program
@light_jit(STEPS, static_argnums=(6, 7))
def _advance(
    key: Key[Array, ""],
    chains: Chains,
    scale: Float[Array, "dim"] | Float[Array, "dim dim"],
    data: Data,
    thin: Any,
    most_leaps: Any,
    target: Target,
    num_kept: int,
) -> tuple[Chains, Float[Array, "kept chains dim"]]:
    def some(chains: Chains, key: Key[Array, ""]) -> tuple[Chains, Float[Array, "chains dim"]]:
        def one(i: Int[Array, ""], chains: Chains) -> Chains:
            return _transition(jax.random.fold_in(key, i), chains, scale, target, data, most_leaps)

        chains = lax.fori_loop(0, thin, one, chains)
        return chains, chains.z

    return lax.scan(some, chains, jax.random.split(key, num_kept))


def _transition(
    key: Key[Array, ""],
    chains: Chains,
    scale: Float[Array, "dim"] | Float[Array, "dim dim"],
    target: Target,
    data: Data,
    most_leaps: Int[Array, ""],
) -> Chains:
    key_momentum, key_length, key_accept, key_leaps = jax.random.split(key, 4)
    shape, dtype = chains.z.shape, chains.z.dtype
    momentum = normals(key_momentum, shape, dtype)
    drawn = jax.random.uniform(key_length, (shape[0],), dtype)
    careful = drawn < _CAREFUL
    spread = SHORTEST + (LONGEST - SHORTEST) * (drawn - _CAREFUL) / (1.0 - _CAREFUL)
    spread = jnp.where(careful, _SHORT, spread)[:, None]
    # where there is no density nothing is known: as far as q is wide; at the start nothing moves
    known = jnp.isfinite(chains.value)[:, None] | ~jnp.isfinite(chains.log_step)
    step = jnp.where(known, jnp.exp(chains.log_step), _FIRST_STEP) * spread
    leaps = jax.random.randint(key_leaps, (), fewest_leaps(chains.log_step), MOST_LEAPS + 1)
    leaps = jnp.minimum(leaps, most_leaps)

    def leap(_: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        z, momentum, force, _, _ = carry
        momentum = momentum + 0.5 * step * force
        z = z + step * _push(scale, momentum)
        value, gradient = _finite(target, z, data)
        force = _pull(scale, gradient)
        return z, momentum + 0.5 * step * force, force, value, gradient

    force = _pull(scale, chains.gradient)
    start = (chains.z, momentum, force, chains.value, chains.gradient)
    z, last, _, value, gradient = lax.fori_loop(0, leaps, leap, start)
    chance = chance_of(chains.value, value, momentum, last)
    accepted = jax.random.uniform(key_accept, (shape[0],), dtype) < chance
    usual = jnp.sum(jnp.where(careful, 0.0, chance)) / jnp.maximum(jnp.sum(~careful), 1)
    return Chains(
        z=jnp.where(accepted[:, None], z, chains.z),
        value=jnp.where(accepted, value, chains.value),
        gradient=jnp.where(accepted[:, None], gradient, chains.gradient),
        log_step=adapted(chains.log_step, chains.num_transitions, usual),
        num_transitions=chains.num_transitions + 1,
        acceptance=usual,
    )


def _finite(
    target: Target, z: Float[Array, "chains dim"], data: Data
) -> tuple[Float[Array, "chains"], Float[Array, "chains dim"]]:
    """The log density and its gradient; -inf and zero where one of them is not finite."""
    value, gradient = values_and_gradients(target, z, data)
    good = jnp.isfinite(value) & jnp.isfinite(gradient).all(axis=-1)
    return jnp.where(good, value, -jnp.inf), jnp.where(good[:, None], gradient, 0.0)


def _push(
    scale: Float[Array, "dim"] | Float[Array, "dim dim"], rows: Float[Array, "chains dim"]
) -> Float[Array, "chains dim"]:
    """From whitened coordinates."""
    return rows * scale[None] if scale.ndim == 1 else rows @ scale.T


def _pull(
    scale: Float[Array, "dim"] | Float[Array, "dim dim"], rows: Float[Array, "chains dim"]
) -> Float[Array, "chains dim"]:
    """Gradients to whitened coordinates."""
    return rows * scale[None] if scale.ndim == 1 else rows @ scale
