"""Laplace's approximation of the other coordinates, given values of a few."""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Bool, Float, Int

from jaxvi._lapack import matrices_at_once
from jaxvi._light_jit import STEPS, light_jit
from jaxvi._log_probs import hessian_products, log_probs, values_and_gradients
from jaxvi._types import Data, Scalar
from jaxvi.target import Target

_MOST_STEPS = 24
_RAISED = 2.0  # by how much of the Gaussian's precision, where a density isn't concave
_NEAR = 1e-2  # squared length of a step, in sds of what is being found: the next one is its square
_LENGTHS = np.array([1.0, 0.25, 0.03])  # of a Newton step, of which the best is taken
_SLICE = 32  # values of the drivers at a time

# the others, log p there, steps so far, the length of the last one
_State: TypeAlias = tuple[Array, Array, Array, Array]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Held:
    """Numbers of parameters, in the order of a target's leaves."""

    leaves: tuple[int, ...]

    @classmethod
    def of(cls, target: Target, drivers: Int[np.ndarray, "drivers"]) -> "Held":
        """All of whose coordinates are drivers."""
        ends = np.cumsum([leaf.size for leaf in target.leaves])
        coordinates = np.split(np.isin(np.arange(target.dim), drivers), ends[:-1])
        return cls(tuple(i for i, given in enumerate(coordinates) if given.size and given.all()))

    def constant(self, target: Target) -> Target:
        """The target, in which derivatives see these as constants.

        What is made of them alone, as a kernel's Cholesky factor, is then left out of Hessians in
        the others: with 45 points of a Gaussian process these take a hundredth of the time.
        """
        if not self.leaves:
            return target
        return Target(_Constant(target.log_density, self), target.supports)


@dataclass(frozen=True)
class _Constant:
    """A log density with some of its parameters held."""

    log_density: Any
    held: Held

    def __call__(self, params: Any, *data: Data) -> Scalar:
        leaves, treedef = jax.tree.flatten(params)
        for i in self.held.leaves:
            leaves[i] = lax.stop_gradient(leaves[i])
        value: Scalar = self.log_density(jax.tree.unflatten(treedef, leaves), *data)
        return value


class Split(NamedTuple):
    """Which coordinates are given (drivers), which are not, and where to look for these.

    `pick` and `rest` have a row for each, with a one where it stands. A Gaussian's conditional
    mean is `loc + slope (drivers - centre)`, its precision `factor factor^T`. `held` are the
    parameters of which all coordinates are given.
    """

    pick: Float[Array, "drivers dim"]
    rest: Float[Array, "others dim"]
    centre: Float[Array, "drivers"]
    loc: Float[Array, "others"]
    slope: Float[Array, "others drivers"]
    factor: Float[Array, "others others"]
    held: "Held"

    def whole(
        self, drivers: Float[Array, "*rows drivers"], others: Float[Array, "*rows others"]
    ) -> Float[Array, "*rows dim"]:
        """z, put together."""
        return drivers @ self.pick + others @ self.rest


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
    """Minus a Hessian; the factor to go by; whether it is the Hessian's, or the Gaussian's."""

    matrix: Float[Array, "others others"]
    factor: Float[Array, "others others"]
    concave: Bool[Array, ""]
    lost: Bool[Array, ""]


def split(
    target: Target,
    drivers: Int[np.ndarray, "drivers"],
    loc: Float[np.ndarray, "dim"],
    scale_tril: Float[np.ndarray, "dim dim"],
) -> Split:
    """The drivers and the others, by a Gaussian fit of all."""
    dim = len(loc)
    others = np.setdiff1d(np.arange(dim), drivers)
    eye = np.eye(dim)
    inverse = np.linalg.inv(np.tril(scale_tril))
    precision = inverse.T @ inverse
    own = precision[np.ix_(others, others)]
    slope = -np.linalg.solve(own, precision[np.ix_(others, drivers)])
    factor = np.linalg.cholesky(own)
    arrays = (eye[drivers], eye[others], loc[drivers], loc[others], slope, factor)
    pick, rest, centre, mean, slope, factor = (jax.device_put(x.astype(loc.dtype)) for x in arrays)
    return Split(pick, rest, centre, mean, slope, factor, Held.of(target, drivers))


