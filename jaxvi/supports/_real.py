"""Support of parameters without constraints: any finite number."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvi.supports._base import ShapeLike, Support, as_shape


@dataclasses.dataclass(frozen=True)
class Real(Support):
    """Any finite number: x = y, with log |det J| = 0.

    Args:
        shape: shape of the parameter; an integer means a vector.

    Example:
        >>> Real((3, 4)).size
        12
    """

    shape: ShapeLike = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_shape(self.shape))

    @classmethod
    def examples(cls) -> tuple["Real", ...]:
        return (cls(), cls((2, 3)))

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def description(self) -> str:
        return f"finite, shape {self.shape}"

    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        return y, jnp.zeros((), y.dtype)

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return x

    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        return jnp.all(jnp.isfinite(x))
