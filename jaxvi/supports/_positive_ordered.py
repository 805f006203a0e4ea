"""Support of increasing positive vectors."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvi.supports._base import ShapeLike, Support, as_event_shape


@dataclasses.dataclass(frozen=True)
class PositiveOrdered(Support):
    r"""Positive vectors increasing along the last axis: x_k = e^{y_0} + ... + e^{y_k}.

    log |det J| = \sum y. An increment below the rounding of x_k gives a tie, which counts as
    inside but has no finite y.

    Args:
        shape: last axis is the ordered one, batch axes first; an integer means a vector.

    Example:
        >>> PositiveOrdered((3,)).constrain(jnp.zeros(3))[0]
        Array([1., 2., 3.], dtype=float32)
    """

    shape: ShapeLike

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_event_shape("PositiveOrdered", self.shape, 1))

    @classmethod
    def examples(cls) -> tuple["PositiveOrdered", ...]:
        return (cls((4,)), cls((2, 3)))

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def description(self) -> str:
        return f"positive and increasing along the last axis, shape {self.shape}"

    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        return jnp.cumsum(jnp.exp(y), axis=-1), jnp.sum(y)

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.log(jnp.concatenate([x[..., :1], jnp.diff(x, axis=-1)], axis=-1))

    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        increasing = jnp.all(x[..., 1:] >= x[..., :-1])
        return increasing & jnp.all(x[..., 0] > 0) & jnp.all(jnp.isfinite(x))
