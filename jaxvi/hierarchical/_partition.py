"""Which coordinates are given, which are not, and what a Gaussian fit says of these."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxvi._types import Data, Scalar
from jaxvi.target import Target


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

    `held` are the parameters of which all coordinates are given. `pick` and `rest` have a row for
    each coordinate, with a one where it stands. A Gaussian's conditional mean is
    `loc + slope (drivers - centre)`, its `precision` is `factor factor^T`; `sd` are those of the
    drivers.
    """

    held: Held
    pick: Float[Array, "drivers dim"]
    rest: Float[Array, "others dim"]
    centre: Float[Array, "drivers"]
    loc: Float[Array, "others"]
    slope: Float[Array, "others drivers"]
    precision: Float[Array, "others others"]
    factor: Float[Array, "others others"]
    sd: Float[Array, "drivers"]

    def whole(
        self, drivers: Float[Array, "*rows drivers"], others: Float[Array, "*rows others"]
    ) -> Float[Array, "*rows dim"]:
        """z, put together."""
        return drivers @ self.pick + others @ self.rest


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
    arrays = (eye[drivers], eye[others], loc[drivers], loc[others], slope, own, factor, sd)
    return Split(Held.of(target, drivers), *(jax.device_put(x.astype(loc.dtype)) for x in arrays))
