"""Steps on some rows at a time: which rows, an unbiased gradient, and the exact posterior."""

import inspect
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import regression
from regression import TARGET, rows

import jaxvi
from jaxvi import Status
from jaxvi._engine import Setup
from jaxvi._fitting import Request, RunOptions, checked, fit_restarts
from jaxvi.data._batches import at_block, at_step, resident
from jaxvi.data._minibatch import _divide, shifted, shuffle_seeds, shuffled_rows

KEY = jax.random.key(4)
SOLVER = jaxvi.Stochastic(learning_rate=0.02)
plain_fit = inspect.unwrap(jaxvi.fit)


@cache
def seeds():
    return shuffle_seeds(KEY)


@pytest.mark.parametrize(("num", "size"), [(1, 1), (2, 1), (7, 3), (12, 12), (100, 30), (1009, 64)])
def test_every_row_comes_once_an_epoch(num, size):
    """Also where batches go over the ends of epochs; the order differs from epoch to epoch."""
    steps = 3 * num
    seen = np.asarray(shuffled_rows(seeds(), jnp.arange(steps), num, size)).reshape(-1, num)
    np.testing.assert_array_equal(np.sort(seen, axis=1), np.tile(np.arange(num), (len(seen), 1)))
    if num > 7:
        assert len(np.unique(seen, axis=0)) == len(seen)


def test_rows_are_a_function_of_key_and_step():
    """However steps are asked for."""
    together = shuffled_rows(seeds(), jnp.arange(40), 101, 16)
    alone = [shuffled_rows(seeds(), jnp.asarray([step]), 101, 16)[0] for step in range(40)]
    np.testing.assert_array_equal(together, np.stack(alone))
    other = shuffled_rows(seeds() + 1, jnp.arange(40), 101, 16)
    assert (np.asarray(other) != np.asarray(together)).mean() > 0.9


def test_late_steps_do_not_overflow():
    """steps * size has 62 bits; quotient and rest are exact."""
    steps = np.asarray([0, 1, 12_345_678, 2**31 - 2], np.uint32)
    for num, size in ((2**31 - 1, 2**30), (1_000_003, 999_983), (7, 7)):
        epoch, place = _divide(jnp.asarray(steps), size, num)
        exact = [divmod(int(step) * size, num) for step in steps]
        np.testing.assert_array_equal(np.stack([epoch, place], 1), np.asarray(exact, np.uint32))


def test_rows_are_shifted_round_the_circle():
    """The same way for all, another one each turn."""
    start = jnp.asarray([0, 5, 9])
    turns = [np.asarray(shifted(start, jnp.asarray(turn), 10)) for turn in range(9)]
    for rows_of_turn in turns:
        np.testing.assert_array_equal((rows_of_turn - rows_of_turn[0]) % 10, start)
    assert len({int(found[0]) for found in turns}) == 9


def test_rows_are_shuffled_evenly():
    """Over epochs, rows at a place and pairs of neighbours are as frequent as chance has it."""
    num, epochs = 13, 26_000
    order = np.asarray(shuffled_rows(seeds(), jnp.arange(epochs), num, num))
    at_place = np.stack([np.bincount(order[:, i], minlength=num) for i in range(num)])
    pairs = np.bincount((num * order[:, 3] + order[:, 4]), minlength=num**2).reshape(num, num)
    expected, between = epochs / num, epochs / (num * (num - 1))
    chi = ((at_place - expected) ** 2 / expected).sum(axis=1)
    assert chi.max() < 12 + 5 * np.sqrt(24)
    off = pairs[~np.eye(num, dtype=bool)]
    assert np.trace(pairs) == 0
    free = num * (num - 1) - 1
    assert abs(((off - between) ** 2 / between).sum() - free) < 5 * np.sqrt(2 * free)


