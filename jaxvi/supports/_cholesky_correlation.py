"""Support of Cholesky factors of correlation matrices."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvi._numerics import diagonal_of, extract_lower, fill_lower, running_sum, triangle_size
from jaxvi.supports._base import EQUALITY_ULPS, ShapeLike, Support, as_count, as_shape, softplus


@dataclasses.dataclass(frozen=True)
class CholeskyCorrelation(Support):
    r"""Lower-triangular L with unit rows and positive diagonal, so that L L^T is a correlation.

    With z_ij = tanh(y_ij) and S_ij = \sum_{k < j} log(1 - z_ik^2):
    L_ij = z_ij e^{S_ij / 2} below the diagonal, L_ii = e^{S_ii / 2}, and
    log |det J| = \sum_{j < i} log(1 - z_ij^2) + S_ij / 2, relative to the strictly lower entries
    (Stan Reference Manual, Cholesky factors of correlation matrices; Lewandowski, Kurowicka and
    Joe 2009). log(1 - z^2) is computed from y and so holds where tanh(y) rounds to 1. The
    diagonal is at least the smallest normal number.

    Args:
        n: number of rows, 2 or more.
        batch_shape: leading axes; the value has shape `batch_shape + (n, n)`.

    Example:
        >>> CholeskyCorrelation(2).constrain(jnp.zeros(1))[0]
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
    """

    n: ShapeLike
    batch_shape: ShapeLike = ()
    shape: tuple[int, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", as_count("n", self.n, 2))
        object.__setattr__(self, "batch_shape", as_shape(self.batch_shape, what="batch_shape"))
        object.__setattr__(self, "shape", (*self.batch_shape, self.n, self.n))

    @classmethod
    def examples(cls) -> tuple["CholeskyCorrelation", ...]:
        return (cls(4), cls(2, (2,)))

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        return (*self.batch_shape, triangle_size(self.n, strict=True))

    @property
    def description(self) -> str:
        return f"Cholesky factors of correlation matrices, shape {self.shape}"

    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        strictly_lower = np.tril(np.ones((self.n, self.n), bool), -1)
        y = fill_lower(y, self.n, strict=True)
        log_left = 2 * (math.log(2) - y - softplus(-2 * y))  # log(1 - tanh(y)^2)
        half = running_sum(log_left, exclusive=True) / 2
        log_det = jnp.sum(jnp.where(strictly_lower, log_left + half, 0))
        # tanh(0) = 0 above the diagonal already gives zero there.
        direction = jnp.where(np.eye(self.n, dtype=bool), 1, jnp.tanh(y))
        length = jnp.maximum(jnp.exp(half), jnp.finfo(y.dtype).tiny)
        return direction * length, log_det

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        # z / sqrt(1 - z^2) = sinh(y) is an entry over the norm of what follows it in its row,
        # summed from the far end: no cancellation.
        following = jnp.cumsum((x**2)[..., ::-1], axis=-1)[..., -2::-1]
        norm = jnp.sqrt(extract_lower(jnp.pad(following, self._pad), strict=True))
        return jnp.arcsinh(extract_lower(x, strict=True) / norm)

    @property
    def _pad(self) -> list[tuple[int, int]]:
        return [(0, 0)] * (len(self.batch_shape) + 1) + [(0, 1)]

    def independent(self, x: Float[Array, "..."]) -> Float[Array, " size"]:
        return jnp.ravel(extract_lower(x, strict=True))

    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        slack = EQUALITY_ULPS * self.n * float(jnp.finfo(x.dtype).eps)
        unit_rows = jnp.all(jnp.abs(jnp.sum(x**2, axis=-1) - 1) <= slack)
        return unit_rows & jnp.all(diagonal_of(x) > 0) & jnp.all(jnp.triu(x, 1) == 0)
