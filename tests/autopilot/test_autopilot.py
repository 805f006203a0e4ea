"""The default call: accurate or honest, on what usually goes wrong."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import rest_long

import jaxvi
from jaxvi.results import Fit, findings_of


@pytest.fixture(autouse=True)
def _float64(x64):
    """What is meant here is the method, not rounding."""


def banana(z):
    return -0.5 * z[0] ** 2 - 0.5 * ((z[1] - z[0] ** 2) / 0.5) ** 2


def funnel(z):
    return -0.5 * (z[0] / 3.0) ** 2 - 0.5 * jnp.sum(z[1:] ** 2) * jnp.exp(-z[0]) - z[0]


def cauchy(z):
    return -jnp.sum(jnp.log1p(z**2))


def two_modes(z):
    return jnp.logaddexp(-0.5 * jnp.sum((z - 5.0) ** 2), -0.5 * jnp.sum((z + 5.0) ** 2))


def improper(z):
    return z[0] - 0.5 * z[1] ** 2


def broken_far_out(z):
    return -0.5 * jnp.sum(z**2) + jnp.where(z[0] > 4.5, 300.0, 0.0)


def hole(z):
    return jnp.where(jnp.abs(z[0] - 1.0) < 0.1, jnp.nan, -0.5 * jnp.sum(z**2))


def near_singular(z):
    total = jnp.sum(z)
    return -0.5 * jnp.sum((z - z.mean()) ** 2) - 0.5 * (1e-4 * total) ** 2 / z.size


def one(z):
    return -0.5 * ((z[0] - 3.0) / 2.0) ** 2


def many(z):
    scales = jnp.logspace(-2.0, 2.0, z.size)
    return -0.5 * jnp.sum((z / scales) ** 2) - 0.5 * (z[0] / 0.01 - z[1]) ** 2


OK, CAUTION, FAILED = "ok", "caution", "failed"
# name: density, dimension, mean and sd of the first coordinate, what may be said of it
CASES = {
    "banana": (banana, 2, 0.0, 1.0, {OK}),
    "funnel": (funnel, 3, 0.0, 3.0, {OK, CAUTION, FAILED}),
    "cauchy": (cauchy, 2, None, None, {CAUTION, FAILED}),
    "two modes": (two_modes, 2, 0.0, math.sqrt(26.0), {CAUTION}),
    "improper": (improper, 2, None, None, {FAILED}),
    "broken far out": (broken_far_out, 2, 0.0, 1.0, {OK, CAUTION}),
    "hole": (hole, 2, None, None, {CAUTION, FAILED}),
    "near singular": (near_singular, 5, 0.0, 1e4 / math.sqrt(5.0), {OK}),
    "one dimension": (one, 1, 3.0, 2.0, {OK}),
    "150 dimensions": (many, 150, 0.0, 0.01 / math.sqrt(2.0), {OK}),
    "500 dimensions": (many, 500, 0.0, 0.01 / math.sqrt(2.0), {OK}),
}


@functools.cache
def fitted(name, seed=0, **kwargs) -> Fit:
    """Fits aren't changed: tests share them."""
    density, dim = CASES[name][:2]
    target = jaxvi.Target(density, jaxvi.Real((dim,)))
    return jaxvi.fit(jax.random.key(seed), target, progress=False, **kwargs)


@pytest.mark.parametrize("name", rest_long(CASES, lambda name: name != "500 dimensions"))
def test_hard_cases_are_right_or_flagged(name):
    """What is said, and where it is "ok" the draws are right."""
    _, dim, mean, sd, allowed = CASES[name]
    fit = fitted(name)
    assert fit.verdict in allowed, fit
    assert len(fit.reasons) >= 1
    assert fit.log
    draws = np.asarray(fit.sample_unconstrained(jax.random.key(1), 4_000))
    assert draws.shape == (4_000, dim)
    if mean is not None and (fit.verdict == OK or (fit.verdict == CAUTION and name != "funnel")):
        assert abs(draws[:, 0].mean() - mean) < 0.12 * sd
        assert abs(draws[:, 0].std() / sd - 1.0) < 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_the_tail_of_a_banana_is_kept(seed):
    """More than half of the variance of z[1] = z[0]^2 + noise lies where one draw in 20 falls."""
    fit = fitted("banana", seed)
    assert fit.verdict == OK
    draws = np.asarray(fit.sample_unconstrained(jax.random.key(1), 20_000))
    assert abs(draws[:, 1].std() / 1.5 - 1.0) < 0.08


def test_a_restart_that_ends_high_where_nothing_is_finite():
    """It is no optimum that others failed to reach, and the verdict tells of it."""
    fit = fitted("one dimension", polish=False)
    lost = (fit.best + 3) % fit.num_restarts
    status, bounds = fit.status.copy(), fit.bounds.copy()
    status[lost], bounds[lost] = jaxvi.Status.NOT_FINITE, bounds[lost] + 600.0
    broken = dataclasses.replace(fit, status=status, bounds=bounds)
    seen = findings_of(broken)
    assert (seen.broken_above, seen.lanes_at_best) == (1, 15)
    told = dataclasses.replace(broken, findings=seen)
    assert told.verdict == CAUTION
    assert "ended higher than the best one" in told.reasons[0]


