"""Laplace's approximation of the other coordinates, given values of a few."""

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Bool, Float

from jaxvi._compilation import STEPS, light_jit, matrices_at_once
from jaxvi._types import Data, Scalar
from jaxvi.hierarchical._partition import Split
from jaxvi.target import Target, hessian_products, log_probs, values_and_gradients

_MOST_STEPS = 24
_DAMPING = 2.0  # by how much of the Gaussian's precision, where a density isn't concave
_NEAR = 1e-2  # squared length of a step, in sds of what is being found: the next one is its square
_LENGTHS = np.array([1.0, 0.25, 0.03])  # of steps, of which the best is taken
_SLICE = 32  # values of the hyperparameters at a time
# the latents, log p there, steps so far, the length of the last one, whether it led higher
_State: TypeAlias = tuple[Array, Array, Array, Array, Array]


class Conditional(NamedTuple):
    r"""N(mode, spread spread^T) for the latents, and `log_prob_at_mode`, log p at the mode.

    `mass` is Laplace's estimate of $\log \int p(z)\,$d(latents); `good` tells whether Newton's
    method has ended, and the Hessian is negative definite there. Where it is not, `scale` is that
    of a Hessian to which the Gaussian's precision is added, so that a density with tails is met
    there too; where even that is not definite, `indefinite`, the Gaussian's.
    """

    mode: Float[Array, "latents"]
    scale: Float[Array, "latents latents"]
    log_prob_at_mode: Scalar
    mass: Scalar
    good: Bool[Array, ""]
    indefinite: Bool[Array, ""]


class _Curvature(NamedTuple):
    """Minus a Hessian; the factor to go by; whether it is the Hessian's, or the Gaussian's.

    `damped` is a factor of shorter steps, for where the Hessian is nearly singular.
    """

    matrix: Float[Array, "latents latents"]
    factor: Float[Array, "latents latents"]
    damped: Float[Array, "latents latents"]
    concave: Bool[Array, ""]
    indefinite: Bool[Array, ""]


class _Given(NamedTuple):
    """log p as a function of the latents."""

    target: Target
    at: Split
    hyperparameters: Float[Array, "hyperparameters"]
    data: Data

    def values(self, latents: Float[Array, "rows latents"]) -> Float[Array, "rows"]:
        """At some places; those where it isn't finite are none to go to."""
        rows = jnp.broadcast_to(
            self.hyperparameters[None], (len(latents), len(self.hyperparameters))
        )
        found = log_probs(self.target, self.at.whole(rows, latents), self.data)
        return jnp.where(jnp.isfinite(found), found, -jnp.inf)

    def gradient(self, latents: Float[Array, "latents"]) -> Float[Array, "latents"]:
        z = self.at.whole(self.hyperparameters, latents)[None]
        constant = self.at.fixed.constant(self.target)
        return self.at.rest @ values_and_gradients(constant, z, self.data)[1][0]

    def curvature(self, latents: Float[Array, "latents"]) -> _Curvature:
        z, rest = self.at.whole(self.hyperparameters, latents)[None], self.at.rest
        constant = self.at.fixed.constant(self.target)
        hessian = hessian_products(constant, z, rest[None], self.data)[0] @ rest.T
        matrix = -0.5 * (hessian + hessian.T)
        own = jnp.linalg.cholesky(matrix)
        raised = jnp.linalg.cholesky(matrix + _DAMPING * self.at.precision)
        concave, lost = jnp.isfinite(own).all(), ~jnp.isfinite(raised).all()
        usual = jnp.where(lost, self.at.factor, raised)
        factor = jnp.where(concave, own, usual)
        return _Curvature(matrix, factor, usual, concave, lost & ~concave)

    def step(self, state: _State) -> _State:
        """The best of some by Newton's method, and of some that are shorter."""
        latents, value, count, *_ = state
        gradient, here = self.gradient(latents), self.curvature(latents)
        way, shorter = (cho_solve((lower, True), gradient) for lower in (here.factor, here.damped))
        lengths = _LENGTHS.astype(latents.dtype)[:, None]
        tried = latents[None] + jnp.concatenate([lengths * way[None], lengths * shorter[None]])
        found = self.values(tried)
        best = jnp.argmax(found)
        higher = found[best] > value
        latents = jnp.where(higher, tried[best], latents)
        length = jnp.sum((way @ here.factor) ** 2)
        return latents, jnp.maximum(found[best], value), count + 1, length, higher


def conditional(
    target: Target,
    at: Split,
    hyperparameters: Float[Array, "hyperparameters"],
    start: Float[Array, "latents"],
    data: Data,
) -> Conditional:
    """By Newton's method, with steps shortened until the density rises.

    It begins at the best of `start`, the Gaussian's mean and its conditional mean. A Hessian that
    is not negative definite is raised by the Gaussian's precision, or else replaced by it.
    """
    given = _Given(target, at, hyperparameters, data)

    def go_on(state: _State) -> Array:
        return (state[2] < _MOST_STEPS) & (state[3] > _NEAR) & state[4]

    starts = jnp.stack([start, at.loc, at.loc + at.slope @ (hyperparameters - at.centre)])
    found = given.values(starts)
    best, zero = jnp.argmax(found), jnp.zeros((), jnp.int32)
    state = (starts[best], found[best], zero, jnp.full_like(found[0], jnp.inf), zero == 0)
    mode, peak, _, length, _ = lax.while_loop(go_on, given.step, state)
    there = given.curvature(mode)
    eye = jnp.eye(len(mode), dtype=mode.dtype)
    spread = solve_triangular(there.factor, eye, lower=True).T
    volume = -jnp.sum(jnp.log(jnp.diagonal(there.factor)))
    # without a sign: what is lost is weighed by how sharp the density is there
    sharp = -0.5 * jnp.linalg.slogdet(there.matrix)[1]
    mass = peak + jnp.where(there.indefinite, sharp, volume) + 0.5 * len(mode) * np.log(2.0 * np.pi)
    lost = there.indefinite | ~jnp.isfinite(mass)
    mass = jnp.where(jnp.isfinite(mass), mass, -jnp.inf)
    good = there.concave & ~lost & (length <= _NEAR)
    return Conditional(mode, spread, peak, mass, good, lost)


@light_jit(STEPS, static_argnames="target")
def conditionals(
    at: Split,
    hyperparameters: Float[Array, "rows hyperparameters"],
    starts: Float[Array, "rows latents"],
    data: Data,
    *,
    target: Target,
) -> Conditional:
    """Of every row of the hyperparameters."""
    size = min(_SLICE, len(hyperparameters), matrices_at_once(len(at.loc)))

    def one(row: tuple[Array, Array]) -> Conditional:
        return conditional(target, at, *row, data)

    return lax.map(one, (hyperparameters, starts), batch_size=size)
