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
_RAISED = 2.0  # by how much of the Gaussian's precision, where a density isn't concave
_NEAR = 1e-2  # squared length of a step, in sds of what is being found: the next one is its square
_LENGTHS = np.array([1.0, 0.25, 0.03])  # of steps, of which the best is taken
_SLICE = 32  # values of the drivers at a time
# the others, log p there, steps so far, the length of the last one, whether it led higher
_State: TypeAlias = tuple[Array, Array, Array, Array, Array]


class Conditional(NamedTuple):
    r"""N(mode, spread spread^T) for the others, and `peak`, log p at the mode.

    `mass` is Laplace's estimate of $\log \int p(z)\,$d(others); `good` tells whether Newton's
    method has ended, and the Hessian is negative definite there. Where it is not, `spread` is that
    of a Hessian to which the Gaussian's precision is added, so that a density with tails is met
    there too; where even that is not definite, `lost`, the Gaussian's.
    """

    mode: Float[Array, "others"]
    spread: Float[Array, "others others"]
    peak: Scalar
    mass: Scalar
    good: Bool[Array, ""]
    lost: Bool[Array, ""]


class _Curvature(NamedTuple):
    """Minus a Hessian; the factor to go by; whether it is the Hessian's, or the Gaussian's.

    `raised` is a factor of shorter steps, for where the Hessian is nearly singular.
    """

    matrix: Float[Array, "others others"]
    factor: Float[Array, "others others"]
    raised: Float[Array, "others others"]
    concave: Bool[Array, ""]
    lost: Bool[Array, ""]


class _Given(NamedTuple):
    """log p as a function of the others."""

    target: Target
    at: Split
    drivers: Float[Array, "drivers"]
    data: Data

    def values(self, others: Float[Array, "rows others"]) -> Float[Array, "rows"]:
        """At some places; those where it isn't finite are none to go to."""
        rows = jnp.broadcast_to(self.drivers[None], (len(others), len(self.drivers)))
        found = log_probs(self.target, self.at.whole(rows, others), self.data)
        return jnp.where(jnp.isfinite(found), found, -jnp.inf)

    def gradient(self, others: Float[Array, "others"]) -> Float[Array, "others"]:
        z = self.at.whole(self.drivers, others)[None]
        constant = self.at.held.constant(self.target)
        return self.at.rest @ values_and_gradients(constant, z, self.data)[1][0]

    def curvature(self, others: Float[Array, "others"]) -> _Curvature:
        z, rest = self.at.whole(self.drivers, others)[None], self.at.rest
        constant = self.at.held.constant(self.target)
        hessian = hessian_products(constant, z, rest[None], self.data)[0] @ rest.T
        matrix = -0.5 * (hessian + hessian.T)
        own = jnp.linalg.cholesky(matrix)
        raised = jnp.linalg.cholesky(matrix + _RAISED * self.at.precision)
        concave, lost = jnp.isfinite(own).all(), ~jnp.isfinite(raised).all()
        usual = jnp.where(lost, self.at.factor, raised)
        factor = jnp.where(concave, own, usual)
        return _Curvature(matrix, factor, usual, concave, lost & ~concave)

    def step(self, state: _State) -> _State:
        """The best of some by Newton's method, and of some that are shorter."""
        others, value, count, *_ = state
        gradient, here = self.gradient(others), self.curvature(others)
        way, shorter = (cho_solve((lower, True), gradient) for lower in (here.factor, here.raised))
        lengths = _LENGTHS.astype(others.dtype)[:, None]
        tried = others[None] + jnp.concatenate([lengths * way[None], lengths * shorter[None]])
        found = self.values(tried)
        best = jnp.argmax(found)
        higher = found[best] > value
        others = jnp.where(higher, tried[best], others)
        length = jnp.sum((way @ here.factor) ** 2)
        return others, jnp.maximum(found[best], value), count + 1, length, higher


def conditional(
    target: Target,
    at: Split,
    drivers: Float[Array, "drivers"],
    start: Float[Array, "others"],
    data: Data,
) -> Conditional:
    """By Newton's method, with steps shortened until the density rises.

    It begins at the best of `start`, the Gaussian's mean and its conditional mean. A Hessian that
    is not negative definite is raised by the Gaussian's precision, or else replaced by it.
    """
    given = _Given(target, at, drivers, data)

    def go_on(state: _State) -> Array:
        return (state[2] < _MOST_STEPS) & (state[3] > _NEAR) & state[4]

    starts = jnp.stack([start, at.loc, at.loc + at.slope @ (drivers - at.centre)])
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
    mass = peak + jnp.where(there.lost, sharp, volume) + 0.5 * len(mode) * np.log(2.0 * np.pi)
    lost = there.lost | ~jnp.isfinite(mass)
    mass = jnp.where(jnp.isfinite(mass), mass, -jnp.inf)
    good = there.concave & ~lost & (length <= _NEAR)
    return Conditional(mode, spread, peak, mass, good, lost)


@light_jit(STEPS, static_argnames="target")
def conditionals(
    at: Split,
    drivers: Float[Array, "rows drivers"],
    starts: Float[Array, "rows others"],
    data: Data,
    *,
    target: Target,
) -> Conditional:
    """Of every row of the drivers."""
    size = min(_SLICE, len(drivers), matrices_at_once(len(at.loc)))

    def one(row: tuple[Array, Array]) -> Conditional:
        return conditional(target, at, *row, data)

    return lax.map(one, (drivers, starts), batch_size=size)
