"""Targets in two parts: the same density as in one, and what is refused at the door."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import regression
from regression import TARGET, log_density, log_likelihood, log_prior, rows, summed

import jaxvi
from jaxvi.target._likelihood import check_additive, num_rows

ROWS = rows(50)
plain_fit = inspect.unwrap(jaxvi.fit)


def of(likelihood, *, how=None, prior=log_prior):
    return jaxvi.Target(
        log_prior=prior, log_likelihood=likelihood, likelihood=how, supports=jaxvi.Real(3)
    )


def test_two_parts_make_the_density_of_one(dtype, key):
    """By rows or summed: log prior plus log likelihood, and its gradient."""
    data = rows(50, dtype)
    whole = jaxvi.Target(log_density, jaxvi.Real(3))
    z = jax.random.normal(key, (3,), dtype)
    for target in (of(log_likelihood), of(summed), of(summed, how="sum")):
        assert target.check(data) == dtype
        found = jax.value_and_grad(target.log_prob)(z, data)
        wanted = jax.value_and_grad(whole.log_prob)(z, data)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=100 * np.finfo(dtype).eps)


def test_a_scaled_target_takes_the_scale_and_some_rows(x64):
    """The prior and the Jacobian count once, the rows' log likelihood as often as the scale."""

    def prior(rate):
        return -rate

    def poisson(rate, counts):
        return counts * jnp.log(rate) - rate

    target = jaxvi.Target(log_prior=prior, log_likelihood=poisson, supports=jaxvi.Positive())
    z, counts = jnp.log(2.0)[None], jnp.asarray([3.0, 5.0])
    found = target.scaled.log_prob(z, (jnp.asarray(10.0), counts))
    wanted = -2.0 + 10.0 * (8.0 * np.log(2.0) - 4.0) + np.log(2.0)
    assert float(found) == pytest.approx(wanted, rel=1e-14)


def test_equal_parts_are_an_equal_target():
    """Frozen, hashable, equal by value: programs are shared."""
    assert of(log_likelihood) == TARGET
    assert hash(of(log_likelihood)) == hash(TARGET)
    assert of(summed) != TARGET
    assert of(log_likelihood).scaled == TARGET.scaled
    assert TARGET.has_rows
    assert not jaxvi.Target(log_density, jaxvi.Real(3)).has_rows


def test_the_autopilot_takes_two_parts():
    """As a log density; the posterior is the exact one."""
    fit = jaxvi.fit(jax.random.key(1), TARGET, data=ROWS, num_restarts=2, progress=False)
    exact = regression.posterior(ROWS)
    assert fit.bound == pytest.approx(exact.log_evidence, abs=2e-3)
    assert max(regression.errors(fit, exact)) < 2e-3


def test_a_model_may_have_its_own_start():
    """Of the rows alone, in the scaled target too."""

    def start(key, data):
        return jnp.full(3, data[1].mean())

    target = jaxvi.Target(
        log_prior=log_prior, log_likelihood=log_likelihood, supports=jaxvi.Real(3), start=start
    )
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        target.scaled.draw_start(key, (jnp.float32(2.0), ROWS)), target.draw_start(key, ROWS)
    )


def mean(slopes, data):
    return log_likelihood(slopes, data).mean()


def with_prior(slopes, data):
    return log_prior(slopes) + summed(slopes, data)


def scaled_by_hand(slopes, data):
    return 10_000 / len(data[1]) * log_likelihood(slopes, data)


def centred(slopes, data):
    x, y = data
    return log_likelihood(slopes, (x, y - y.mean()))


def autoregressive(slopes, data):
    _, y = data
    return -0.5 * jnp.sum((y[1:] - slopes[0] * y[:-1]) ** 2)


BAD = {
    "a mean": (of(mean), "doubles when the data are doubled"),
    "the prior twice": (of(with_prior), "doubles when the data are doubled"),
    "rows that follow each other": (of(autoregressive), "doubles|a sum over rows, each by itself"),
    "scaled by hand": (of(scaled_by_hand), "depends on that row alone"),
    "centred by its rows": (of(centred), "depends on that row alone"),
    "a sum, not rows": (of(summed, how="rows"), r"give shape \(50,\)"),
    "rows, not a sum": (of(log_likelihood, how="sum"), r"give shape \(\), "),
    "a matrix": (of(lambda p, d: d[0] * p[None]), r"\(50,\) or \(\).*got shape \(50, 3\)"),
    "a prior of vectors": (of(log_likelihood, prior=lambda p: p), "log_prior to give a scalar"),
    "an error inside": (of(lambda p, d: d[0].T @ p), "expected log_likelihood to run"),
}


@pytest.mark.parametrize("case", BAD)
def test_likelihoods_that_are_no_sums_over_rows_are_refused(case):
    """At the door of `fit`, with a sentence."""
    target, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        plain_fit(jax.random.key(0), target, data=ROWS, progress=False)


def test_rounding_is_no_reason_to_refuse(dtype):
    """Far off, where log likelihoods of rows differ by orders of magnitude."""
    x, y = rows(1_000, dtype)
    y[::2] *= 1_000.0
    for likelihood in (log_likelihood, summed):
        check_additive(of(likelihood), (x, y), dtype)
    with pytest.raises(ValueError, match="doubles"):
        check_additive(of(mean), (x, y), dtype)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"log_prior": log_prior}, TypeError, "no log_likelihood"),
        ({"log_likelihood": log_likelihood}, TypeError, "no log_prior"),
        (
            {
                "log_prior": log_prior,
                "log_likelihood": log_likelihood,
                "log_density": log_density,
            },
            TypeError,
            "got all three",
        ),
        (
            {"log_prior": log_prior, "log_likelihood": log_likelihood, "likelihood": "mean"},
            ValueError,
            "Target.likelihood: expected one of 'rows', 'sum', None",
        ),
        ({"log_prior": log_prior, "log_likelihood": 3}, TypeError, "log_likelihood as a function"),
        ({}, TypeError, "log_prior= and log_likelihood="),
    ],
)
def test_parts_that_do_not_make_a_target(arguments, error, words):
    with pytest.raises(error, match=words):
        jaxvi.Target(supports=jaxvi.Real(3), **arguments)


def test_rows_are_the_leading_axis_that_all_leaves_share():
    assert num_rows({"x": np.zeros((7, 2)), "y": np.zeros(7)}) == 7
    for bad in (None, np.zeros(()), (np.zeros(3), np.zeros(4)), (np.zeros(3), 1.0), np.zeros(0)):
        with pytest.raises(ValueError, match="one row for each observation"):
            num_rows(bad)
    with pytest.raises(TypeError, match="data for the log_likelihood"):
        TARGET.check()
