"""Support of numbers above a lower bound."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvi.supports._base import (
    BoundLike,
    ShapeLike,
    Support,
    as_bound,
    as_shape,
    bound_array,
    describe_bound,
    next_above,
)


@dataclasses.dataclass(frozen=True)
class GreaterThan(Support):
    r"""Numbers above a lower bound: x = lower + e^y, with log |det J| = \sum y.

    Where e^y vanishes beside the bound, x is the next number above it, so that it stays inside.

    Args:
        lower: finite bound, a number or an array that broadcasts to `shape`.
        shape: shape of the parameter; an integer means a vector.

    Example:
        >>> GreaterThan(2.0).constrain(jnp.zeros(()))[0]
        Array(3., dtype=float32)
    """

    lower: BoundLike
    shape: ShapeLike = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_shape(self.shape))
        object.__setattr__(self, "lower", as_bound("lower", self.lower, self.shape))

    @classmethod
    def examples(cls) -> tuple["GreaterThan", ...]:
        return (cls(0.0), cls(np.array([[-2.5], [5.0]]), (2, 3)))

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def description(self) -> str:
        return f"greater than {describe_bound(self.lower)}, shape {self.shape}"

    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        lower = bound_array(self.lower, self.shape, y.dtype)
        return jnp.maximum(lower + jnp.exp(y), next_above(lower)), jnp.sum(y)

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.log(x - bound_array(self.lower, self.shape, x.dtype))

    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        return jnp.all((x > bound_array(self.lower, self.shape, x.dtype)) & jnp.isfinite(x))
