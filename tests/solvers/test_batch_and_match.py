"""Batch and match: exact on Gaussians in both families, never at peace on a saddle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import GAUSSIAN_5
from test_natural_gradient import ill_conditioned

import jaxvi
from jaxvi.solvers import BatchAndMatch
from jaxvi.solvers._batch_and_match import _centred, _match_dense


@pytest.fixture(autouse=True)
def _float64(x64):
    """All of this file is about exact answers."""


def fit(target, family=None, **kwargs):
    kwargs = {"num_restarts": 4, "max_steps": 2_000, "progress": False} | kwargs
    return jaxvi.fit(jax.random.key(2), target, family, solver=BatchAndMatch(), **kwargs)


def test_ill_conditioned_gaussian():
    """Condition 1e4, dimension 30, from random starts."""
    target, mean, covariance, _ = ill_conditioned()
    found = fit(target, jaxvi.FullRank())
    assert (found.status == jaxvi.Status.CONVERGED).all()
    sds = np.sqrt(np.diag(covariance))
    phi = found.lane(found.best).phi
    assert abs((np.asarray(phi.loc) - mean) / sds).max() < 1e-3
    q = np.asarray(jaxvi.FullRank().covariance(phi))
    assert abs(q - covariance).max() / np.outer(sds, sds).max() < 5e-3
    assert abs(np.diag(q) / np.diag(covariance) - 1.0).max() < 5e-3


def test_the_update_solves_its_equation():
    """S' U S' + S' = V, and the mean's formula, as published."""
    rng = np.random.default_rng(0)
    dim, num, strength = 4, 10, 7.0
    lower = np.tril(rng.normal(size=(dim, dim))) + 3.0 * np.eye(dim)
    mean = rng.normal(size=dim)
    z = mean + rng.normal(size=(num, dim)) @ lower.T
    g = -(z - 1.0) @ np.diag([1.0, 2.0, 0.5, 3.0])
    family = jaxvi.FullRank()
    phi = family.init_gaussian(jax.random.key(0), jnp.asarray(mean), jnp.asarray(lower))
    batch = _centred(jnp.asarray(z - mean), jnp.asarray(g))
    moved, _ = _match_dense(phi, batch, jnp.asarray(strength), jnp.asarray(1e6))
    sigma, part = lower @ lower.T, strength / (1.0 + strength)
    zbar, gbar = z.mean(0), g.mean(0)
    u = strength * np.cov(g.T, bias=True) + part * np.outer(gbar, gbar)
    v = sigma + strength * np.cov(z.T, bias=True) + part * np.outer(mean - zbar, mean - zbar)
    new = np.asarray(family.covariance(moved))
    np.testing.assert_allclose(new @ u @ new + new, v, rtol=1e-9)
    expected = mean / (1.0 + strength) + part * (new @ gbar + zbar)
    np.testing.assert_allclose(moved.loc, expected, rtol=1e-9)


def test_low_rank_in_hundreds_of_dimensions():
    """Correlated dimensions beyond a dense covariance's use; moments of the known Gaussian."""
    rng = np.random.default_rng(3)
    dim, rank = 200, 3
    factor = jnp.asarray(rng.normal(size=(dim, rank)))
    diagonal = jnp.asarray(np.exp(0.5 * rng.normal(size=dim)))
    mean = jnp.asarray(4.0 + rng.normal(size=dim))
    inner = jnp.eye(rank) + factor.T @ (factor / diagonal[:, None])

    def log_density(z):
        r = (z - mean) / diagonal
        back = factor.T @ r
        square = r @ (z - mean) - back @ jnp.linalg.solve(inner, back)
        return 3.0 - 0.5 * square

    found = fit(jaxvi.Target(log_density, jaxvi.Real((dim,))), jaxvi.LowRank(5), num_restarts=2)
    assert (found.status == jaxvi.Status.CONVERGED).all()
    phi = found.lane(found.best).phi
    moments = jaxvi.LowRank(5).moments(phi)
    sds = np.sqrt(np.asarray(diagonal + jnp.sum(factor**2, axis=-1)))
    assert (abs(np.asarray(moments.mean - mean)) / sds < 0.1).all()
    assert (abs(np.sqrt(np.asarray(moments.variance)) / sds - 1.0) < 0.1).all()


def test_a_saddle_is_left():
    """Between two wells scores look as on a peak, but for their sign; lanes started there leave."""

    def wells(z):
        return 2.0 - (z[0] ** 2 - 9.0) ** 2 / 18.0 - 0.5 * (z[1] - 1.0) ** 2

    target = jaxvi.Target(wells, jaxvi.Real((2,)))
    found = fit(target, jaxvi.FullRank(), start=jnp.array([0.01, 1.0]), start_scale=0.01)
    ended = found.status == jaxvi.Status.CONVERGED
    centres = np.asarray(found.phi.loc)[:, 0]
    # either one well or all of both, never the narrow top between them
    scales = np.exp(np.asarray(found.phi.log_diag)[:, 0])
    good = (abs(abs(centres) - 2.9) < 0.3) | (scales > 2.0)
    assert good[ended].all()
    assert ended.any()


def test_only_families_with_covariances():
    """An independent q has nothing to match, and one draw no covariance."""
    target, data = GAUSSIAN_5.target, GAUSSIAN_5.data_as(float)
    with pytest.raises(TypeError, match="NaturalGradient"):
        fit(target, jaxvi.MeanField(), data=data)
    one = {"objective": jaxvi.ELBO(1), "noise": jaxvi.Fresh()}
    with pytest.raises(ValueError, match="at least 2 draws"):
        fit(target, jaxvi.FullRank(), data=data, **one)
    with pytest.raises(ValueError, match="tolerance"):
        BatchAndMatch(tolerance=-1.0)