def conditional(
    target: Target, at: Split, drivers: Float[Array, "drivers"], data: Data
) -> Conditional:
    """By Newton's method, with steps shortened until the density rises.

    It begins at the better of the Gaussian's mean and its conditional mean. A Hessian that is not
    negative definite is raised by the Gaussian's precision, or else replaced by it.
    """
    constant, precision = at.held.constant(target), at.factor @ at.factor.T

    def values(others: Float[Array, "rows others"]) -> Float[Array, "rows"]:
        rows = jnp.broadcast_to(drivers[None], (len(others), len(drivers)))
        found = log_probs(target, at.whole(rows, others), data)
        return jnp.where(jnp.isfinite(found), found, -jnp.inf)

    def curvature(others: Float[Array, "others"]) -> _Curvature:
        z = at.whole(drivers, others)
        hessian = hessian_products(constant, z[None], at.rest[None], data)[0] @ at.rest.T
        matrix = -0.5 * (hessian + hessian.T)
        own, raised = jnp.linalg.cholesky(matrix), jnp.linalg.cholesky(matrix + _RAISED * precision)
        concave, lost = jnp.isfinite(own).all(), ~jnp.isfinite(raised).all()
        usual = jnp.where(lost, at.factor, raised)
        return _Curvature(matrix, jnp.where(concave, own, usual), concave, lost & ~concave)

    def step(state: _State) -> _State:
        others, value, count, _ = state
        gradient = values_and_gradients(constant, at.whole(drivers, others)[None], data)[1][0]
        lower = curvature(others).factor
        way = cho_solve((lower, True), at.rest @ gradient)
        tried = others[None] + _LENGTHS.astype(others.dtype)[:, None] * way[None]
        found = values(tried)
        best = jnp.argmax(found)
        higher = found[best] > value
        length = jnp.where(higher, jnp.sum((way @ lower) ** 2), 0.0)
        others = jnp.where(higher, tried[best], others)
        return others, jnp.maximum(found[best], value), count + 1, length

    def go_on(state: _State) -> Array:
        return (state[2] < _MOST_STEPS) & (state[3] > _NEAR)

    starts = jnp.stack([at.loc, at.loc + at.slope @ (drivers - at.centre)])
    found = values(starts)
    best = jnp.argmax(found)
    state = (
        starts[best],
        found[best],
        jnp.zeros((), jnp.int32),
        jnp.full((), jnp.inf, found.dtype),
    )
    mode, peak, _, length = lax.while_loop(go_on, step, state)
    there = curvature(mode)
    eye = jnp.eye(len(mode), dtype=mode.dtype)
    spread = solve_triangular(there.factor, eye, lower=True).T
    volume = -jnp.sum(jnp.log(jnp.diagonal(there.factor)))
    # without a sign: what is lost is weighed by how sharp the density is there
    sharp = -0.5 * jnp.linalg.slogdet(there.matrix)[1]
    mass = peak + jnp.where(there.lost, sharp, volume) + 0.5 * len(mode) * np.log(2.0 * np.pi)
    good = there.concave & jnp.isfinite(mass) & (length <= _NEAR)
    return Conditional(mode, spread, peak, mass, good, there.lost)


@light_jit(STEPS, static_argnames="target")
def conditionals(
    at: Split, drivers: Float[Array, "rows drivers"], data: Data, *, target: Target
) -> Conditional:
    """Of every row of the drivers."""
    size = min(_SLICE, len(drivers), matrices_at_once(len(at.loc)))
    return lax.map(lambda row: conditional(target, at, row, data), drivers, batch_size=size)
