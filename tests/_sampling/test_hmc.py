"""Chains leave a posterior as it is and take draws of anything else to it, saying how far."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvi
from jaxvi._sampling.hmc import advance_chains, start_chains
from jaxvi.diagnostics import compare, drift_from, importance_weights, short_chains
from jaxvi.families import FullRank, FullRankParams, MeanField

CENTRE = jnp.array([1.0, -2.0, 30.0])
FACTOR = jnp.array([[1.0, 0.0, 0.0], [1.8, 0.5, 0.0], [-2.0, 3.0, 10.0]])


def gaussian(z):
    r = jax.scipy.linalg.solve_triangular(FACTOR.astype(z.dtype), z - CENTRE, lower=True)
    return -0.5 * r @ r


TARGET = jaxvi.Target(gaussian, jaxvi.Real((3,)))


def q(shift=0.0, stretch=1.0):
    """The posterior, moved by so many sds along every axis, or too wide or narrow."""
    factor = stretch * FACTOR
    loc = CENTRE + shift * jnp.linalg.norm(FACTOR, axis=1)
    return FullRankParams(loc, jnp.log(jnp.diagonal(factor)), jnp.tril(factor, -1))


def run(target, z, scale, num):
    chains = start_chains(target, z, scale, None, num_kept=num)
    keys = jax.random.split(jax.random.key(2))
    chains, _ = advance_chains(keys[0], chains, scale, None, target=target, num_kept=num)
    return advance_chains(keys[1], chains, scale, None, target=target, num_kept=10)


@pytest.mark.parametrize("scale", [FACTOR, jnp.linalg.norm(FACTOR, axis=1)], ids=["dense", "sds"])
def test_chains_find_a_gaussian_from_afar(scale, dtype):
    """Mean and covariance from starts 3 sds off, at the acceptance that is asked for."""
    start = (CENTRE + 30.0)[None] + jax.random.normal(jax.random.key(1), (400, 3), dtype)
    chains, z = run(TARGET, start, scale.astype(dtype), 60)
    z = np.asarray(z.reshape(-1, 3))
    sd = np.linalg.norm(FACTOR, axis=1)
    assert (abs(z.mean(0) - CENTRE) < 0.15 * sd).all()
    assert (abs(z.std(0) / sd - 1.0) < 0.1).all()
    assert abs(float(chains.acceptance) - 0.8) < 0.1


def test_a_wall_and_a_hole_are_not_entered(dtype):
    """-inf below zero, NaN in a strip; starts there come out, no state is ever in them."""

    def walled(z):
        inside = jnp.where(jnp.abs(z[0] - 2.0) < 0.3, jnp.nan, -z[0])
        return jnp.where(z[0] < 0.0, -jnp.inf, inside)

    target = jaxvi.Target(walled, jaxvi.Real((1,)))
    start = jnp.linspace(-1.0, 4.0, 200, dtype=dtype)[:, None]
    chains, z = run(target, start, jnp.ones(1, dtype), 40)
    assert np.isfinite(chains.value).all()
    assert (np.asarray(z) >= 0.0).all()
    assert (abs(np.asarray(z) - 2.0) >= 0.3).all()


def test_what_is_right_does_not_move():
    """No clear drift, weights all alike; parameters on a curved scale included."""
    target = jaxvi.Target(lambda p: -0.5 * p**2 + 0.0, jaxvi.Real())
    exact = MeanField().init(jax.random.key(0), 1, start=jnp.zeros(1))
    exact = exact._replace(log_scale=jnp.zeros(1))
    moved = short_chains(jax.random.key(3), target, MeanField(), exact)
    assert max(moved.drift.at_least()) < 0.02
    assert max(moved.drift.at_most()) < 0.2
    assert moved.num_bad == 0
    weighed = importance_weights(jax.random.key(4), TARGET, FullRank(), q())
    assert weighed.relative_ess > 0.999
    assert weighed.ok
    assert max(weighed.drift.at_most()) < 0.01


@pytest.mark.parametrize(
    ("change", "mean", "log_sd"),
    [
        ({"shift": 0.5}, 0.5, 0.0),
        ({"stretch": 0.5}, 0.0, np.log(2.0)),
        ({"stretch": 2.0}, 0.0, -np.log(2.0)),
    ],
)
def test_what_is_wrong_moves_as_far_as_it_is_wrong(change, mean, log_sd):
    """Drifts are in q's sds, within their standard errors of the truth; weights agree."""
    phi = q(**change)
    moved = short_chains(jax.random.key(5), TARGET, FullRank(), phi, num_chains=1_000).drift
    stretch = change.get("stretch", 1.0)
    for drift in (moved.mean, moved.mean_mcse, moved.log_sd, moved.log_sd_mcse):
        assert drift.shape == (6,)
    assert (abs(abs(moved.mean) - mean / stretch) < 5.0 * moved.mean_mcse + 0.02).all()
    assert (abs(moved.log_sd - log_sd) < 5.0 * moved.log_sd_mcse + 0.02).all()
    assert max(moved.at_least()) > 0.3
    assert (moved.start_correlation < 0.2).all()


def test_error_bars_of_chains_cover():
    """Over 20 keys, drifts of a right q are mostly within two standard errors of zero."""
    drifts = [short_chains(jax.random.key(s), TARGET, FullRank(), q()).drift for s in range(20)]
    scores = np.stack([d.mean / d.mean_mcse for d in drifts])
    spreads = np.stack([d.log_sd / d.log_sd_mcse for d in drifts])
    for ratio in (scores, spreads):
        assert 0.6 < ratio.std() < 1.4
        assert abs(ratio.mean()) < 0.5


