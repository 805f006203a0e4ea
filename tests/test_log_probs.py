"""`log_probs` is `vmap(target.log_prob)`, however it is mapped and differentiated."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxvi
from jaxvi._log_probs import log_probs


def log_density(params, data):
    """Quartic, so that second derivatives vary; one entry of the data is no float."""
    return -0.25 * jnp.sum((data["x"] @ params) ** 4) - jnp.sum(params**2) * data["k"].sum()


TARGET = jaxvi.Target(log_density, jaxvi.Real((3,)))
DATA = {"x": jnp.arange(12.0).reshape(4, 3) / 10, "k": jnp.arange(1, 3)}
Z = jnp.arange(30.0).reshape(2, 5, 3) / 30  # lanes, draws, dim


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
