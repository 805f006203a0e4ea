"""Scales that coordinates set for latents are found, taken out, and told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvi
from jaxvi.autopilot import default_stages
from jaxvi.families import (
    FullRank,
    Noncentering,
    NoncenteringParams,
    Transformed,
    TransformedParams,
)
from jaxvi.hierarchical._noncentering import find_noncentering
from jaxvi.target import pullback, push

GROUPS, STEPS, PHI = 40, 40, 0.7


@pytest.fixture(autouse=True)
def _float64(x64):
    """Third derivatives, and Jacobians against finite maps."""


def funnel(z):
    return (
        -0.5 * (z[0] / 2.0) ** 2
        - 0.5 * jnp.sum(z[1:] ** 2) * jnp.exp(-z[0])
        - 0.5 * (z.size - 1) * z[0]
    )


def effects(z, y):
    """z: mean, log scale of effects, effects; one observation of each effect, of sd 1."""
    centre, log_scale, effect = z[0], z[1], z[2:]
    prior = -0.5 * jnp.sum((effect - centre) ** 2) * jnp.exp(-2.0 * log_scale)
    prior += -effect.size * log_scale - 0.5 * (centre / 3.0) ** 2 - 0.5 * (log_scale / 0.7) ** 2
    return prior - 0.5 * jnp.sum((y - effect) ** 2)


def walk(z, y):
    """z: log scale of the steps of an autoregression, and its states, each seen with sd 1."""
    states = z[1:]
    steps = jnp.concatenate([states[:1], states[1:] - PHI * states[:-1]])
    prior = -0.5 * jnp.sum(steps**2) * jnp.exp(-2.0 * z[0]) - states.size * z[0]
    return prior - 0.5 * (z[0] / 0.5) ** 2 - 0.5 * jnp.sum((y - states) ** 2)


def gaussian(z):
    return -0.5 * jnp.sum(z**2) - 2.0 * (z[0] - z[1]) ** 2


def data(num):
    return jnp.asarray(np.random.default_rng(0).normal(size=num))


def found(density, dim, y=None):
    target = jaxvi.Target(density, jaxvi.Real((dim,)))
    fit = jaxvi.fit(
        jax.random.key(0), target, solver=jaxvi.NaturalGradient(), data=y, progress=False
    )
    params = find_noncentering(jax.random.key(1), target, fit.q.phi, y)
    return target, fit, params


def some_params():
    rng = np.random.default_rng(1)
    unit = np.eye(4)
    unit[1, 2:] = rng.normal(size=2)
    unit[2, 3] = 0.3
    rates = np.zeros((4, 1))
    rates[1:, 0] = [-2.0, -1.0, 0.5]
    rows = unit, np.linalg.inv(unit), np.array([0.0, 1.0, -1.0, 0.5]), np.eye(4)[:1], np.ones(1)
    return NoncenteringParams(*(jnp.asarray(x) for x in (*rows, rates)))


def test_the_map_and_its_inverse_undo_each_other():
    """There and back, with log-determinants that are those of the Jacobian."""
    bijector, params = Noncentering(), some_params()
    x = jnp.asarray([0.7, -1.0, 2.0, 0.1])
    z, log_det = bijector.forward(params, x)
    back, log_det_back = bijector.inverse(params, z)
    np.testing.assert_allclose(back, x, atol=1e-12)
    jacobian = jax.jacfwd(lambda x: bijector.forward(params, x)[0])(x)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-12)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-12)


def test_it_starts_as_the_identity():
    """`init` changes nothing, whatever the coordinates."""
    bijector = Noncentering()
    z, log_det = bijector.forward(bijector.init(jax.random.key(0), 3), jnp.arange(3.0))
    np.testing.assert_array_equal(z, np.arange(3.0))
    assert float(log_det) == 0.0


def test_the_pullback_is_the_density_of_x():
    """log p(f(x)) + log det, of a target with data; rows are pushed as one by one."""
    target = jaxvi.Target(effects, jaxvi.Real((4,)))
    y, params, bijector = data(2), some_params(), Noncentering()
    x = jnp.asarray([0.2, 0.1, -0.5, 0.4])
    z, log_det = bijector.forward(params, x)
    got = pullback(target, bijector).log_prob(x, (params, y))
    np.testing.assert_allclose(got, target.log_prob(z, y) + log_det, rtol=1e-12)
    np.testing.assert_allclose(push(bijector, params, x[None, None])[0, 0], z, rtol=1e-12)


def test_a_funnel_is_found():
    """The hyperparameter, its dependents's rates, and nothing to subtract."""
    _, _, params = found(funnel, 10)
    assert params is not None
    np.testing.assert_array_equal(params.pick.sum(axis=0), np.eye(10)[0])
    np.testing.assert_allclose(params.rates[1:, 0], -1.0, rtol=1e-6)
    np.testing.assert_allclose(params.unit, np.eye(10), atol=1e-6)
    np.testing.assert_allclose(params.offset, 0.0, atol=1e-9)
    np.testing.assert_allclose(params.centre[0], found(funnel, 10)[1].q.phi.loc[0])


