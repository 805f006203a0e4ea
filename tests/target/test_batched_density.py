"""`log_probs` is `vmap(target.log_prob)`, however it is mapped and differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvi
from jaxvi._compilation import largest_array
from jaxvi.target import _batched
from jaxvi.target._batched import log_probs


def log_density(params, data):
    """Quartic, so that second derivatives vary; one entry of the data is no float."""
    return -0.25 * jnp.sum((data["x"] @ params) ** 4) - jnp.sum(params**2) * data["k"].sum()


TARGET = jaxvi.Target(log_density, jaxvi.Real((3,)))
DATA = {
    "x": jnp.asarray(np.arange(12, dtype=np.float32).reshape(4, 3) / 10),
    "k": jnp.array([1, 2]),
}
Z = jnp.asarray(np.arange(30, dtype=np.float32).reshape(2, 5, 3) / 30)  # lanes, draws, dim


@pytest.fixture(autouse=True, params=[None, 20])
def _slices(request, monkeypatch):
    """All points at once; and as few at a time as where the density makes very large arrays."""
    if request.param is not None:
        monkeypatch.setattr(_batched, "_MAX_ARRAY_ELEMENTS", request.param)


def flat(z, data):
    return log_probs(TARGET, z, data).mean()


def plain(z, data):
    return jax.vmap(TARGET.log_prob, (0, None))(z, data).mean()


def agree(make):
    """`make(function)` gives the same arrays for both."""
    for a, b in zip(jax.tree.leaves(make(flat)), jax.tree.leaves(make(plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5)


def test_values_and_gradients_over_lanes():
    """One flat batch for lanes and draws: values and gradients of the nested maps."""
    agree(lambda f: jax.vmap(jax.value_and_grad(f), (0, None))(Z, DATA))


def test_third_map():
    """A map around lanes and draws."""
    more = jnp.stack([Z, 2 * Z])
    agree(lambda f: jax.vmap(jax.vmap(jax.value_and_grad(f), (0, None)), (0, None))(more, DATA))


def test_mapped_data():
    """Data that differ by lane, in part or with one point for all."""
    data = {"x": jnp.stack([DATA["x"], 2 * DATA["x"]]), "k": DATA["k"]}
    axes = {"x": 0, "k": None}
    agree(lambda f: jax.vmap(jax.value_and_grad(f), (0, axes))(Z, data))
    agree(lambda f: jax.vmap(jax.value_and_grad(f), (None, axes))(Z[0], data))


def test_hessian_vector_products():
    """Forward over reverse, alone and over lanes."""
    v = jnp.ones((5, 3))

    def product(f, z):
        return jax.jvp(lambda q: jax.grad(f)(q, DATA), (z,), (v,))[1]

    agree(lambda f: product(f, Z[0]))
    agree(lambda f: jax.vmap(lambda z: product(f, z))(Z))


def test_gradient_in_the_data():
    """Data get their cotangent too."""
    agree(lambda f: jax.grad(lambda x: f(Z[0], {**DATA, "x": x}))(DATA["x"]))


def test_hessian_vector_products_without_data():
    """Data that are None, over lanes: a None is no mark of anything."""
    target = jaxvi.Target(lambda params: -jnp.sum(params**4), jaxvi.Real((3,)))

    def product(z):
        def total(z):
            return log_probs(target, z, None).sum()

        return jax.jvp(jax.grad(total), (z,), (jnp.ones_like(z),))[1]

    np.testing.assert_allclose(jax.vmap(product)(Z), -12.0 * Z**2, rtol=1e-5)


def test_the_largest_array_is_found_in_inner_programs():
    """A product in a scan in a jitted function; arguments are nobody's work."""

    @jax.jit
    def inner(x):
        return jax.lax.scan(lambda total, row: (total + jnp.outer(row, row), None), x @ x.T, x)[0]

    jaxpr = jax.make_jaxpr(lambda x: inner(x).sum())(jnp.ones((30, 30)))
    assert largest_array(jaxpr.jaxpr) == 900
    assert largest_array(jax.make_jaxpr(lambda x: x[0, 0] + 1.0)(jnp.ones((30, 30))).jaxpr) <= 30


def test_memory_is_bounded_whatever_the_points():
    """A thousand points and a hundred thousand rows: of all at once, 400 MB for each array."""

    def density(params, data):
        logit = data @ params
        return jnp.sum(logit - jnp.logaddexp(0.0, logit))

    target = jaxvi.Target(density, jaxvi.Real(3))
    rows = jax.ShapeDtypeStruct((100_000, 3), jnp.float32)
    z = jax.ShapeDtypeStruct((1_000, 3), jnp.float32)
    compute = jax.jit(jax.value_and_grad(lambda z, rows: log_probs(target, z, rows).sum()))
    memory = compute.lower(z, rows).compile().memory_analysis()
    most = 4 * max(_batched._MAX_ARRAY_ELEMENTS, 100_000)
    assert 4 * 100_000 <= memory.temp_size_in_bytes < 4 * most
