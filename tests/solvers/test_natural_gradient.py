"""Natural gradients: exact on Gaussians, right where Hessians are blind, honest about its end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import GAMMA_POISSON, GAUSSIAN_5, LOG_GAMMA, STUDENT_T

import jaxvi
from jaxvi.solvers import NaturalGradient


@pytest.fixture(autouse=True)
def _float64(x64):
    """All of this file is about exact answers."""


def ill_conditioned(dim=30, condition=1e4, seed=5):
    """A Gaussian off-centre: its log density, mean, covariance, and log evidence 2.5."""
    rng = np.random.default_rng(seed)
    spectrum = np.logspace(2, 2 - np.log10(condition), dim)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    covariance = axes * spectrum @ axes.T
    precision = axes / spectrum @ axes.T
    mean = 10.0 * rng.normal(size=dim)
    constant = 2.5 - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]

    def log_density(z):
        r = z - jnp.asarray(mean, z.dtype)
        return constant - 0.5 * r @ jnp.asarray(precision, z.dtype) @ r

    return jaxvi.Target(log_density, jaxvi.Real((dim,))), mean, covariance, precision


def fit(target, family=None, solver=None, **kwargs):
    solver = solver or NaturalGradient()
    kwargs = {"num_restarts": 4, "max_steps": 2_000, "progress": False} | kwargs
    return jaxvi.fit(jax.random.key(2), target, family, solver=solver, **kwargs)


@pytest.mark.parametrize("curvature", ["hessian", "gradient", "auto"])
def test_ill_conditioned_gaussian(curvature):
    """Condition 1e4, dimension 30: every lane within 1e-6 nat of the evidence, moments exact."""
    target, mean, covariance, precision = ill_conditioned()
    draws = jaxvi.ELBO(num_draws=128 if curvature == "gradient" else 32)
    solver = NaturalGradient(curvature=curvature)
    found = fit(target, jaxvi.FullRank(), solver, objective=draws)
    assert (found.status == jaxvi.Status.CONVERGED).all()
    for lane in range(4):
        phi = found.lane(lane).phi
        cov = np.asarray(jaxvi.FullRank().covariance(phi))
        d = np.asarray(phi.loc) - mean
        short = 0.5 * (
            d @ precision @ d
            + np.trace(precision @ cov)
            - len(d)
            - np.linalg.slogdet(precision @ cov)[1]
        )
        assert short < 1e-6
        assert abs(d / np.sqrt(np.diag(covariance))).max() < 1e-3


@pytest.mark.parametrize("curvature", ["hessian", "gradient"])
def test_mean_field_reaches_its_known_optimum(curvature):
    """For a Gaussian target the best independent q has variances 1 / P_ii."""
    data = GAUSSIAN_5.data_as(float)
    solver = NaturalGradient(curvature=curvature)
    found = fit(GAUSSIAN_5.target, jaxvi.MeanField(), solver, data=data)
    phi = found.lane(found.best).phi
    assert (found.status == jaxvi.Status.CONVERGED).all()
    precision = np.linalg.inv(GAUSSIAN_5.covariance)
    sds = 1.0 / np.sqrt(np.diag(precision))
    # three times the tolerance, which is a standard error, in units of the posterior's spread
    np.testing.assert_allclose(np.exp(phi.log_scale), sds, rtol=0.09)
    off = np.asarray(phi.loc) - GAUSSIAN_5.mean
    assert off @ precision @ off / len(off) < 0.09**2


def test_low_rank_reaches_a_covariance_of_its_form():
    """A target whose covariance is diagonal plus rank 2 is matched: the bound is the evidence."""
    rng = np.random.default_rng(1)
    dim, rank = 12, 2
    factor = 2.0 * rng.normal(size=(dim, rank))
    diagonal = np.exp(rng.normal(size=dim))
    covariance = factor @ factor.T + np.diag(diagonal)
    precision = np.linalg.inv(covariance)
    mean = 5.0 + rng.normal(size=dim)
    constant = 3.0 - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]

    def log_density(z):
        r = z - jnp.asarray(mean)
        return constant - 0.5 * r @ jnp.asarray(precision) @ r

    found = fit(jaxvi.Target(log_density, jaxvi.Real((dim,))), jaxvi.LowRank(rank))
    assert (found.status == jaxvi.Status.CONVERGED).any()
    assert found.bound > 3.0 - 0.05
    q = jaxvi.LowRank(rank).covariance(found.lane(found.best).phi)
    np.testing.assert_allclose(np.diag(q), np.diag(covariance), rtol=0.1)


@pytest.mark.parametrize("problem", [GAMMA_POISSON, LOG_GAMMA, STUDENT_T], ids=lambda p: p.name)
@pytest.mark.parametrize("curvature", ["hessian", "gradient"])
def test_known_optimum_of_the_bound(problem, curvature):
    """The best Gaussian of densities that aren't Gaussian, within the tolerance it claims."""
    solver = NaturalGradient(curvature=curvature)
    found = fit(problem.target, jaxvi.FullRank(), solver, data=problem.data_as(float))
    assert (found.status == jaxvi.Status.CONVERGED).all()
    best = problem.full
    sds = np.sqrt(np.diag(best.covariance))
    for lane in range(4):
        phi = found.lane(lane).phi
        moments = jaxvi.FullRank().moments(phi)
        assert (abs(np.asarray(moments.mean) - best.mean) / sds < 0.1).all()
        assert (abs(np.sqrt(np.asarray(moments.variance)) / sds - 1.0) < 0.1).all()


