"""Triangular algebra: NumPy's order, and what NumPy computes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvi._numerics import triangular


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_triangles_fill_in_numpys_order_and_come_back(n: int, strict: bool) -> None:
    size = triangular.triangle_size(n, strict=strict)
    vector = 1.0 + jnp.arange(2 * size, dtype="float32").reshape(2, size)
    filled = jax.jit(lambda v: triangular.fill_lower(v, n, strict=strict))(vector)
    expected = np.zeros((2, n, n), np.float32)
    rows, columns = np.tril_indices(n, -1 if strict else 0)
    expected[:, rows, columns] = vector
    np.testing.assert_array_equal(filled, expected)
    np.testing.assert_array_equal(triangular.extract_lower(filled, strict=strict), vector)
    if size:
        # The transpose too: each entry's gradient is that of its one place in the matrix.
        weights = jnp.arange(n * n, dtype="float32").reshape(n, n)
        slope = jax.jit(
            jax.grad(lambda v: jnp.sum(weights * triangular.fill_lower(v, n, strict=strict)))
        )
        np.testing.assert_array_equal(slope(vector[0]), weights[rows, columns])


def test_triangular_algebra() -> None:
    with jax.enable_x64(True):
        lower = triangular.fill_lower(jnp.asarray([2.0, -0.3, 0.7, 1.1, 0.4, 3.0]), 3)
        b = jnp.asarray([1.0, -2.0, 0.5])
        np.testing.assert_allclose(lower @ triangular.solve_lower(lower, b), b, rtol=1e-12)
        solved = triangular.solve_lower(lower, b, transpose=True)
        np.testing.assert_allclose(lower.T @ solved, b, rtol=1e-12)
        np.testing.assert_allclose(
            triangular.log_det_lower(lower), math.log(2 * 0.7 * 3), rtol=1e-12
        )
        np.testing.assert_allclose(triangular.outer_square(lower), lower @ lower.T, rtol=1e-12)
        replaced = triangular.with_diagonal(lower, b)
        np.testing.assert_array_equal(triangular.diagonal_of(replaced), b)
        for k in (1, 5, 200):
            values = jnp.asarray(np.random.default_rng(0).normal(size=(2, k)))
            sums = np.cumsum(values, -1)
            np.testing.assert_allclose(triangular.running_sum(values), sums, atol=1e-12)
            exclusive = triangular.running_sum(values, exclusive=True)
            np.testing.assert_allclose(exclusive, sums - values, atol=1e-12)