def test_the_mean_of_a_group_is_found():
    """Residuals are effects minus the common mean, though nobody says which coordinate that is."""
    y = data(GROUPS)
    _, _, params = found(effects, GROUPS + 2, y)
    assert params is not None
    assert params.pick[:, 1].sum() == 1.0
    np.testing.assert_allclose(params.unit[2:, 0], -1.0, atol=0.05)
    np.testing.assert_allclose(params.unit[:2], np.eye(GROUPS + 2)[:2], atol=1e-9)
    np.testing.assert_allclose(params.rates[2:, 0], -2.0, rtol=1e-6)
    np.testing.assert_allclose(params.offset, 0.0, atol=1e-9)  # else a wall in the neck


def test_all_dependents_have_the_whole_rate():
    """Half of the effects are seen with half of the noise: their scale in the neck is the same."""
    y = data(GROUPS)

    def density(z, y):
        noise = jnp.where(jnp.arange(GROUPS) % 2 == 0, 1.0, 0.5)
        prior = -0.5 * jnp.sum((z[2:] - z[0]) ** 2) * jnp.exp(-2.0 * z[1]) - GROUPS * z[1]
        prior -= 0.5 * (z[0] / 3.0) ** 2 + 0.5 * (z[1] / 0.7) ** 2
        return prior - 0.5 * jnp.sum(((y - z[2:]) / noise) ** 2)

    _, _, params = found(density, GROUPS + 2, y)
    assert params is not None
    np.testing.assert_allclose(params.rates[2:, 0], -2.0, rtol=1e-6)


def test_a_dependent_of_two_scales_goes_with_the_less_certain_one():
    """The noise's scale, seen in 400 rows, and that of ten effects, dependents of both."""
    y = data(400).reshape(10, 40)

    def density(z, y):
        noise, scale, effects = z[0], z[1], z[2:]
        likelihood = -0.5 * jnp.sum((y - effects[:, None]) ** 2) * jnp.exp(-2.0 * noise)
        prior = -0.5 * jnp.sum(effects**2) * jnp.exp(-2.0 * scale) - effects.size * scale
        return likelihood - y.size * noise + prior - 0.5 * jnp.sum(z[:2] ** 2)

    _, _, params = found(density, 12, y)
    assert params is not None
    np.testing.assert_array_equal(np.asarray(params.pick).sum(axis=0), np.eye(12)[1])
    np.testing.assert_allclose(params.rates[2:, 0], -2.0, rtol=1e-6)
    np.testing.assert_allclose(params.offset, 0.0, atol=1e-9)


def test_a_regression_has_none():
    """Curvature that goes with the coefficients is no scale's: rates of dependents differ."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(120, 40)))
    y = jnp.asarray(rng.random(120) < 1.0 / (1.0 + np.exp(-x @ rng.normal(size=40))))

    def density(z, data):
        logits = data[0] @ z
        return jnp.sum(jnp.where(data[1], logits, 0.0) - jnp.logaddexp(0.0, logits)) - 0.5 * z @ z

    assert found(density, 40, (x, y))[2] is None


def test_an_autoregression_is_found():
    """Residuals are a state minus 0.7 of a neighbour."""
    _, _, params = found(walk, STEPS + 1, 0.3 * data(STEPS))
    assert params is not None
    rows = np.asarray(params.unit)[1:, 1:] - np.eye(STEPS)
    largest = rows[np.arange(STEPS), np.abs(rows).argmax(axis=1)]
    assert (np.abs(largest[1:-1] + PHI) < 0.1).mean() > 0.9


@pytest.mark.parametrize("dim", [2, 12])
def test_a_gaussian_has_none(dim):
    """Constant curvature: no coordinate sets the scale of latents."""
    assert found(gaussian, dim)[2] is None


def test_what_is_not_finite_has_none():
    """A kink's or hole's derivatives ask for nothing."""
    target = jaxvi.Target(
        lambda z: -jnp.sqrt(jnp.sum(z**2)) * 0.0 + jnp.nan * z[0], jaxvi.Real((2,))
    )
    phi = FullRank().init(jax.random.key(0), 2, start=jnp.zeros(2))
    assert find_noncentering(jax.random.key(1), target, phi) is None


def test_the_default_call_takes_it_without_nested_laplace():
    """q is non-centred and exact there, as are its weights."""
    stages = [stage for stage in default_stages() if stage.name != "nested_laplace"]
    dim = 41
    target = jaxvi.Target(funnel, jaxvi.Real((dim,)))
    fit = jaxvi.fit(jax.random.key(0), target, stages=stages, progress=False)
    assert isinstance(fit.q.family, Transformed)
    assert isinstance(fit.q.family.bijector, Noncentering)
    assert isinstance(fit.q.phi, TransformedParams)
    assert fit.verdict == "ok"
    assert fit.findings.relative_ess > 0.99
    z = np.asarray(fit.sample_unconstrained(jax.random.key(1), 4_000))
    assert abs(z[:, 0].mean()) < 0.2 * 2.0
    assert abs(z[:, 0].std() / 2.0 - 1.0) < 0.15