@pytest.mark.parametrize("how", ["rows", "sum"])
def test_the_mean_gradient_of_an_epoch_is_that_of_all_rows(how, x64):
    """To rounding: the scale is right, the prior counts once, and each row once."""
    num, size = 120, 24
    data = jax.tree.map(jnp.asarray, rows(num, float))
    target = jaxvi.Target(
        log_prior=regression.log_prior,
        log_likelihood=regression.summed if how == "sum" else regression.log_likelihood,
        supports=jaxvi.Real(3),
    )
    family, objective = jaxvi.FullRank(), jaxvi.ELBO(num_draws=4)
    setup = Setup(target.scaled, family, objective, SOLVER, jaxvi.Fresh())
    whole = Setup(target, family, objective, SOLVER, jaxvi.Fresh())
    phi = family.init(KEY, 3, start=jnp.asarray([0.4, -1.0, 2.0]))
    noise = whole.draw(KEY, 0, jnp.dtype(float))
    block = at_block(resident(KEY, data, size, float), jnp.asarray(0), num // size)

    def loss(problem):
        return jax.value_and_grad(lambda phi: problem.loss(phi, noise).loss)(phi)

    exact = loss(whole.problem(data))
    of_batches = [loss(setup.problem(at_step(block, i))) for i in range(num // size)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *of_batches)
    for a, b in zip(jax.tree.leaves(mean), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-10)
    first = of_batches[0][0]
    assert abs(float(first - exact[0])) > 1.0  # the batches themselves do differ


def test_ends_at_the_exact_posterior():
    """10,000 rows, 100 a step: means within 0.03 sd, sds within 3 %, the bound at the evidence."""
    data = rows(10_000)
    exact = regression.posterior(data)
    fit = jaxvi.fit(
        KEY,
        TARGET,
        data=data,
        minibatch=jaxvi.Minibatch(100),
        num_restarts=4,
        max_steps=60_000,
        progress=False,
    )
    mean, sd = regression.errors(fit, exact)
    assert mean < 0.03
    assert sd < 0.03
    assert abs(fit.bound - exact.log_evidence) < 0.02  # KL(q || posterior), and rounding
    assert (fit.status == Status.CONVERGED).all()
    assert fit.verdict == "ok", fit.reasons
    assert fit.setup.target == TARGET
    second = jaxvi.fit(
        KEY,
        TARGET,
        data=rows(10_000, seed=1),
        minibatch=jaxvi.Minibatch(100),
        num_restarts=4,
        max_steps=100,
        progress=False,
    )
    assert second.timing.compile_seconds < 0.1  # new data of the same shape: nothing is compiled


def test_a_lane_does_what_it_would_do_alone(x64):
    """The batches of lane i of `fit` are those of `run`, however steps are cut into chunks."""
    data = rows(150, float)
    options = {"data": data, "minibatch": jaxvi.Minibatch(32), "max_steps": 170}
    request = Request(KEY, TARGET, jaxvi.MeanField(), solver=SOLVER, **options, num_restarts=3)
    fit = fit_restarts(checked(request), RunOptions(progress=False))
    run = partial(jaxvi.run, KEY, TARGET, jaxvi.MeanField(), solver=SOLVER, **options)
    by_itself = jax.jit(lambda lane: run(lane=lane))
    for lane in (0, 2):
        alone = by_itself(lane)
        np.testing.assert_allclose(alone.phi.loc, fit.phi.loc[lane], rtol=1e-9)


DATA = rows(50)
ONE = jaxvi.Target(regression.log_density, jaxvi.Real(3))
BAD = {
    "no rows apart": (lambda: go(ONE), TypeError, "log likelihood is apart"),
    "exact solver": (lambda: go(solver=jaxvi.NaturalGradient()), TypeError, "exact density"),
    "frozen noise": (lambda: go(solver=jaxvi.FrozenNoise()), TypeError, "exact density"),
    "too many rows": (lambda: go(minibatch=jaxvi.Minibatch(51)), ValueError, "51 for 50 rows"),
    "a number": (lambda: go(minibatch=16), TypeError, r"expected jaxvi\.Minibatch\(256\)"),
    "no data": (lambda: go(data=None), ValueError, "one row for each observation"),
    "one leaf short": (
        lambda: go(data=(DATA[0], DATA[1][:7])),
        ValueError,
        "one row for each observation",
    ),
}


def go(target=TARGET, **options):
    given = {"data": DATA, "minibatch": jaxvi.Minibatch(16), "max_steps": 10, **options}
    return plain_fit(KEY, target, **given, progress=False)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_its_sentence(case):
    make, error, words = BAD[case]
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("size", [0, -1, True])
def test_a_size_is_a_whole_number_above_zero(size):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        inspect.unwrap(jaxvi.Minibatch)(size)


def test_lanes_of_a_pool_see_the_batches_that_they_would_see_alone(x64, tmp_path):
    """Each at a step of its own: the answers are those of all restarts together; so are those of
    a pool that is stopped and gone on with, bit for bit its own."""
    options = {"data": rows(150, float), "minibatch": jaxvi.Minibatch(32), "num_restarts": 7}
    options |= {"solver": jaxvi.Stochastic(tolerance=0.3), "max_steps": 1_210}
    together, pooled = go(**options), go(pool=3, **options)
    assert pooled.pool.cohorts > 2
    np.testing.assert_array_equal(pooled.steps, together.steps)
    np.testing.assert_array_equal(pooled.status, together.status)
    np.testing.assert_allclose(pooled.phi.loc, together.phi.loc, rtol=1e-8)
    np.testing.assert_allclose(pooled.bounds, together.bounds, rtol=1e-8)
    cut = go(pool=3, checkpoint=tmp_path, max_seconds=1e-9, **options)
    assert cut.interrupted
    resumed = jaxvi.resume(tmp_path, TARGET, progress=False)
    np.testing.assert_array_equal(resumed.phi.loc, pooled.phi.loc)
    np.testing.assert_array_equal(resumed.history.bound, pooled.history.bound)


def test_batches_are_not_raced_nor_streams_pooled():
    with pytest.raises(ValueError, match="minibatch: expected race=False"):
        go(num_restarts=4, race=True)
    with pytest.raises(ValueError, match="pool: expected None with a Stream"):
        go(num_restarts=4, pool=2, data=jaxvi.Stream(DATA))


def test_a_run_of_batches_is_gone_on_with(tmp_path):
    """The rows of a step are a function of the key and the step, so that nothing else is kept."""
    whole = go(num_restarts=2)
    cut = go(num_restarts=2, checkpoint=tmp_path, max_seconds=1e-3)
    assert cut.interrupted
    resumed = jaxvi.resume(tmp_path, TARGET, progress=False)
    np.testing.assert_array_equal(resumed.steps, whole.steps)
    np.testing.assert_array_equal(resumed.phi.loc, whole.phi.loc)
