"""Support of numbers between two bounds."""

import dataclasses
from typing import Any

import jax
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
    next_below,
    softplus,
)


@dataclasses.dataclass(frozen=True)
class Interval(Support):
    r"""Numbers between two bounds: x = lower + (upper - lower) sigmoid(y).

    log |det J| = \sum log(upper - lower) + y - 2 log(1 + e^y). Where sigmoid(y) rounds to 0 or 1,
    x is the number next to the bound, so that it stays inside.

    Args:
        lower: finite bound, a number or an array that broadcasts to `shape`.
        upper: finite bound above `lower`, likewise.
        shape: shape of the parameter; an integer means a vector.

    Example:
        >>> Interval(-1.0, 3.0).constrain(jnp.zeros(()))[0]
        Array(1., dtype=float32)
    """

    lower: BoundLike
    upper: BoundLike
    shape: ShapeLike = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_shape(self.shape))
        object.__setattr__(self, "lower", as_bound("lower", self.lower, self.shape))
        object.__setattr__(self, "upper", as_bound("upper", self.upper, self.shape))
        self._bounds(np.float64)

    @classmethod
    def examples(cls) -> tuple["Interval", ...]:
        upper = np.array([[3.0], [0.0]])
        return (cls(0.0, 1.0), cls(-7.0, upper, (2, 3)))

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def description(self) -> str:
        low, high = describe_bound(self.lower), describe_bound(self.upper)
        between = "between its bounds" if "its bounds" in (low, high) else f"in ({low}, {high})"
        return f"{between}, shape {self.shape}"

    def _bounds(self, dtype: Any) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        lower = bound_array(self.lower, self.shape, dtype)
        upper = bound_array(self.upper, self.shape, dtype)
        # Also when traced in float32, where bounds that differ in float64 may have merged.
        if not np.all(next_above(lower) < upper):
            raise ValueError(
                f"expected lower < upper, with room between them in {np.dtype(dtype)}; got "
                f"lower={self.lower} and upper={self.upper}; try swapping or widening them"
            )
        return lower, upper

    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        lower, upper = self._bounds(y.dtype)
        width = upper - lower
        # Measured from the nearer bound, so that digits next to a bound at zero are kept.
        from_lower = lower + width * jax.nn.sigmoid(y)
        from_upper = upper - width * jax.nn.sigmoid(-y)
        x = jnp.where(y < 0, from_lower, from_upper)
        log_det = np.log(width) + y - 2 * softplus(y)
        return jnp.clip(x, next_above(lower), next_below(upper)), jnp.sum(log_det)

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        lower, upper = self._bounds(x.dtype)
        return jnp.log(x - lower) - jnp.log(upper - x)

    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        lower, upper = self._bounds(x.dtype)
        return jnp.all((x > lower) & (x < upper))
