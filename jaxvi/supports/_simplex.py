"""Support of probability vectors."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvi._numerics import running_sum
from jaxvi.supports._base import EQUALITY_ULPS, ShapeLike, Support, as_event_shape, softplus


@dataclasses.dataclass(frozen=True)
class Simplex(Support):
    r"""Positive vectors that sum to one, by stick-breaking.

    With u_k = y_k - log(K - k) and C_k = \sum_{j <= k} log(1 + e^{u_j}):
    log x_k = u_k - C_k, log x_K = -C_{K-1}, and
    log |det J| = \sum_k log x_k - log(1 + e^{u_k}), relative to the first K - 1 entries. The shift
    puts y = 0 at the centre (Stan Reference Manual, simplex transform). All in log space: entries
    that would underflow are the smallest normal number.

    Args:
        shape: last axis of length K of 2 or more, batch axes first; an integer means `(K,)`.

    Example:
        >>> Simplex((4,)).constrain(jnp.zeros(3))[0]
        Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """

    shape: ShapeLike

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_event_shape("Simplex", self.shape, 2))

    @classmethod
    def examples(cls) -> tuple["Simplex", ...]:
        return (cls((4,)), cls((2, 3)))

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        return (*self.shape[:-1], self.shape[-1] - 1)

    @property
    def description(self) -> str:
        return f"positive and summing to one along the last axis, shape {self.shape}"

    def _shift(self, dtype: np.dtype) -> Float[np.ndarray, "..."]:
        remaining = np.arange(self.shape[-1] - 1, 0, -1)
        return np.broadcast_to(np.log(remaining).astype(dtype), self.unconstrained_shape)

    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        u = y - self._shift(y.dtype)
        broken = softplus(u)
        total = running_sum(broken)
        log_first = u - total
        log_x = jnp.concatenate([log_first, -total[..., -1:]], axis=-1)
        log_det = jnp.sum(log_first - broken)
        return jnp.maximum(jnp.exp(log_x), jnp.finfo(y.dtype).tiny), log_det

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        # The rest of the stick, summed from its far end: no cancellation.
        left = jnp.cumsum(x[..., :0:-1], axis=-1)[..., ::-1]
        return jnp.log(x[..., :-1]) - jnp.log(left) + self._shift(x.dtype)

    def independent(self, x: Float[Array, "..."]) -> Float[Array, " size"]:
        return jnp.ravel(x[..., :-1])

    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        slack = EQUALITY_ULPS * self.shape[-1] * float(jnp.finfo(x.dtype).eps)
        return jnp.all(x > 0) & jnp.all(jnp.abs(jnp.sum(x, axis=-1) - 1) <= slack)
