"""Linear response: exact where theory says so, with error bars that cover."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Bare
from scipy.special import polygamma

import jaxvi
from jaxvi import Antithetic, Fresh, Frozen, Status
from jaxvi.diagnostics import _frozen_noise_error, _linear_response, frozen_error, linear_response
from jaxvi.families import FullRank, MeanField
from jaxvi.noise import MomentMatched
from jaxvi.objectives import ELBO, Estimate, Objective
from jaxvi.solvers import FrozenNoise

KEY = jax.random.key(8)
pytestmark = pytest.mark.usefixtures("compiled_quickly")
NORMALS = jaxvi.Target(lambda z: -jnp.sum((z - 3.0) ** 2), jaxvi.Real(2))


def ill_conditioned(dim, condition, dtype=float):
    """A Gaussian off-centre, its mean and its covariance."""
    rng = np.random.default_rng(dim)
    spectrum = 4.0 * np.logspace(0, -np.log10(condition), dim)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    precision, mean = (rotation / spectrum) @ rotation.T, 3.0 + 5.0 * rng.normal(size=dim)
    p, m = jnp.asarray(precision, dtype), jnp.asarray(mean, dtype)
    target = jaxvi.Target(lambda z: 17.0 - 0.5 * (z - m) @ p @ (z - m), jaxvi.Real(dim))
    return target, mean, (rotation * spectrum) @ rotation.T


def fit(target, family, **options):
    options = {"num_restarts": 2, "max_steps": 300, "num_eval_draws": 10, **options}
    return jaxvi.fit(KEY, target, family, solver=FrozenNoise(), progress=False, **options)


@functools.cache
def ill_conditioned_fit():
    target, mean, covariance = ill_conditioned(30, 1e4)
    return fit(target, MeanField()), mean, covariance


def test_mean_field_gives_the_exact_covariance_of_a_gaussian(x64):
    """Dimension 30, condition 1e4, to 1e-6; and the second call compiles nothing."""
    found, mean, covariance = ill_conditioned_fit()
    sizes = []
    for lane in range(2):
        response = linear_response(found, key=KEY, lane=lane)
        assert response.status is Status.CONVERGED
        assert response.residual < 1e-7
        np.testing.assert_allclose(response.mean, mean, atol=1e-6)
        scale = np.sqrt(np.diag(covariance))
        off = (response.covariance - covariance) / (scale[:, None] * scale[None])
        assert np.abs(off).max() < 1e-6
        np.testing.assert_allclose(response.sd, scale, rtol=1e-6)
        # a quadratic is integrated without error by matched draws, and the error bars know it
        assert (response.mean_mcse < 1e-6 * scale).all()
        assert (response.sd_mcse < 1e-6 * scale).all()
        sizes.append(_linear_response._respond._cache_size())
    assert sizes[0] == sizes[1]
    # q's own sds are far too small
    own = np.exp(found.lane(found.best).phi.log_scale)
    assert (own < 0.5 * np.sqrt(np.diag(covariance))).any()


def test_functions_of_constrained_parameters(x64):
    """A log-normal and what it goes with: covariances by leaf, in the order of the leaves."""
    mean, covariance = np.array([0.4, -2.0]), np.array([[0.3, 0.2], [0.2, 0.8]])
    precision = jnp.asarray(np.linalg.inv(covariance))

    def log_density(params):
        z = jnp.concatenate([jnp.log(params["x"])[None], params["y"]]) - mean
        return 2.0 - 0.5 * z @ precision @ z - jnp.log(params["x"])

    supports = {"x": jaxvi.Positive(), "y": jaxvi.Real(1)}
    found = fit(jaxvi.Target(log_density, supports), FullRank(), objective=ELBO(num_draws=2048))

    def function(params):
        return {"both": 2.0 * params["y"] - 3.0, "x": params["x"]}

    response = linear_response(found, function, key=KEY)
    mean_x = np.exp(mean[0] + 0.5 * covariance[0, 0])
    assert response.mean["both"] == pytest.approx([2.0 * mean[1] - 3.0], abs=1e-6)
    assert response.mean["x"] == pytest.approx(mean_x, rel=0.02)
    tree = response.covariance_tree
    # exact by linear response, since the tilt by y keeps a Gaussian one; up to the draws' E[x]
    assert tree["both"]["both"] == pytest.approx(4.0 * covariance[1:, 1:], rel=1e-6)
    assert tree["x"]["both"].shape == (1,)
    assert tree["x"]["both"] == pytest.approx(2.0 * covariance[0, 1] * mean_x, rel=0.02)
    np.testing.assert_array_equal(tree["both"]["x"], tree["x"]["both"])
    assert response.covariance.shape == (2, 2)
    assert response.covariance[0, 1] == tree["both"]["x"]
    assert abs(response.mean["x"] - mean_x) < 5 * response.mean_mcse["x"]


def test_polish_takes_any_fit_to_the_frozen_optimum():
    """From a noisy fit, far from the draws' own optimum, in float32: the exact answer again."""
    target, mean, covariance = ill_conditioned(3, 30.0, jnp.float32)
    solver = jaxvi.Stochastic(learning_rate=0.1, tolerance=0.3)
    options = {"num_restarts": 1, "progress": False, "num_eval_draws": 10}
    found = jaxvi.fit(KEY, target, MeanField(), solver=solver, **options)
    response = linear_response(found, key=jax.random.key(1))
    assert response.status is Status.CONVERGED
    # of means near 20, as float32 tells where a slope is zero; over keys up to 2e-3
    np.testing.assert_allclose(response.mean, mean, atol=5e-3)
    np.testing.assert_allclose(response.covariance, covariance, atol=2e-4)


