"""Batches of a density that calls LAPACK, which jaxlib before 0.11.1 may never finish."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import solve_triangular

from jaxvi._compilation import lapack_batches
from jaxvi._compilation.jaxprs import equations

TWO_SYSTEMS = """
import jax, jaxvi
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxvi.target import hessian_products

def density(z):
    lower = jnp.linalg.cholesky(jnp.eye(45) * (2.0 + z @ z) + jnp.tri(45) + jnp.tri(45).T)
    right = jnp.outer(jnp.ones(45), z)
    first = solve_triangular(lower, right, lower=True)
    return jnp.sum(first**2) + jnp.sum(solve_triangular(lower + jnp.tri(45), right, lower=True)**2)

target = jaxvi.Target(density, jaxvi.Real(3))
z = jnp.full((500, 3), 0.1)
products = jax.jit(lambda z: hessian_products(target, z, z[:, None], None))
for _ in range(10):
    jax.block_until_ready(products(z))
"""


def test_a_large_batch_ends():
    """A density that factors a matrix of 45 rows, at 500 points."""
    subprocess.run([sys.executable, "-c", TWO_SYSTEMS], check=True, timeout=300)


@pytest.fixture
def spreads(monkeypatch):
    """As with a jaxlib that spreads batches over threads."""
    monkeypatch.setattr(lapack_batches, "_XLA_SPREADS_BATCHES", True)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")


def at_once(density, size):
    """Points at once of a density of a matrix."""
    return lapack_batches.points_at_once(jax.make_jaxpr(density)(np.eye(size, dtype="f")).jaxpr)


@pytest.mark.parametrize(("size", "expected"), [(5, 240), (10, 30), (45, 1), (200, 1)])
def test_few_where_matrices_are_large(spreads, size, expected):
    """30,000 over the cube of the size; of calls in inner programs, too."""
    assert at_once(jnp.linalg.cholesky, size) == expected
    inner = jax.jit(lambda a: solve_triangular(a, a[0], lower=True))
    assert at_once(lambda a: jax.lax.map(inner, a[None]), size) == expected
    assert lapack_batches.matrices_at_once(size) == expected


def test_any_number_elsewhere(spreads, monkeypatch):
    """Without LAPACK, on an accelerator, with a jaxlib that doesn't."""
    assert at_once(lambda a: a @ a, 45) > 1e6
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert at_once(jnp.linalg.cholesky, 45) > 1e6
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(lapack_batches, "_XLA_SPREADS_BATCHES", False)
    assert at_once(jnp.linalg.cholesky, 45) > 1e6


def test_a_map_is_a_loop(spreads):
    """The same numbers, with no batch of factors."""
    matrices = np.stack([np.eye(4) * k for k in (1.0, 4.0, 9.0)]).astype("f")

    def root(scale, matrix):
        return scale * jnp.linalg.cholesky(matrix)

    looped = jax.vmap(lapack_batches.one_at_a_time(root), (None, 0))
    np.testing.assert_allclose(looped(2.0, matrices), 2.0 * np.sqrt(matrices), rtol=1e-6)
    calls = [
        equation.invars[0].aval.shape
        for equation in equations(jax.make_jaxpr(looped)(2.0, matrices).jaxpr)
        if equation.primitive.name == "cholesky"
    ]
    assert calls == [(4, 4)]
