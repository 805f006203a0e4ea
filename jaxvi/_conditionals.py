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
_LENGTHS = np.array([1.0, 0.25, 0.03])  # of steps, of which the best is taken
_SLICE = 32  # values of the drivers at a time
BLOCK = 128  # of them in one call

# the others, log p there, steps so far, the length of the last one, whether it led higher
_State: TypeAlias = tuple[Array, Array, Array, Array, Array]


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
    mean is `loc + slope (drivers - centre)`, its precision `factor factor^T`; `sd` are those of the
    drivers. `held` are the parameters of which all coordinates are given.
    """

    pick: Float[Array, "drivers dim"]
    rest: Float[Array, "others dim"]
    centre: Float[Array, "drivers"]
    loc: Float[Array, "others"]
    slope: Float[Array, "others drivers"]
    factor: Float[Array, "others others"]
    sd: Float[Array, "drivers"]
    held: Held

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
    """Minus a Hessian; the factor to go by; whether it is the Hessian's, or the Gaussian's.

    `raised` is a factor of shorter steps, for where the Hessian is nearly singular.
    """

    matrix: Float[Array, "others others"]
    factor: Float[Array, "others others"]
    raised: Float[Array, "others others"]
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
    sd = np.linalg.norm(scale_tril[drivers], axis=1)
    arrays = (eye[drivers], eye[others], loc[drivers], loc[others], slope, factor, sd)
    pick, rest, centre, mean, slope, factor, sd = (
        jax.device_put(x.astype(loc.dtype)) for x in arrays
    )
    return Split(pick, rest, centre, mean, slope, factor, sd, Held.of(target, drivers))


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
        factor = jnp.where(concave, own, usual)
        return _Curvature(matrix, factor, usual, concave, lost & ~concave)

    def step(state: _State) -> _State:
        others, value, count, *_ = state
        gradient = values_and_gradients(constant, at.whole(drivers, others)[None], data)[1][0]
        here = curvature(others)
        way, shorter = (
            cho_solve((lower, True), at.rest @ gradient) for lower in (here.factor, here.raised)
        )
        lengths = _LENGTHS.astype(others.dtype)[:, None]
        tried = others[None] + jnp.concatenate([lengths * way[None], lengths * shorter[None]])
        found = values(tried)
        best = jnp.argmax(found)
        higher = found[best] > value
        others = jnp.where(higher, tried[best], others)
        length = jnp.sum((way @ here.factor) ** 2)
        return others, jnp.maximum(found[best], value), count + 1, length, higher

    def go_on(state: _State) -> Array:
        return (state[2] < _MOST_STEPS) & (state[3] > _NEAR) & state[4]

    starts = jnp.stack([start, at.loc, at.loc + at.slope @ (drivers - at.centre)])
    found = values(starts)
    best = jnp.argmax(found)
    state = (
        starts[best],
        found[best],
        jnp.zeros((), jnp.int32),
        jnp.full((), jnp.inf, found.dtype),
        jnp.ones((), bool),
    )
    mode, peak, _, length, _ = lax.while_loop(go_on, step, state)
    there = curvature(mode)
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


class Search:
    """Finds conditionals, beginning at the mode of the nearest value that has one.

    The mode moves little where the drivers do: Newton's method ends sooner, and far out it ends at
    all. Values that are left without a mode get a second chance, from what the others have found.
    """

    def __init__(self, target: Target, at: Split, data: Data) -> None:
        self._of = (target, at, data)
        self._sd = np.asarray(at.sd, float)
        self._values = np.asarray(at.centre, float)[None]
        self._modes = np.asarray(at.loc)[None]

    def __call__(self, values: Float[np.ndarray, "values drivers"]) -> Conditional:
        """Of all values."""
        found = self._found(values)
        self._keep(values, found)
        poor = np.flatnonzero(~found.good)
        if 0 < poor.size < len(values):
            again = self._found(values[poor])
            self._keep(values[poor], again)
            better = again.good | (~again.lost & found.lost[poor])
            for old, new in zip(found, again, strict=True):
                old[poor[better]] = new[better]
        return found

    def _keep(self, values: Float[np.ndarray, "values drivers"], found: Conditional) -> None:
        self._values = np.concatenate([self._values, values[found.good]])
        self._modes = np.concatenate([self._modes, found.mode[found.good]])

    def _found(self, values: Float[np.ndarray, "values drivers"]) -> Conditional:
        """Block by block: one program serves any number of values.

        One at a time: two of these programs in threads kept each other from ending (jaxlib 0.10).
        """
        target, at, data = self._of
        parts = []
        for i in range(0, len(values), BLOCK):
            some = values[i : i + BLOCK]
            filled = np.resize(some, (BLOCK, some.shape[1])).astype(self._modes.dtype)
            starts = self._modes[nearest(self._values, filled, self._sd)]
            found = conditionals(at, filled, starts, data, target=target)
            parts.append(jax.tree.map(lambda leaf, num=len(some): np.array(leaf[:num]), found))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def nearest(
    known: Float[np.ndarray, "known drivers"],
    values: Float[np.ndarray, "values drivers"],
    sd: Float[np.ndarray, "drivers"],
) -> Int[np.ndarray, "values"]:
    """Which known value is nearest to each, in standard deviations."""
    known, values = known / sd, values / sd
    # squares less those of the values, which are the same for all that are known
    return np.argmin(np.sum(known**2, axis=1)[None] - 2.0 * values @ known.T, axis=1)