MIX = np.array([[1.0, 0.0], [-0.9, 1.4]])


def skewed(z):
    """Two log Gammas, mixed: skewed and correlated."""
    y = jnp.asarray(MIX, z.dtype) @ (z - jnp.asarray([1.0, -2.0], z.dtype))
    return jnp.sum(1.5 * y - jnp.exp(y))


def test_error_bars_cover(x64):
    """Over 60 seeds, the spread is what is claimed: of linear response and of q itself.

    A spread over 60 has a standard error of 9 %, and jackknives differ by themselves; errors
    that ignored the matching would be claimed up to five times too large. The sds of linear
    response, besides, are nearer to the true ones than q's own.
    """
    seeds = 60
    found = fit(
        jaxvi.Target(skewed, jaxvi.Real(2)),
        MeanField(),
        noise=Frozen(MomentMatched(Fresh(shared=False))),
        objective=ELBO(num_draws=64),
        num_restarts=seeds,
    )
    assert (found.status == Status.CONVERGED).all()
    mix = np.linalg.inv(MIX)
    exact = np.sqrt(np.diag(polygamma(1, 1.5) * mix @ mix.T))
    off = {}
    for ask in (linear_response, frozen_error):
        asked = [ask(found, key=KEY, lane=lane) for lane in range(seeds)]
        assert all(one.status is Status.CONVERGED for one in asked)
        for name in ("mean", "sd"):
            seen = np.std([getattr(one, name) for one in asked], axis=0, ddof=1)
            claimed = [getattr(one, f"{name}_mcse") for one in asked]
            ratio = np.sqrt(np.mean(np.square(claimed), axis=0)) / seen
            assert (ratio > 0.65).all(), (ask, name, ratio)
            assert (ratio < 1.6).all(), (ask, name, ratio)
        off[ask] = np.abs(np.mean([one.sd for one in asked], axis=0) - exact)
    assert (off[linear_response] < 0.5 * off[frozen_error]).all()


