"""Support of increasing vectors."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvi.supports._base import ShapeLike, Support, as_event_shape


@dataclasses.dataclass(frozen=True)
class Ordered(Support):
    r"""Vectors increasing along the last axis: x_0 = y_0, x_k = x_{k-1} + e^{y_k}.

    log |det J| = \sum_{k > 0} y_k. An increment below the rounding of x_k gives a tie, which
    counts as inside but has no finite y.

    Args:
        shape: last axis is the ordered one, batch axes first; an integer means a vector.

    Example:
        >>> Ordered((3,)).constrain(jnp.zeros(3))[0]
        Array([0., 1., 2.], dtype=float32)
    """

    shape: ShapeLike

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_event_shape("Ordered", self.shape, 1))

    @classmethod
    def examples(cls) -> tuple["Ordered", ...]:
        return (cls((4,)), cls((2, 3)))

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def description(self) -> str:
        return f"increasing along the last axis, shape {self.shape}"

    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        steps = jnp.concatenate([y[..., :1], jnp.exp(y[..., 1:])], axis=-1)
        # cumsum and not a matrix product: an overflowing step must not spoil those before it.
        return jnp.cumsum(steps, axis=-1), jnp.sum(y[..., 1:])

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.concatenate([x[..., :1], jnp.log(jnp.diff(x, axis=-1))], axis=-1)

    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        return jnp.all(x[..., 1:] >= x[..., :-1]) & jnp.all(jnp.isfinite(x))
