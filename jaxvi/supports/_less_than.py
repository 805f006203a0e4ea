"""Support of numbers below an upper bound."""

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
    next_below,
)


@dataclasses.dataclass(frozen=True)
class LessThan(Support):
    r"""Numbers below an upper bound: x = upper - e^y, with log |det J| = \sum y.

    Larger y means smaller x. Where e^y vanishes beside the bound, x is the next number below it.

    Args:
        upper: finite bound, a number or an array that broadcasts to `shape`.
        shape: shape of the parameter; an integer means a vector.

    Example:
        >>> LessThan(2.0).constrain(jnp.zeros(()))[0]
        Array(1., dtype=float32)
    """

    upper: BoundLike
    shape: ShapeLike = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_shape(self.shape))
        object.__setattr__(self, "upper", as_bound("upper", self.upper, self.shape))

    @classmethod
    def examples(cls) -> tuple["LessThan", ...]:
        return (cls(0.0), cls(np.array([[-2.5], [5.0]]), (2, 3)))

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def description(self) -> str:
        return f"less than {describe_bound(self.upper)}, shape {self.shape}"

    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        upper = bound_array(self.upper, self.shape, y.dtype)
        return jnp.minimum(upper - jnp.exp(y), next_below(upper)), jnp.sum(y)

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.log(bound_array(self.upper, self.shape, x.dtype) - x)

    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        return jnp.all((x < bound_array(self.upper, self.shape, x.dtype)) & jnp.isfinite(x))
