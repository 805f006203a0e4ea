"""Support of positive numbers."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvi.supports._base import ShapeLike, Support, as_shape


@dataclasses.dataclass(frozen=True)
class Positive(Support):
    r"""Numbers above zero: x = e^y, with log |det J| = \sum y.

    Overflows to infinity and underflows to zero where e^y leaves the dtype (|y| > 87 in float32).

    Args:
        shape: shape of the parameter; an integer means a vector.

    Example:
        >>> Positive().constrain(jnp.zeros(()))[0]
        Array(1., dtype=float32)
    """

    shape: ShapeLike = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_shape(self.shape))

    @classmethod
    def examples(cls) -> tuple["Positive", ...]:
        return (cls(), cls((2, 3)))

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def description(self) -> str:
        return f"positive, shape {self.shape}"

    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        return jnp.exp(y), jnp.sum(y)

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.log(x)

    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        return jnp.all((x > 0) & jnp.isfinite(x))