def test_heavier_draws_that_overflow_leave_no_trace():
    """The square of exp(z) is infinite where the density is zero: errors of the rest are told."""
    target = jaxvi.Target(lambda x: -x, jaxvi.Positive())
    phi = FullRank().init_gaussian(jax.random.key(0), jnp.zeros(1), jnp.full((1, 1), 20.0))
    weighed = importance_weights(jax.random.key(1), target, FullRank(), phi, heavy_tailed=True)
    assert np.isfinite(weighed.params).all()
    assert np.isfinite(weighed.error.mean_mcse).all()
    assert np.isfinite(weighed.error.log_sd_mcse).all()


def test_heavier_draws_are_of_the_same_posterior_and_see_further():
    """Weights of a q too narrow: its own draws miss the tails, heavier ones tell the right sds."""
    phi = q(stretch=0.7)
    plain = importance_weights(jax.random.key(4), TARGET, FullRank(), phi)
    heavier = importance_weights(jax.random.key(4), TARGET, FullRank(), phi, heavy_tailed=True)
    assert heavier.khat < plain.khat
    assert heavier.ok
    share = np.exp(heavier.log_weights - heavier.log_weights.max())
    share /= share.sum()
    mean = share @ heavier.z
    sd = np.sqrt(share @ (heavier.z - mean) ** 2)
    truth = np.linalg.norm(FACTOR, axis=1)
    assert (abs(mean - CENTRE) < 0.06 * truth).all()
    assert (abs(sd / truth - 1.0) < 0.06).all()
    constant = -0.5 * np.log(np.linalg.det(2.0 * np.pi * np.asarray(FACTOR @ FACTOR.T, float)))
    assert abs(np.log(np.mean(np.exp(heavier.log_weights))) + constant) < 0.05


def test_heavier_draws_see_the_tail_of_one_coordinate(x64):
    """An exponential tail, beyond a Gaussian of the same mode: q's own draws understate its sd."""
    dim, rate = 10, 1.2

    def tailed(z):
        body = -0.5 * jnp.sum(z**2)
        return body + jnp.where(z[0] < -rate, 0.5 * (z[0] + rate) ** 2, 0.0)

    target = jaxvi.Target(tailed, jaxvi.Real((dim,)))
    phi = FullRankParams(jnp.zeros(dim), jnp.zeros(dim), jnp.zeros((dim, dim)))
    grid = np.linspace(-40.0, 10.0, 200_001)
    density = np.exp(-0.5 * grid**2 + np.where(grid < -rate, 0.5 * (grid + rate) ** 2, 0.0))
    density /= density.sum()
    mean = density @ grid
    log_sd = 0.5 * np.log(density @ (grid - mean) ** 2)
    plain = importance_weights(jax.random.key(4), target, FullRank(), phi)
    heavier = importance_weights(jax.random.key(4), target, FullRank(), phi, heavy_tailed=True)
    drift = drift_from(plain, heavier)
    assert heavier.relative_ess > 0.7
    assert abs(drift.log_sd[0] - log_sd) < 3.0 * drift.log_sd_mcse[0] + 0.02
    assert abs(drift.mean[0] - mean) < 3.0 * drift.mean_mcse[0] + 0.02
    others = np.r_[1:dim, dim + 1 : 2 * dim]  # z, and the parameters, which are the same
    assert (abs(drift.log_sd[others]) < 4.0 * drift.log_sd_mcse[others] + 0.01).all()
    # what q's own weights say is further off than they know
    assert log_sd - plain.drift.log_sd[0] > 0.05


def test_heavier_needs_a_normal_base():
    """A family with another base is refused at the door."""
    family = jaxvi.StudentT()
    phi = family.init(jax.random.key(0), 3)
    with pytest.raises(TypeError, match="heavy_tailed: expected a FullRank"):
        importance_weights(jax.random.key(1), TARGET, family, phi, heavy_tailed=True)


def test_one_chain_far_out_is_no_memory():
    """It stays where it was, and the others forget."""
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 500, 3))
    start[0], end[0] = 1e3, 1e3
    pool = jnp.asarray(rng.normal(size=(8_000, 3)))
    drift = compare(TARGET, pool, jnp.asarray(start), jnp.asarray(end)[None])
    assert drift.start_correlation.max() < 0.15
    stuck = compare(TARGET, pool, jnp.asarray(start), jnp.asarray(start)[None])
    assert stuck.start_correlation.min() > 0.9


def test_what_never_changes_has_no_memory():
    """The first entry of a correlation matrix's factor is 1 in every draw."""
    target = jaxvi.Target(lambda p: 0.0, jaxvi.CholeskyCorrelation(2))
    start, end, pool = (
        jax.random.normal(jax.random.key(i), (n, 1)) for i, n in enumerate((500, 500, 8_000))
    )
    drift = compare(target, pool, start, end[None])
    assert drift.start_correlation.max() < 0.15


def test_bad_draws_are_counted():
    """A q that reaches into where the density is not finite."""
    target = jaxvi.Target(lambda z: jnp.where(z > 1.0, jnp.nan, -0.5 * z**2), jaxvi.Real())
    phi = (
        MeanField().init(jax.random.key(0), 1, start=jnp.zeros(1))._replace(log_scale=jnp.zeros(1))
    )
    moved = short_chains(jax.random.key(6), target, MeanField(), phi)
    weighed = importance_weights(jax.random.key(6), target, MeanField(), phi)
    assert 40 < moved.num_bad < 130
    assert 0.12 < weighed.bad_share < 0.2
    assert not weighed.ok
