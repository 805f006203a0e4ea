"""Importance resampling: right masses, honest weights, no silent duplicates."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvi
from jaxvi import Status
from jaxvi._engine import History, Setup
from jaxvi.diagnostics import khat_threshold
from jaxvi.families import FullRankParams
from jaxvi.results import _resample
from jaxvi.results._fit_result import Fit, FitError, Timing
from jaxvi.results._resample import Resampled, importance_resample

MEAN, SCALE = jnp.array([3.0, -1.0]), jnp.array([0.5, 2.0])
OFFSET = 1.7
LOG_EVIDENCE = OFFSET + np.log(2.0 * math.pi * np.asarray(SCALE)).sum() - math.log(2.0 * math.pi)
MODES, SHARES = jnp.array([[-6.0, 1.0], [5.0, -2.0]]), (0.8, 0.2)


def gaussian(z: Any) -> jax.Array:
    return OFFSET - 0.5 * jnp.sum(((z - MEAN) / SCALE) ** 2)


def two_modes(z: Any) -> jax.Array:
    """Masses 0.8 and 0.2 of a total of exp(OFFSET)."""
    square = jnp.sum((z[None] - MODES) ** 2, axis=-1)
    normal = -0.5 * square - math.log(2.0 * math.pi)
    return OFFSET + jax.nn.logsumexp(normal, b=jnp.array(SHARES))


def half_space(z: Any) -> jax.Array:
    return jnp.where(z[0] > MEAN[0], gaussian(z), -jnp.inf)


def broken_corner(z: Any) -> jax.Array:
    return jnp.where(z[0] > MEAN[0] + 1.5, jnp.nan, gaussian(z))


def positive(params: Any) -> jax.Array:
    """log x ~ N(1, 1/4), as a density of x."""
    return -0.5 * ((jnp.log(params["x"]) - 1.0) / 0.5) ** 2 - jnp.log(params["x"])


GAUSSIAN = jaxvi.Target(gaussian, jaxvi.Real(2))
TWO_MODES = jaxvi.Target(two_modes, jaxvi.Real(2))


def made_fit(target: Any, lanes: list, status: Any = None, bounds: Any = None) -> Fit:
    """A fit whose lanes are the Gaussians given as (mean, scales)."""
    means, scales = (
        jnp.stack([jnp.asarray(part, float) for part in parts])
        for parts in zip(*lanes, strict=True)
    )
    num, dim = means.shape
    phi = FullRankParams(means, jnp.log(scales), jnp.zeros((num, dim, dim)))
    setup = Setup(target, jaxvi.FullRank(), jaxvi.ELBO(), jaxvi.Stochastic(), jaxvi.Fresh())
    zeros = np.zeros(num)
    return Fit(
        setup=setup,
        phi=phi,
        status=np.asarray(status if status is not None else [Status.CONVERGED] * num, np.int32),
        steps=np.zeros(num, np.int32),
        bounds=np.asarray(bounds if bounds is not None else zeros, float),
        bounds_mcse=zeros,
        difference_mcse=zeros,
        best=0,
        num_bad_draws=np.zeros(num, np.int32),
        log_weights=np.zeros(2),
        history=History(np.zeros(0, int), np.zeros((0, num))),
        timing=Timing(0.0, 0.0, 0.0),
        interrupted=False,
        key=jax.random.key(0),
    )


def test_where_q_is_the_target_every_draw_counts(key: jax.Array) -> None:
    """Equal weights: the evidence has no error, khat is low, and ess is the number of draws."""
    fit = made_fit(GAUSSIAN, [(MEAN, SCALE)] * 2)
    found = importance_resample(key, fit, 500)
    assert isinstance(found, Resampled)
    assert found.log_evidence == pytest.approx(LOG_EVIDENCE, abs=1e-4)
    assert found.log_evidence_mcse < 1e-4
    assert found.ess == pytest.approx(2_000, rel=1e-3)
    assert found.ok
    assert found.khat_limit == khat_threshold(2_000)
    assert (found.num_proposals, found.num_bad, found.lanes, found.ignored) == (
        2_000,
        0,
        (0, 1),
        {},
    )
    assert found.params.shape == found.z.shape == (500, 2)
    error = (found.z.mean(0) - MEAN) / SCALE
    assert (jnp.abs(error) < 4.0 / 500**0.5).all()
    assert "good" in repr(found)


@functools.cache
def mixed(replace: bool) -> Resampled:
    """Three lanes on the larger mode and one on the other, all somewhat wide."""
    lanes = [(MODES[0], [1.3, 1.2])] * 3 + [(MODES[1], [1.3, 1.2])]
    fit = made_fit(TWO_MODES, lanes, bounds=[1.5, 1.5, 1.5, 0.1])
    return importance_resample(jax.random.key(5), fit, 800, num_proposals=3_000, replace=replace)


@pytest.mark.parametrize("replace", [False, True])
def test_masses_of_modes_are_the_targets_and_not_the_lanes(replace: bool) -> None:
    """One lane in four is on the mode of mass 0.2; three in four are on that of 0.8."""
    found = mixed(replace)
    right = np.asarray(found.z[:, 0] > 0.0)
    assert abs(right.mean() - SHARES[1]) < 4.0 * (0.2 * 0.8 / 800) ** 0.5
    np.testing.assert_array_equal(found.lane == 3, right)  # far apart: each mode has its lanes
    assert abs(found.log_evidence - OFFSET) < 4.0 * found.log_evidence_mcse < 0.05
    assert found.ok
    spread = found.z[~right] - MODES[:1]
    assert (jnp.abs(spread.std(0) - 1.0) < 4.0 / (2.0 * (~right).sum()) ** 0.5).all()


@pytest.mark.parametrize("replace", [False, True])
def test_distinct_draws_are_counted(replace: bool) -> None:
    found = mixed(replace)
    assert found.num_unique == len(np.unique(np.asarray(found.z), axis=0))
    assert (found.num_unique == 800) != replace


def test_the_evidence_has_the_error_that_is_reported() -> None:
    """Over 150 keys, errors in units of their standard errors have mean 0 and deviation 1."""
    lanes = [(MODES[0] + 0.5, [1.4, 1.2]), (MODES[1], [1.2, 1.5])]
    fit = made_fit(TWO_MODES, lanes)
    draw = functools.partial(
        _resample._resample, setup=fit.setup, num=1, num_proposals=200, replace=True, smooth=False
    )
    keys = jax.random.split(jax.random.key(8), 150)
    drawn = jax.jit(jax.vmap(lambda key: draw(key, fit.phi, None)))(keys)
    score = np.asarray((drawn.smoothed.log_mean - OFFSET) / drawn.mcse)
    assert abs(score.mean()) < 4.0 / 150**0.5 + 0.05  # and half the variance of the logarithm
    assert 0.75 < score.std() < 1.3
    # of the evidence itself the estimate is unbiased
    ratio = np.exp(np.asarray(drawn.smoothed.log_mean) - OFFSET)
    assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std() / 150**0.5


def test_failed_lanes_are_left_out_and_recorded(key: jax.Array) -> None:
    """A lane that failed, one without a finite bound, one at its step limit, one good."""
    astray = (MEAN + 300.0, SCALE)
    status = [Status.NOT_FINITE, Status.CONVERGED, Status.STEP_LIMIT, Status.CONVERGED]
    fit = made_fit(
        GAUSSIAN, [astray, astray, (MEAN, SCALE), (MEAN, 1.2 * SCALE)], status,
        [-3.0, np.nan, 0.0, -0.1],
    )  # fmt: skip
    found = importance_resample(key, fit, 100)
    assert found.lanes == (2, 3)
    assert found.ignored == {0: Status.NOT_FINITE, 1: Status.CONVERGED}
    assert set(found.lane) <= {2, 3}
    assert found.log_evidence == pytest.approx(LOG_EVIDENCE, abs=5.0 * found.log_evidence_mcse)
    # named, they propose; what they propose has no weight
    named = importance_resample(key, fit, 100, lanes=[0, 3])
    assert named.lanes == (0, 3)
    assert set(named.lane) == {3}
    assert named.log_evidence == pytest.approx(LOG_EVIDENCE, abs=5.0 * named.log_evidence_mcse)
    with pytest.raises(FitError, match="No lane can propose"):
        importance_resample(key, made_fit(GAUSSIAN, [astray], [Status.UNBOUNDED]), 100)


def test_one_lane_a_group_where_only_distinct_ones_are_wanted(key: jax.Array) -> None:
    fit = made_fit(GAUSSIAN, [(MEAN, SCALE)] * 4, bounds=[-5.0, -1.0, -5.1, -1.05])
    assert importance_resample(key, fit, 10, lanes="distinct").lanes == (0, 1)


def test_a_narrow_q_shows_in_khat(key: jax.Array) -> None:
    """At scales of 0.4 the weights have no variance: tail shape 1 - 0.4^2 = 0.84."""
    fit = made_fit(GAUSSIAN, [(MEAN, 0.4 * SCALE)])
    found = importance_resample(key, fit, 100, num_proposals=20_000)
    assert found.khat == pytest.approx(0.84, abs=0.15)
    assert not found.ok
    assert "do not stand for" in repr(found)


def test_another_lane_mends_a_narrow_one(key: jax.Array) -> None:
    """Weighed against the mixture, its draws are as good as any."""
    fit = made_fit(GAUSSIAN, [(MEAN, 0.4 * SCALE), (MEAN, 1.1 * SCALE)])
    found = importance_resample(key, fit, 100)
    assert found.khat < 0.3
    assert found.log_evidence == pytest.approx(LOG_EVIDENCE, abs=5.0 * found.log_evidence_mcse)


def test_too_few_proposals_of_positive_weight_are_said_and_never_doubled(key: jax.Array) -> None:
    """Half of q lies where the density is zero."""
    fit = made_fit(jaxvi.Target(half_space, jaxvi.Real(2)), [(MEAN, SCALE)])
    with pytest.raises(ValueError, match=r"num: expected at most the 1000 proposals,.*got 1001"):
        importance_resample(key, fit, 1_001)
    with pytest.raises(ValueError, match="proposals with a weight above zero"):
        importance_resample(key, fit, 700)
    again = importance_resample(key, fit, 700, replace=True)
    assert again.num_unique < 700
    found = importance_resample(key, fit, 300)
    assert found.num_unique == 300
    assert (found.z[:, 0] > MEAN[0]).all()
    assert found.log_evidence == pytest.approx(
        LOG_EVIDENCE - math.log(2.0), abs=5.0 * found.log_evidence_mcse
    )
    assert found.ok  # a bounded density on part of q's support has light tails


def test_nan_is_counted_and_spoils_khat(key: jax.Array) -> None:
    fit = made_fit(jaxvi.Target(broken_corner, jaxvi.Real(2)), [(MEAN, SCALE)])
    found = importance_resample(key, fit, 100, num_proposals=20_000)
    share = 0.5 * math.erfc(3.0 / 2.0**0.5)  # beyond three standard deviations
    assert abs(found.num_bad - 20_000 * share) < 5.0 * (20_000 * share) ** 0.5
    assert found.khat == math.inf
    assert not found.ok
    assert f"{found.num_bad} proposals" in repr(found)
    assert not jnp.isnan(jax.vmap(broken_corner)(found.z)).any()
    nowhere = made_fit(jaxvi.Target(broken_corner, jaxvi.Real(2)), [(MEAN + 90.0, SCALE)])
    with pytest.raises(FitError, match="No proposal has a weight above zero"):
        importance_resample(key, nowhere, 100)


def test_parameters_are_constrained_and_belong_to_z(key: jax.Array, dtype: np.dtype) -> None:
    target = jaxvi.Target(positive, {"x": jaxvi.Positive()})
    fit = made_fit(target, [([1.0], [0.6])])
    found = importance_resample(key, fit, 400)
    assert found.params["x"].dtype == found.z.dtype == dtype
    np.testing.assert_allclose(
        found.params["x"], jax.vmap(target.constrain)(found.z)["x"], rtol=1e-6
    )
    error = jnp.log(found.params["x"]).mean() - 1.0
    assert abs(error) < 4.0 * 0.5 / 400**0.5


def test_wrong_arguments_are_refused_with_a_sentence(key: jax.Array) -> None:
    fit = made_fit(GAUSSIAN, [(MEAN, SCALE)] * 2)
    with pytest.raises(ValueError, match="num: expected a whole number of at least 1"):
        importance_resample(key, fit, 0)
    with pytest.raises(ValueError, match="num_proposals: expected a whole number"):
        importance_resample(key, fit, 10, num_proposals=-1)
    with pytest.raises(TypeError, match=r"fit: expected what jaxvi\.fit returns; got 3"):
        importance_resample(key, 3, 10)
    with pytest.raises(ValueError, match='lanes: expected "all", "distinct", or'):
        importance_resample(key, fit, 10, lanes="best")
    with pytest.raises(ValueError, match="indices from 0 to 1; got"):
        importance_resample(key, fit, 10, lanes=[0, 2])
    with pytest.raises(ValueError, match="different indices"):
        importance_resample(key, fit, 10, lanes=[0, 0])
