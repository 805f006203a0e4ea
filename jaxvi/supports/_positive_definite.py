"""Support of symmetric positive definite matrices."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvi._numerics import (
    diagonal_of,
    extract_lower,
    fill_lower,
    outer_square,
    triangle_size,
    with_diagonal,
)
from jaxvi.supports._base import EQUALITY_ULPS, ShapeLike, Support, as_count, as_shape


@dataclasses.dataclass(frozen=True)
class PositiveDefinite(Support):
    r"""Symmetric positive definite matrices x = L L^T, by their Cholesky factor.

    The coordinates y are d = log diag(L), n of them, then the strictly lower entries of L row
    by row. log |det J| = n log 2 + \sum_{i=1}^n (n - i + 2) d_i, relative to the lower triangle of
    x (Stan Reference Manual, covariance matrices). Rounding L L^T can lose definiteness where the
    condition number passes 1/eps: `contains` allows it, a Cholesky factorisation may not.

    Args:
        n: number of rows.
        batch_shape: leading axes; the value has shape `batch_shape + (n, n)`.

    Example:
        >>> PositiveDefinite(2).constrain(jnp.zeros(3))[0]
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
    """

    n: ShapeLike
    batch_shape: ShapeLike = ()
    shape: tuple[int, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", as_count("n", self.n, 1))
        object.__setattr__(self, "batch_shape", as_shape(self.batch_shape, what="batch_shape"))
        object.__setattr__(self, "shape", (*self.batch_shape, self.n, self.n))

    @classmethod
    def examples(cls) -> tuple["PositiveDefinite", ...]:
        return (cls(1), cls(3), cls(2, (2,)))

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        return (*self.batch_shape, triangle_size(self.n))

    @property
    def description(self) -> str:
        return f"symmetric positive definite matrices, shape {self.shape}"

    def constrain(self, y: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        log_diagonal, lower = y[..., : self.n], y[..., self.n :]
        factor = with_diagonal(fill_lower(lower, self.n, strict=True), jnp.exp(log_diagonal))
        powers = np.broadcast_to(np.arange(self.n + 1, 1, -1).astype(y.dtype), log_diagonal.shape)
        count = math.prod(self.batch_shape) * self.n
        return outer_square(factor), count * math.log(2) + jnp.sum(powers * log_diagonal)

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        factor = jnp.linalg.cholesky(x)
        lower = extract_lower(factor, strict=True)
        return jnp.concatenate([jnp.log(diagonal_of(factor)), lower], axis=-1)

    def independent(self, x: Float[Array, "..."]) -> Float[Array, " size"]:
        return jnp.ravel(extract_lower(x))

    def contains(self, x: Float[Array, "..."]) -> Bool[Array, ""]:
        slack = EQUALITY_ULPS * self.n * float(jnp.finfo(x.dtype).eps)
        largest = jnp.max(jnp.abs(x), axis=(-2, -1))
        asymmetry = jnp.max(jnp.abs(x - jnp.swapaxes(x, -1, -2)), axis=(-2, -1))
        # scaled, since the eigenvalue solver squares entries and would overflow
        smallest = jnp.linalg.eigvalsh(x / largest[..., None, None])[..., 0]
        definite = jnp.all(smallest >= -slack) & jnp.all(diagonal_of(x) > 0)
        return definite & jnp.all(asymmetry <= slack * largest) & jnp.all(jnp.isfinite(x))
