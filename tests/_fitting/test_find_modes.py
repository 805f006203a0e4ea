"""find_modes: all modes of a known density, which start ended where, and what each weighs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvi
from jaxvi._fitting.modes import find_modes
from jaxvi.supports import Positive, Real

NEAR, FAR = np.array([3.0, -1.0]), np.array([-5.0, 4.0])
LOG_2PI = math.log(2.0 * math.pi)


def two_normals(z, data):
    """Weights 0.7 and 0.3 times an evidence of e^2; sds (0.5, 0.5) and (1, 2), far apart."""
    first = -0.5 * jnp.sum((z - NEAR) ** 2) / 0.25 - LOG_2PI - math.log(0.25)
    second = -0.5 * jnp.sum(((z - FAR) / np.array([1.0, 2.0])) ** 2) - LOG_2PI - math.log(2.0)
    mixture = jnp.logaddexp(first + math.log(0.7), second + math.log(0.3)) + 2.0
    return jnp.where(data["wall"] & (jnp.abs(z[0] - 20.0) < 5.0), jnp.nan, mixture)


MIXTURE = jaxvi.Target(two_normals, Real((2,)))


def test_both_modes_of_a_mixture_with_counts(x64, key):
    """Places, masses and covariances of both; starts near one or the other end there.

    12 standard deviations apart, so that neither feels the other beyond e^-70.
    """
    starts = np.concatenate([np.tile(NEAR, (5, 1)), np.tile(FAR, (3, 1)), np.full((2, 2), 20.0)])
    starts[:8] += np.random.default_rng(0).normal(size=(8, 2)) * 0.3
    modes = find_modes(
        key, MIXTURE, data={"wall": np.array(True)}, num_starts=10, start=jnp.asarray(starts)
    )
    np.testing.assert_allclose(modes.z, [NEAR, FAR], atol=1e-6)
    np.testing.assert_array_equal(modes.params, modes.z)
    np.testing.assert_allclose(
        modes.log_mass, [2.0 + math.log(0.7), 2.0 + math.log(0.3)], rtol=1e-6
    )
    highest = 2.0 + math.log(0.7) - LOG_2PI - math.log(0.25)
    np.testing.assert_allclose(modes.log_prob[0], highest, rtol=1e-9)
    np.testing.assert_allclose(modes.scale_tril[1], np.diag([1.0, 2.0]), atol=1e-6)
    assert len(modes) == 2
    assert modes.num_reached.tolist() == [5, 3]
    assert modes.mode_of_start.tolist() == [0] * 5 + [1] * 3 + [-1] * 2
    # the last two began where nothing is finite
    assert (modes.status == [jaxvi.Status.CONVERGED] * 8 + [jaxvi.Status.NO_START] * 2).all()
    assert "2 distinct, from 10 starts" in repr(modes)
    assert "2 x no finite start" in repr(modes)


def test_drawn_starts_find_both_modes(x64, key):
    """Overdispersed starts, and the same ones from a raw key."""
    data = {"wall": np.array(False)}
    modes = find_modes(key, MIXTURE, data=data, num_starts=10, start_scale=6.0)
    np.testing.assert_allclose(modes.z, [NEAR, FAR], atol=1e-6)
    assert modes.num_reached.sum() == 10
    assert (np.bincount(modes.mode_of_start) == modes.num_reached).all()
    raw = find_modes(jax.random.key_data(key), MIXTURE, data=data, num_starts=10, start_scale=6.0)
    np.testing.assert_array_equal(raw.z, modes.z)


def gamma(x, data):
    """A gamma of shape 4 and the given rate; with rate 0 it has no end."""
    return 3.0 * jnp.log(x) - data * x


GAMMA = jaxvi.Target(gamma, Positive())


def test_modes_come_constrained(key):
    """The mode of log x of a gamma(a, b) is at x = a / b, Jacobian included; variance 1 / a."""
    modes = find_modes(key, GAMMA, data=jnp.float32(20.0), num_starts=4)
    assert len(modes) == 1
    assert modes.params.shape == (1,)
    # to the root of float32's tolerance of the decrement, in standard deviations
    np.testing.assert_allclose(modes.params, 4.0 / 20.0, rtol=5e-3)
    np.testing.assert_allclose(modes.scale_tril[0, 0, 0] ** 2, 1.0 / 4.0, rtol=1e-2)
    laplace = modes.log_prob[0] + 0.5 * LOG_2PI - 0.5 * math.log(4.0)
    np.testing.assert_allclose(modes.log_mass[0], laplace, rtol=1e-3)


def test_improper_posteriors_have_no_modes(key):
    """A status for every start, and nothing raised."""
    modes = find_modes(key, GAMMA, data=jnp.float32(0.0), num_starts=4)
    assert len(modes) == 0
    assert modes.z.shape == (0, 1)
    assert modes.params.shape == (0,)
    assert (modes.status == jaxvi.Status.UNBOUNDED).all()
    assert (modes.mode_of_start == -1).all()
    assert "4 x unbounded" in repr(modes)


def test_arguments_are_checked(key):
    with pytest.raises(ValueError, match="num_starts"):
        find_modes(key, GAMMA, data=jnp.float32(1.0), num_starts=0)
    with pytest.raises(ValueError, match="tolerance"):
        find_modes(key, GAMMA, data=jnp.float32(1.0), tolerance=2.0)
    with pytest.raises(TypeError, match="key"):
        find_modes(0, GAMMA, data=jnp.float32(1.0))