def oblique_modes(z):
    """Weights 0.7 and 0.3, 10 sds apart along the diagonal of ten coordinates: 3.2 in each."""
    at = 5.0 / math.sqrt(10.0)
    one, other = (-0.5 * jnp.sum((z - sign * at) ** 2) for sign in (1.0, -1.0))
    return jnp.logaddexp(one + math.log(0.7), other + math.log(0.3))


def test_modes_that_no_single_coordinate_tells_apart():
    """Half of the restarts end in the mode with the lower bound: no agreement of the others."""
    fit = jaxvi.fit(jax.random.key(0), jaxvi.Target(oblique_modes, jaxvi.Real((10,))))
    assert fit.findings.modes == 2
    along = np.asarray(fit.sample_unconstrained(jax.random.key(1), 4_000)).mean(axis=1)
    assert abs((along > 0.0).mean() - 0.7) < 0.05


def far_mode(z):
    """Weights 0.7 at the origin, 0.3 ten units away."""
    far = z - jnp.array([8.0, -6.0])
    near = -0.5 * jnp.sum(z**2) + math.log(0.7)
    return jnp.logaddexp(near, -0.5 * jnp.sum(far**2) + math.log(0.3))


def test_some_starts_are_far_out():
    """A mode beyond the reach of starts of scale 3 is found by most keys."""
    target = jaxvi.Target(far_mode, jaxvi.Real((2,)))
    fits = [jaxvi.fit(jax.random.key(k), target, effort="quick", polish=False) for k in range(6)]
    assert sum(fit.findings.modes == 2 for fit in fits) >= 4


def test_modes_are_told_and_weighted():
    """Both modes in the draws, in equal shares; q is a mixture."""
    fit = fitted("two modes")
    draws = np.asarray(fit.sample_unconstrained(jax.random.key(1), 4_000))[:, 0]
    assert abs((draws > 0.0).mean() - 0.5) < 0.05
    assert "2 separate modes" in " ".join(fit.reasons)
    assert isinstance(fit.q.family, jaxvi.Mixture)
    assert any(stage.name == "modes" for stage in fit.log)


def test_q_stays_and_sample_is_better():
    """Without flow or chains q is a Gaussian that the banana isn't; the draws are mended."""
    plain = fitted("banana", effort="quick", polish=False)
    assert plain.corrected_draws is None
    mended = fitted("banana", effort="quick")
    assert isinstance(mended.q.family, jaxvi.FullRank)
    assert mended.corrected_draws is not None
    z = np.asarray(mended.sample_unconstrained(jax.random.key(2), 2_000))
    assert abs(z[:, 1].mean() - 1.0) < 0.15 * math.sqrt(2.25)


def test_a_named_part_switches_the_autopilot_off():
    """No log, one family, the verdict from weights alone."""
    target = jaxvi.Target(one, jaxvi.Real((1,)))
    fit = jaxvi.fit(jax.random.key(0), target, solver=jaxvi.NaturalGradient(), progress=False)
    assert fit.log == ()
    assert fit.findings is None
    assert fit.verdict == "ok"
    assert "by weights" in fit.reasons[0]


def test_chains_can_be_asked_for_and_forbidden():
    """polish=True runs them over the best q; False leaves a bad one, and says so."""
    asked = fitted("one dimension", polish=True)
    assert asked.corrected_draws is not None
    assert asked.corrected_draws.by == "chains"
    forbidden = fitted("banana", effort="quick", polish=False)
    assert forbidden.verdict == "failed"
    assert "polish=True" in " ".join(forbidden.reasons)


def test_a_budget_is_kept_and_told():
    """No seconds: the Gaussian's first chunk, and a word that it was stopped."""
    fit = fitted("150 dimensions", max_seconds=0.01)
    assert fit.interrupted
    assert fit.verdict != "ok"
    assert "interrupted" in " ".join(fit.reasons)


def test_the_same_key_gives_the_same_fit():
    """Every stage draws from the key alone."""
    a, b = fitted("banana"), fitted.__wrapped__("banana")
    np.testing.assert_array_equal(
        a.sample_unconstrained(jax.random.key(3), 50), b.sample_unconstrained(jax.random.key(3), 50)
    )
    assert a.reasons == b.reasons
    flow = next(stage for stage in a.log if stage.name == "flow")
    assert flow.bound > flow.bound_before
    assert str(flow).count(" +- ") == 2  # of the bound before and after


@pytest.mark.parametrize(
    ("argument", "value"),
    [("effort", "high"), ("polish", "yes"), ("max_seconds", -1.0), ("num_restarts", 0)],
)
def test_what_cannot_be_used_is_told(argument, value):
    """At the door, with what was expected."""
    with pytest.raises(ValueError, match=argument):
        fitted("one dimension", **{argument: value})


def test_the_report_holds_verdict_and_stages():
    """Printing a fit shows both."""
    text = repr(fitted("one dimension"))
    assert "verdict   ok" in text
    assert "gaussian" in text
    assert dataclasses.is_dataclass(Fit)
