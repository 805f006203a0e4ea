"""The entry: what it refuses, what it returns, what it never compiles twice."""

import dataclasses
import inspect
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvi
from jaxvi import Status
from jaxvi._fitting import Request, RunOptions, checked, fit_restarts

KEY = jax.random.key(5)
ROWS = np.random.default_rng(0).normal([2.0, -7.0], [0.5, 3.0], (40, 2)).astype(np.float32)


def log_density(params, data):
    """Normal rows with unknown mean and scales, proper priors."""
    r = (data - params["mean"][None]) / params["scale"][None]
    likelihood = -0.5 * jnp.sum(r * r) - data.shape[0] * jnp.log(params["scale"]).sum()
    return likelihood - jnp.sum(params["mean"] ** 2) / 200 - params["scale"].sum() / 10


TARGET = jaxvi.Target(log_density, {"mean": jaxvi.Real((2,)), "scale": jaxvi.Positive((2,))})
QUICK = {"num_restarts": 2, "max_steps": 50, "progress": False, "num_eval_draws": 50}


# users have no type checker at run time: the door itself must find what is wrong
plain_fit = inspect.unwrap(jaxvi.fit)


def quick(target=TARGET, data=ROWS, key=KEY, family=None, **options):
    return plain_fit(
        key, target, family, data=data, **{"solver": jaxvi.Stochastic(), **QUICK, **options}
    )


def target_of(function):
    return jaxvi.Target(function, {"mean": jaxvi.Real((2,)), "scale": jaxvi.Positive((2,))})


START = {"mean": np.zeros(2, np.float32), "scale": np.ones(2, np.float32)}


@dataclasses.dataclass(frozen=True)
class Odd(jaxvi.MeanField):
    """A family with a field that may be unhashable."""

    numbers: object = ()