def kinked(z):
    """Independent Laplace densities: second derivatives are zero almost everywhere."""
    return 1.0 - jnp.sum(jnp.abs(z - 2.0) / 0.3)


def test_kinks_are_seen():
    """Hessians alone see no curvature and q spreads; "auto" finds the best Gaussian.

    E|z| = s sqrt(2 / pi), so that the bound is largest at s = 0.3 sqrt(pi / 2).
    """
    dim = 40  # above half the number of draws, where "auto" begins with Hessians
    target = jaxvi.Target(kinked, jaxvi.Real((dim,)))
    found = fit(target, jaxvi.MeanField(), num_restarts=2)
    assert (found.status == jaxvi.Status.CONVERGED).all()
    phi = found.lane(found.best).phi
    np.testing.assert_allclose(np.exp(phi.log_scale), 0.3 * np.sqrt(np.pi / 2), rtol=0.12)
    blind = fit(target, jaxvi.MeanField(), NaturalGradient(curvature="hessian"), num_restarts=2)
    assert (blind.status != jaxvi.Status.CONVERGED).all()


def test_far_starts_arrive():
    """A start a thousand standard deviations away, in a regression whose scale is unknown."""
    rng = np.random.default_rng(0)
    x = 60.0 + 4.0 * rng.normal(size=200)
    y = -5e4 + 1e3 * x + 2e4 * rng.normal(size=200)

    def log_density(params, data):
        r = (data["y"] - params["a"] - params["b"] * data["x"]) / params["sigma"]
        return -0.5 * jnp.sum(r * r) - len(y) * jnp.log(params["sigma"])

    target = jaxvi.Target(
        log_density, {"a": jaxvi.Real(), "b": jaxvi.Real(), "sigma": jaxvi.Positive()}
    )
    found = fit(target, data={"x": jnp.asarray(x), "y": jnp.asarray(y)})
    assert (found.status == jaxvi.Status.CONVERGED).all()
    design = np.stack([np.ones_like(x), x], 1)
    best, rss = np.linalg.lstsq(design, y, rcond=None)[:2]
    draws = found.sample(jax.random.key(1), 4_000)
    spread = np.sqrt(rss[0] / 198 * np.linalg.inv(design.T @ design)[1, 1])
    assert abs(draws["b"].mean() - best[1]) < 0.15 * spread
    assert abs(draws["b"].std() / spread - 1.0) < 0.05


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NaturalGradient(tolerance=0.0), "tolerance"),
        (lambda: NaturalGradient(num_hessians=0), "num_hessians"),
    ],
)
def test_bad_numbers(make, words):
    """A solver that can't work isn't made."""
    with pytest.raises(ValueError, match=words):
        make()


def test_only_gaussians():
    """Natural gradients of other families are not these."""
    with pytest.raises(TypeError, match="Stochastic"):
        fit(GAUSSIAN_5.target, jaxvi.StudentT(), data=GAUSSIAN_5.data_as(float))
