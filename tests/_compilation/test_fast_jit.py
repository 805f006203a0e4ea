"""A jit of another level: the same numbers, and a part of other programs like any function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvi._compilation.fast_jit import ONCE, STEPS, light_jit


def power(x, *, times):
    """x times its sine, some times over."""
    for _ in range(times):
        x = x * jnp.sin(x)
    return x


@pytest.mark.parametrize("level", [ONCE, STEPS])
def test_the_numbers_are_the_same(level):
    """One program for each static argument."""
    light, x = light_jit(level, static_argnames="times")(power), jnp.linspace(0.1, 2.0, 50)
    for times in (1, 2, 1):
        np.testing.assert_allclose(light(x, times=times), power(x, times=times), rtol=1e-5)
    assert light.num_programs() == 2
    assert light.__doc__ == power.__doc__


def test_it_is_a_part_of_other_programs():
    """Inside of jit, with traced arguments and without; mapped; differentiated."""
    light, x = light_jit(STEPS, static_argnames="times")(power), jnp.linspace(0.1, 2.0, 5)
    expected = power(x, times=1)
    inside = jax.jit(lambda y: light(y, times=1) + light(x, times=1))
    np.testing.assert_allclose(inside(x), 2.0 * expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(lambda y: light(y, times=1))(x), expected, rtol=1e-5)
    slope = jax.grad(lambda y: light(y, times=1))(1.0)
    np.testing.assert_allclose(slope, np.sin(1.0) + np.cos(1.0), rtol=1e-5)
    assert jax.eval_shape(lambda y: light(y, times=1), x).shape == (5,)
