"""MCMC in the coordinates of a nested Laplace approximation, which mixes across a funnel's neck.

Each transition has two parts. The latents move by Hamiltonian Monte Carlo, whitened by their
Laplace approximation at the current hyperparameters. Then a new value of the hyperparameters is
proposed, drawn by Laplace's masses, with the whitened latents unchanged. A log scale near zero is
then as easy to reach as any other value: no step has to pass through the neck. The chains leave
p invariant, restricted to the values of the hyperparameters that the approximation holds.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

from jaxvi._compilation import STEPS, light_jit
from jaxvi._numerics import fold_in, normals
from jaxvi._sampling import (
    MAX_LEAPFROG_STEPS,
    MAX_STEP_FACTOR,
    MIN_STEP_FACTOR,
    acceptance_probability,
    adapted_log_step,
    leapfrog,
    min_leapfrog_steps,
)
from jaxvi._types import Scalar
from jaxvi.diagnostics import KEPT_STATES, Groups, ShortChains, run_short_chains
from jaxvi.hierarchical._conditional_laplace import Conditional
from jaxvi.hierarchical._nested_family import NestedLaplaceParams
from jaxvi.hierarchical._nested_laplace import Nested
from jaxvi.hierarchical._partition import Split
from jaxvi.target import Target, log_probs, values_and_gradients

_FIRST_STEP = 0.7  # conditional sds


class NestedChains(NamedTuple):
    """State of the chains: index of the hyperparameters' value, whitened latents, and z."""

    which: Int[Array, "chains"]
    noise: Float[Array, "chains latents"]
    z: Float[Array, "chains dim"]
    value: Float[Array, "chains"]  # log p there
    log_step: Scalar
    num_transitions: Int[Array, ""]
    acceptance: Scalar  # mean over chains in the last transition
    changed: Scalar  # mean acceptance of new hyperparameters in the last transition


class NestedSpace(NamedTuple):
    """The space in which chains of a nested Laplace approximation move.

    It has the methods of `diagnostics.short_chains`' spaces: `start`, `advance` and `seen`.
    """

    target: Target
    phi: NestedLaplaceParams
    found: Conditional
    which: Int[np.ndarray, "draws"]
    noise: Float[np.ndarray, "draws latents"]
    value: Float[np.ndarray, "draws"]

    @classmethod
    def of(cls, target: Target, nested: Nested) -> "NestedSpace":
        """The space of a nested Laplace approximation and its draws."""
        draws = nested.which, nested.noise, nested.value
        return cls(target, nested.phi, jax.device_put(nested.found), *draws)

    def seen(self, z: Float[Array | np.ndarray, "*rows dim"]) -> Float[Array, "*rows dim"]:
        """The states in the target's coordinates, in which these chains already are."""
        return jnp.asarray(z)

    def start(self, z: Float[Array, "chains dim"], scale: Any) -> Groups:
        """Chains that start at the first draws, whose unconstrained values are `z`."""
        num = len(z)
        draws = (self.which, self.noise, self.value)
        which, noise, value = (jax.device_put(x[:num]) for x in draws)
        zero = np.zeros((), z.dtype)
        step = np.log(np.array(_FIRST_STEP, z.dtype))
        numbers = jax.device_put((step, np.int32(0), zero, zero))
        return (NestedChains(which, noise, z, value, *numbers),)

    def advance(
        self, key: Key[Array, ""], groups: Groups, scale: Any, thin: int = 1
    ) -> tuple[Groups, Float[Array, "kept chains dim"]]:
        """Advance every chain; returns the chains and their states, `thin` transitions apart."""
        chains, states = _advance(
            key, groups[0], self.phi, self.found, np.int32(thin), target=self.target
        )
        return (chains,), states


def nested_short_chains(
    key: Key[Array, ""], target: Target, nested: Nested, *, num_chains: int = 500
) -> ShortChains:
    """Short MCMC chains started at draws of a nested Laplace approximation, and their drift.

    As `diagnostics.short_chains`, with transitions that also propose new hyperparameters.
    """
    space, pool = NestedSpace.of(target, nested), nested.weighed.z
    keys = fold_in(key, 1), fold_in(key, 2)
    return run_short_chains(
        keys, target, space, pool, jnp.asarray(pool[:num_chains]), jnp.zeros(())
    )