@pytest.mark.parametrize("source", [Fresh(), Antithetic(), MomentMatched()], ids=repr)
def test_groups_that_are_left_out(source, x64):
    """Pairs stay together, every draw is left out once, and what is left is matched again."""
    design = _frozen_noise_error.Design(NORMALS, MeanField(), ELBO(num_draws=64), source)
    noise = source.draw(KEY, 0, MeanField(), 64, 3, jnp.dtype(float))
    draws, factor = _frozen_noise_error.leave_out(design, noise)
    group = 64 // 16
    assert draws.shape == (16, 64 - group, 3)
    assert factor == pytest.approx(15 / 16)
    if source == MomentMatched():
        moments = jnp.einsum("gni,gnj->gij", draws, draws) / (64 - group)
        np.testing.assert_allclose(moments, np.broadcast_to(np.eye(3), (16, 3, 3)), atol=1e-12)
    else:
        there = (np.asarray(draws)[:, :, None] == np.asarray(noise)[None, None]).all(-1).any(1)
        np.testing.assert_array_equal((~there).sum(axis=0), 1)
    if source != Fresh():
        np.testing.assert_allclose(draws.sum(axis=1), 0.0, atol=1e-12)


def test_the_jackknife_of_a_mean_is_its_standard_error(x64):
    """Left out one by one, means have the spread of s / sqrt(n), exactly."""
    noise = jax.random.normal(KEY, (16, 2))
    design = _frozen_noise_error.Design(NORMALS, MeanField(), ELBO(num_draws=16), Fresh())
    draws, factor = _frozen_noise_error.leave_out(design, noise)
    found = _frozen_noise_error.jackknife_error(draws.mean(axis=1), factor)
    np.testing.assert_allclose(found, np.std(noise, axis=0, ddof=1) / 4.0, rtol=1e-10)
    nothing = _frozen_noise_error.leave_out(design, noise[:2])
    assert np.isnan(_frozen_noise_error.jackknife_error(nothing[0].mean(axis=1), nothing[1])).all()


def test_too_little_work_is_no_convergence(x64, monkeypatch):
    """Systems cut short are called so, and the residual says by how much."""
    monkeypatch.setattr(_linear_response, "_MAX_PRODUCTS", 2)
    response = linear_response(ill_conditioned_fit()[0], lambda z: z[:1], key=KEY)
    assert response.status is Status.STALLED
    assert response.residual > 1e-4


@functools.cache
def small():
    with jax.enable_x64(False):
        return fit(NORMALS, MeanField())


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (
            lambda f: linear_response(f, key=KEY, lane=2),
            ValueError,
            "lane: expected a whole number from 0 to 1; got 2",
        ),
        (lambda f: linear_response(f, key=KEY, num_draws=1), ValueError, "num_draws"),
        (lambda f: linear_response(f, key=KEY, num_draws=7), ValueError, "even num_draws; got 7"),
        (
            lambda f: linear_response(f._with(status=np.array([2, 2])), key=KEY),
            ValueError,
            "converged, since the gradient must vanish; got lane . with status 'step limit'",
        ),
        (
            lambda f: linear_response(f._with(objective=NoBound()), key=KEY),
            TypeError,
            "fit by jaxvi.ELBO",
        ),
        (lambda f: frozen_error(f._with(noise=Fresh()), key=KEY), TypeError, "on frozen noise"),
        (lambda f: frozen_error(f._with(family=Bare()), key=KEY), TypeError, r"moments\(phi\)"),
    ],
)
def test_misfits_are_refused(ask, error, words):
    """What can't be answered is refused with what could."""
    with pytest.raises(error, match=words):
        ask(Changed(small(), {}))


class NoBound(Objective):
    """An objective that is no ELBO."""

    num_draws = 8

    def check(self, family):
        pass

    def __call__(self, phi, noise, family, target, data):
        return Estimate(jnp.zeros(()), jnp.zeros(()))


class Changed:
    """A fit with some of its parts exchanged."""

    def __init__(self, fit, parts):
        self._fit, self._parts = fit, parts

    def _with(self, **parts):
        return Changed(self._fit, parts)

    def __getattr__(self, name):
        return getattr(self._fit, name)

    @property
    def setup(self):
        parts = {name: part for name, part in self._parts.items() if name != "status"}
        return dataclasses.replace(self._fit.setup, **parts)

    def lane(self, index):
        found = self._fit.lane(index)
        return found._replace(status=self._parts.get("status", self._fit.status)[index])
