"""Triangular algebra shared by the supports and the full-rank families.

Triangles travel as flat vectors in row-major order, the order of `numpy.tril_indices`. Every
function works on the trailing axes and leaves leading axes as a batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int

# Below this length a running sum as one product with a constant triangle beats `jnp.cumsum` (by
# 1.7 at 64 on CPU, batched and differentiated); far above it the quadratic work would show.
_MAX_MATMUL_CUMSUM_LENGTH = 128


def triangle_size(n: int, *, strict: bool = False) -> int:
    """Number of entries in the lower triangle: n(n+1)/2, or n(n-1)/2 without the diagonal."""
    return n * (n - 1) // 2 if strict else n * (n + 1) // 2


@functools.cache
def _lower_index(n: int, strict: bool) -> tuple[Int[np.ndarray, "n n"], Bool[np.ndarray, "n n"]]:
    """Where each matrix entry reads in the flat vector, and which entries are read at all.

    The entries not read still need an index. Theirs are the mirrored ones, so that the transpose
    of the gather (a scatter-add) sees at most two writers per place instead of n^2/2 on one.
    """
    mask = np.tril(np.ones((n, n), bool), -1 if strict else 0)
    index = np.zeros((n, n), np.int32)
    index[mask] = np.arange(mask.sum())
    index = np.maximum(index, index.T)
    if strict:
        np.fill_diagonal(index, np.arange(n) % max(triangle_size(n, strict=True), 1))
    return index, mask


def fill_lower(
    vector: Float[Array, "*batch size"], n: int, *, strict: bool = False
) -> Float[Array, "*batch n n"]:
    """The lower-triangular matrix holding a flat vector row by row, zero elsewhere.

    Args:
        vector: `triangle_size(n, strict=strict)` entries.
        n: number of rows.
        strict: leave the diagonal out (it is then zero).

    Example:
        >>> fill_lower(jnp.array([1.0, 2.0, 3.0]), 2)
        Array([[1., 0.],
               [2., 3.]], dtype=float32)
    """
    if vector.shape[-1] == 0:
        return jnp.zeros((*vector.shape[:-1], n, n), vector.dtype)
    index, mask = _lower_index(n, strict)
    # A gather and a select: measured faster than scattering into zeros or stacking padded rows.
    square = jnp.asarray(vector).at[..., index].get(mode="promise_in_bounds")
    return jnp.where(mask, square, jnp.zeros((), vector.dtype))


def extract_lower(
    matrix: Float[Array, "*batch n n"], *, strict: bool = False
) -> Float[Array, "*batch size"]:
    """The lower triangle as a flat vector, row by row: the inverse of `fill_lower`."""
    n = matrix.shape[-1]
    rows, columns = np.tril_indices(n, -1 if strict else 0)
    flat = jnp.asarray(matrix).reshape(*matrix.shape[:-2], n * n)
    return flat.at[..., rows * n + columns].get(mode="promise_in_bounds")


def with_diagonal(
    matrix: Float[Array, "*batch n n"], diagonal: Float[Array, "*batch n"]
) -> Float[Array, "*batch n n"]:
    """The matrix with its diagonal replaced, as a select (no scatter)."""
    eye = np.eye(matrix.shape[-1], dtype=bool)
    return jnp.where(eye, diagonal[..., :, None], matrix)


def diagonal_of(matrix: Float[Array, "*batch n n"]) -> Float[Array, "*batch n"]:
    """The diagonal along the last two axes."""
    return jnp.diagonal(matrix, axis1=-2, axis2=-1)


def log_det_lower(lower: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
    r"""log |det L| = \sum_i log |L_ii| of a triangular matrix."""
    return jnp.sum(jnp.log(jnp.abs(diagonal_of(lower))), axis=-1)


def solve_lower(
    lower: Float[Array, "*batch n n"], right: Float[Array, "*batch n"], *, transpose: bool = False
) -> Float[Array, "*batch n"]:
    """L^-1 b, or L^-T b with `transpose`, for one right-hand side. Costs n^2.

    Fails silently (infinities) where the diagonal holds a zero; the upper triangle is not read.
    """
    solved = solve_triangular(lower, right[..., None], trans="T" if transpose else "N", lower=True)
    return solved[..., 0]


def outer_square(lower: Float[Array, "*batch n k"]) -> Float[Array, "*batch n n"]:
    """L L^T at full precision (accelerators would round float32 products to fewer bits)."""
    return jnp.matmul(lower, jnp.swapaxes(lower, -1, -2), precision=jax.lax.Precision.HIGHEST)


def running_sum(
    values: Float[Array, "*batch k"], *, exclusive: bool = False
) -> Float[Array, "*batch k"]:
    """Running sums along the last axis, of finite values; exclusive sums start at zero.

    Computed as a product with a constant triangle where that is faster. An infinite entry then
    gives NaN in every sum, not only in later ones.
    """
    k = values.shape[-1]
    if k <= _MAX_MATMUL_CUMSUM_LENGTH:
        triangle = np.triu(np.ones((k, k), values.dtype), 1 if exclusive else 0)
        return jnp.matmul(values, triangle, precision=jax.lax.Precision.HIGHEST)
    if exclusive:
        zero = jnp.zeros((*values.shape[:-1], 1), values.dtype)
        values = jnp.concatenate([zero, values[..., :-1]], axis=-1)
    return jnp.cumsum(values, axis=-1)