@light_jit(STEPS, static_argnames="target")
def _advance(
    key: Key[Array, ""],
    chains: NestedChains,
    phi: NestedLaplaceParams,
    found: Conditional,
    thin: Any,
    *,
    target: Target,
) -> tuple[NestedChains, Float[Array, "kept chains dim"]]:
    def kept_state(chains: NestedChains, key: Key[Array, ""]) -> tuple[NestedChains, Array]:
        def transition(i: Int[Array, ""], chains: NestedChains) -> NestedChains:
            key_latents, key_hyperparameters = jax.random.split(jax.random.fold_in(key, i))
            chains = _move_latents(key_latents, chains, phi, found, target)
            return _change_hyperparameters(key_hyperparameters, chains, phi, found, target)

        chains = lax.fori_loop(0, thin, transition, chains)
        return chains, chains.z

    return lax.scan(kept_state, chains, jax.random.split(key, KEPT_STATES))


def _unwhitened(
    at: Split,
    hyperparameters: Float[Array, "chains hyperparameters"],
    mode: Float[Array, "chains latents"],
    scale: Float[Array, "chains latents latents"],
    noise: Float[Array, "chains latents"],
) -> Float[Array, "chains dim"]:
    """z from the hyperparameters and the whitened latents."""
    return at.joined(hyperparameters, mode + jnp.einsum("cij,cj->ci", scale, noise))


def _move_latents(
    key: Key[Array, ""],
    chains: NestedChains,
    phi: NestedLaplaceParams,
    found: Conditional,
    target: Target,
) -> NestedChains:
    """An HMC transition of the whitened latents at fixed hyperparameters; z is not updated."""
    key_momentum, key_length, key_accept, key_leaps = jax.random.split(key, 4)
    shape, dtype = chains.noise.shape, chains.noise.dtype
    which = chains.which
    hyperparameters, mode, scale = (
        phi.hyperparameters[which],
        found.mode[which],
        found.scale[which],
    )
    momentum = normals(key_momentum, shape, dtype)
    lengths = jax.random.uniform(key_length, (shape[0], 1), dtype, MIN_STEP_FACTOR, MAX_STEP_FACTOR)
    step = jnp.exp(chains.log_step) * lengths
    leaps = jax.random.randint(
        key_leaps, (), min_leapfrog_steps(chains.log_step), MAX_LEAPFROG_STEPS + 1
    )

    def evaluate(noise: Array) -> tuple[Array, Array]:
        z = _unwhitened(phi.at, hyperparameters, mode, scale, noise)
        value, gradient = values_and_gradients(target, z, phi.data)
        force = jnp.einsum("cij,ci->cj", scale, gradient @ phi.at.rest.T)
        finite = jnp.isfinite(value) & jnp.isfinite(force).all(axis=-1)
        value = jnp.where(finite, value, -jnp.inf)
        return jnp.where(finite[:, None], force, 0.0), value

    force, before = evaluate(chains.noise)
    start = (chains.noise, momentum, force, before)
    noise, last, _, value = leapfrog(start, step, lambda momentum: momentum, evaluate, leaps)
    chance = acceptance_probability(before, value, momentum, last)
    accepted = jax.random.uniform(key_accept, (shape[0],), dtype) < chance
    acceptance = jnp.mean(chance)
    return chains._replace(
        noise=jnp.where(accepted[:, None], noise, chains.noise),
        log_step=adapted_log_step(chains.log_step, chains.num_transitions, acceptance),
        num_transitions=chains.num_transitions + 1,
        value=jnp.where(accepted, value, before),
        acceptance=acceptance,
    )


def _change_hyperparameters(
    key: Key[Array, ""],
    chains: NestedChains,
    phi: NestedLaplaceParams,
    found: Conditional,
    target: Target,
) -> NestedChains:
    """A Metropolis step to hyperparameters drawn by their masses, the whitened latents fixed."""
    key_which, key_accept = jax.random.split(key)
    num, dtype = chains.value.shape[0], chains.value.dtype
    shares = jnp.cumsum(jax.nn.softmax(phi.log_weights))
    drawn = jax.random.uniform(key_which, (num,), dtype) * shares[-1]
    which = jnp.minimum(jnp.searchsorted(shares, drawn), shares.size - 1)

    def z_at(which: Array) -> Array:
        hyperparameters, mode, scale = (
            phi.hyperparameters[which],
            found.mode[which],
            found.scale[which],
        )
        return _unwhitened(phi.at, hyperparameters, mode, scale, chains.noise)

    new = log_probs(target, z_at(which), phi.data)
    gain = (new - found.log_prob_at_mode[which]) - (
        chains.value - found.log_prob_at_mode[chains.which]
    )
    chance = jnp.where(jnp.isfinite(gain), jnp.exp(jnp.minimum(gain, 0.0)), 0.0)
    accepted = jax.random.uniform(key_accept, (num,), dtype) < chance
    which = jnp.where(accepted, which, chains.which)
    value = jnp.where(accepted, new, chains.value)
    return chains._replace(which=which, z=z_at(which), value=value, changed=jnp.mean(chance))