BAD = {
    "vector": (
        lambda: quick(target_of(lambda p, d: (d - p["mean"][None]).sum(0))),
        ValueError,
        "scalar",
    ),
    "start shape": (
        lambda: quick(start={**START, "mean": np.zeros(3, np.float32)}),
        ValueError,
        r"shape \(2,\).*mean",
    ),
    "start outside": (
        lambda: quick(start={**START, "scale": -np.ones(2, np.float32)}),
        ValueError,
        "scale.*positive",
    ),
    "start integers": (
        lambda: quick(start={**START, "mean": np.zeros(2, int)}),
        TypeError,
        "integers",
    ),
    "one lane's start outside": (
        lambda: quick(
            start={
                "mean": np.zeros((2, 2), np.float32),
                "scale": np.float32([[1.0, 1.0], [1.0, -1.0]]),
            }
        ),
        ValueError,
        "scale.*positive",
    ),
    "nan everywhere": (
        lambda: quick(target_of(lambda p, d: jnp.nan * p["mean"].sum())),
        ValueError,
        "finite.*2 restarts",
    ),
    "nan in data": (
        lambda: quick(data=np.where(ROWS > 2, np.nan, ROWS)),
        ValueError,
        "entries that are not finite",
    ),
    "wrong axis": (lambda: quick(data=ROWS.T.copy()), ValueError, "wrong axis"),
    "no data": (lambda: quick(data=None), TypeError, "without data"),
    "text data": (lambda: quick(data=np.array(["a"])), TypeError, "numbers"),
    "no restarts": (lambda: quick(num_restarts=0), ValueError, "num_restarts.*at least 1"),
    "half a restart": (lambda: quick(num_restarts=1.5), ValueError, "whole number"),
    "no steps": (lambda: quick(max_steps=0), ValueError, "max_steps"),
    "no spread": (lambda: quick(start_scale=0.0), ValueError, "start_scale"),
    "too few spreads": (lambda: quick(start_scale=np.ones(3)), ValueError, "one for each"),
    "seed for key": (lambda: quick(key=0), TypeError, r"jax\.random\.key\(0\)"),
    "many keys": (lambda: quick(key=jax.random.split(KEY)), TypeError, "one JAX random key"),
    "a class": (lambda: quick(family=jaxvi.MeanField), TypeError, "class MeanField"),
    "a function": (lambda: quick(log_density), TypeError, "Target"),
    "odd draws": (
        lambda: quick(objective=jaxvi.ELBO(5), noise=jaxvi.Antithetic()),
        ValueError,
        "even",
    ),
    "twelve draws": (
        lambda: quick(objective=jaxvi.ELBO(12), noise=jaxvi.Sobol()),
        ValueError,
        "8 or 16",
    ),
    "arrays in a spec": (
        lambda: quick(family=dataclasses.replace(Odd(), numbers=[1.0])),
        TypeError,
        "hashable",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_its_sentence(case):
    """Each wrong input is refused before compiling, with words that name it."""
    make, error, words = BAD[case]
    with pytest.raises(error, match=words):
        make()


def test_mixed_dtypes_are_refused():
    """With float64 on, float32 data and a float64 start don't mix silently."""
    with jax.enable_x64(True):
        with pytest.raises(TypeError, match="float32 like the data; got float64"):
            quick(start={"mean": np.zeros(2), "scale": np.ones(2)})
        with pytest.raises(TypeError, match="one floating dtype"):
            quick(target_of(lambda p, d: d["a"].sum()), {"a": ROWS, "b": ROWS.astype(float)})


def test_starts_by_lane_are_looked_at_one_by_one():
    """Weights that don't sum to one are refused for the lane that has them."""

    def dirichlet(weights):
        return jnp.sum(jnp.log(weights))

    weights = np.float32([[0.2, 0.3, 0.5], [0.2, 0.3, 0.6]])
    with pytest.raises(ValueError, match="inside its support"):
        quick(jaxvi.Target(dirichlet, jaxvi.Simplex((3,))), None, start=weights)
    found = quick(
        jaxvi.Target(dirichlet, jaxvi.Simplex((3,))), None, start=weights[:1].repeat(2, 0)
    )
    assert np.isfinite(found.bounds).all()


def test_raw_keys_are_taken():
    """A raw uint32 key is the typed key it stands for."""
    raw, typed = quick(key=jax.random.PRNGKey(3)), quick(key=jax.random.key(3))
    np.testing.assert_array_equal(raw.bounds, typed.bounds)


def test_nothing_is_traced_twice():
    """New data of the same shape, a new seed and an equal spec trace and compile nothing new."""
    traces = []

    def counted(params, data):
        traces.append(1)
        return log_density(params, data)

    def go(seed, data):
        solver = jaxvi.Stochastic(optax.adam, learning_rate=0.02)
        found = quick(target_of(counted), data, jax.random.key(seed), solver=solver)
        return found.sample(KEY, 10)

    go(0, ROWS)
    first = len(traces)
    # the check at the door, the start, the gradient, the comparison of averages, the ranking
    assert first <= 5
    go(1, ROWS + 1)
    go(2, 2 * ROWS)
    assert len(traces) - first <= 2  # the door's check on shapes alone, which compiles nothing
    with jax.log_compiles(False):
        compiled = quick(target_of(counted), ROWS + 2, solver=jaxvi.Stochastic(learning_rate=0.02))
    assert compiled.timing.compile_seconds < 0.1


def test_posterior_of_a_conjugate_mean():
    """Normal rows of known scale with a normal prior: bound, mean and sd are the exact ones."""
    data = ROWS[:, 0]
    precision = data.size / 0.25 + 1 / 100
    mean = data.sum() / 0.25 / precision

    def known_scale(params, data):
        logp = -0.5 * jnp.sum((data - params) ** 2) / 0.25 - 0.5 * data.size * jnp.log(
            2 * jnp.pi * 0.25
        )
        return logp - 0.5 * params**2 / 100 - 0.5 * jnp.log(2 * jnp.pi * 100.0)

    cov = 0.25 * np.eye(data.size) + 100.0
    x = data.astype(float)
    evidence = -0.5 * x @ np.linalg.solve(cov, x) - 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1]
    with jax.enable_x64(True):
        found = jaxvi.fit(
            KEY,
            jaxvi.Target(known_scale, jaxvi.Real()),
            data=x,
            solver=jaxvi.Stochastic(learning_rate=0.05),
            progress=False,
        ).check()
        draws = np.asarray(found.sample(KEY, 20_000))
    assert draws.dtype == np.float64
    assert abs(found.bound - evidence) < 0.01
    assert abs(draws.mean() - mean) * np.sqrt(precision) < 0.05
    assert abs(draws.std() * np.sqrt(precision) - 1) < 0.03
    assert (found.status == Status.CONVERGED).all()
    assert "converged" in repr(found)


def test_default_family_follows_the_dimension():
    """Dense covariance up to dimension 100, diagonal above."""

    def normal(z):
        return -0.5 * jnp.sum(z * z)

    for dim, family in ((100, jaxvi.FullRank()), (101, jaxvi.MeanField())):
        found = quick(jaxvi.Target(normal, jaxvi.Real((dim,))), None, max_steps=1)
        assert found.setup.family == family


def test_sample_has_the_parameters_structure():
    """Draws come back as the supports' pytree, constrained, draws leading; losers can be drawn."""
    found = quick()
    draws = found.sample(KEY, 7)
    assert draws["mean"].shape == (7, 2)
    assert draws["scale"].shape == (7, 2)
    assert (draws["scale"] > 0).all()
    loser = 1 - found.best
    assert abs(found.sample(KEY, 7, lane=loser)["mean"] - draws["mean"]).max() > 1e-3
    flat = found.sample_unconstrained(KEY, 7)
    np.testing.assert_allclose(jnp.exp(flat[:, 2:]), draws["scale"], rtol=1e-6)


def test_check_raises_where_the_fit_is_not_finished():
    """A step limit is no success, and the message says what to do."""
    with pytest.raises(jaxvi.FitError, match=r"step limit.*max_steps"):
        quick().check()


def test_steps_are_counted_exactly():
    """The step limit is kept to the step, also where blocks don't divide it."""
    np.testing.assert_array_equal(quick(max_steps=73).steps, [73, 73])


@pytest.mark.parametrize("how", ["exception", "signal"])
def test_an_interrupt_returns_what_there_is(how):
    """Ctrl-C in the middle gives a fit marked so, with usable parameters and history."""

    def interrupt(state):
        if state.step >= 100:
            if how == "exception":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    found = quick(max_steps=100_000, solver=jaxvi.Stochastic(tolerance=None), progress=interrupt)
    assert found.interrupted
    assert (found.status == Status.INTERRUPTED).all()
    assert 100 <= found.steps[0] < 100_000
    assert found.history.step[-1] == found.steps[0]
    assert np.isfinite(found.bound)
    assert "interrupted" in repr(found)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(jaxvi.FitError, match="interrupted"):
        found.check()


def test_history_follows_every_lane():
    """Rows are mean bounds by block; the last step is the run's."""
    found = quick(max_steps=500)
    assert found.history.bound.shape == (10, 2)
    np.testing.assert_array_equal(found.history.step, np.arange(50, 501, 50))
    assert (found.history.bound[-1] > found.history.bound[0]).all()


def test_progress_off_and_callable(capfd):
    """False writes nothing; a callable is told of every chunk."""
    seen = []
    quick(progress=seen.append, max_steps=400)
    assert seen[-1].step == 400
    assert seen[-1].num_restarts == 2
    assert [state.step for state in seen] == sorted(state.step for state in seen)
    quick(progress=False)
    assert capfd.readouterr() == ("", "")


def test_precisions_agree():
    """float32 and float64 reach the same bound, each in its own dtype."""
    solver = jaxvi.Stochastic(learning_rate=0.05)
    options = {"solver": solver, "max_steps": 3_000, "num_eval_draws": 2_000}
    single = quick(**options)
    with jax.enable_x64(True):
        double = quick(data=ROWS.astype(float), **options)
    assert single.phi.loc.dtype == np.float32
    assert double.phi.loc.dtype == np.float64
    assert abs(single.bound - double.bound) < 4 * np.hypot(single.bound_mcse, double.bound_mcse)


def test_every_restart_may_have_its_own_spread():
    """Starts are drawn as wide as each lane is told."""
    spreads = np.asarray([1e-3] * 4 + [100.0] * 4, np.float32)
    fit = quick(start_scale=spreads, num_restarts=8, max_steps=1)
    z = np.abs(np.asarray(fit.phi.loc)).max(axis=1)
    assert z[:4].max() < 1.0
    assert np.median(z[4:]) > 20.0


def straggling(z):
    """Steep near the origin, all but flat a long way off."""
    return -jnp.sum(jnp.where(jnp.abs(z) < 50.0, 0.5 * z**2, 1250.0 + 1e-3 * (jnp.abs(z) - 50.0)))


def test_patience_with_stragglers_ends():
    """A lane that is far off does not hold up three that have converged."""
    target = jaxvi.Target(straggling, jaxvi.Real((1,)))
    start = np.asarray([[0.1], [-0.2], [0.3], [4e4]], np.float32)
    options = {"solver": jaxvi.NaturalGradient(), "num_restarts": 4, "start": start}
    request = checked(Request(KEY, target, **options, max_steps=3_000))
    patient = fit_restarts(request, RunOptions(progress=False))
    hasty = fit_restarts(request, RunOptions(progress=False, patience=3.0))
    assert (hasty.status[:3] == Status.CONVERGED).all()
    assert hasty.steps[3] < patient.steps[3]
    assert hasty.status[3] == Status.STEP_LIMIT


def test_khat_of_every_lane(x64):
    """Batched: near 0 or below where q is right, large where it is far too narrow."""
    target = jaxvi.Target(lambda z: -0.5 * jnp.sum(z**2), jaxvi.Real((2,)))
    fit = quick(
        target, None, family=jaxvi.FullRank(), solver=jaxvi.NaturalGradient(), num_restarts=2
    )
    narrow = fit.phi._replace(log_diag=fit.phi.log_diag.at[1].add(-1.5))
    khats = dataclasses.replace(fit, phi=narrow).khats
    assert khats.shape == (2,)
    assert khats[0] < 0.5 < khats[1]


def test_the_last_iterate_may_be_reported():
    """Without averages phi is the optimiser's own; the step limit is the end."""
    rate = optax.cosine_decay_schedule(0.1, 5_000)
    solver = jaxvi.Stochastic(optax.adam, learning_rate=rate, tolerance=None, average=False)
    fit = quick(solver=solver, max_steps=5_000)
    assert (fit.status == Status.STEP_LIMIT).all()
    assert np.ptp(fit.bounds) < 1.0
    with pytest.raises(ValueError, match="tolerance=None"):
        jaxvi.Stochastic(average=False)
