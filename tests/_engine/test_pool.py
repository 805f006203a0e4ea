"""Pools of lanes: the same answers whatever the width, little idle, and what goes wrong."""

import _thread
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_iris

import jaxvi
from jaxvi import models
from jaxvi._engine import history
from jaxvi._engine import pool as pool_module
from jaxvi._engine.race import should_prune
from jaxvi.supports import Real

ROWS = load_iris().data
ROWS = ((ROWS - ROWS.mean(axis=0)) / ROWS.std(axis=0)).astype(np.float32)
MIXTURE = models.gaussian_mixture(3, 4)


def quadratic(z, data):
    return -0.5 * jnp.sum((z - data) ** 2 / jnp.asarray([1.0, 4.0], z.dtype))


TARGET = jaxvi.Target(quadratic, Real((2,)))
DATA = jnp.asarray([1.0, -2.0])


def quick(num_restarts=20, **choices):
    choices = {"solver": jaxvi.Stochastic(), "max_steps": 800, "progress": False, **choices}
    family = jaxvi.MeanField()
    return jaxvi.fit(
        jax.random.key(0), TARGET, family, data=DATA, num_restarts=num_restarts, **choices
    )


def mixture(num_restarts, **choices):
    return jaxvi.fit(
        jax.random.key(0),
        MIXTURE,
        jaxvi.MeanField(),
        data=jnp.asarray(ROWS),
        num_restarts=num_restarts,
        progress=False,
        **choices,
    )


@pytest.mark.parametrize("noise", [jaxvi.Fresh(), jaxvi.Fresh(shared=False)])
def test_answers_do_not_depend_on_the_width(noise):
    """Lanes of cohorts that began at other times see the noise that they would see alone."""
    together = quick(noise=noise)
    assert together.pool is None
    for width in (3, 8):
        pooled = quick(noise=noise, pool=width)
        assert pooled.pool.width == width
        np.testing.assert_array_equal(pooled.steps, together.steps)
        np.testing.assert_array_equal(pooled.status, together.status)
        np.testing.assert_allclose(pooled.phi.loc, together.phi.loc, atol=2e-5)
        np.testing.assert_allclose(pooled.bounds, together.bounds, atol=2e-5)
        assert pooled.best == together.best


def test_the_last_block_may_be_shorter():
    solver = jaxvi.Stochastic(tolerance=None)
    together = quick(7, solver=solver, max_steps=130)
    pooled = quick(7, solver=solver, max_steps=130, pool=3)
    assert set(pooled.steps) == {130}
    np.testing.assert_array_equal(pooled.status, together.status)
    np.testing.assert_allclose(pooled.phi.loc, together.phi.loc, atol=2e-5)
    np.testing.assert_array_equal(pooled.history.step, together.history.step)
    np.testing.assert_allclose(pooled.history.bound, together.history.bound, rtol=1e-4)


def test_starts_go_with_restarts():
    """Each restart begins at its own start and scale, whichever lane it runs in."""
    start = jnp.arange(12.0).reshape(6, 2)
    choices = {"solver": jaxvi.Stochastic(tolerance=None), "max_steps": 50, "start": start}
    together, pooled = quick(6, **choices), quick(6, pool=2, **choices)
    np.testing.assert_allclose(pooled.phi.loc, together.phi.loc, atol=1e-5)
    assert np.ptp(np.asarray(pooled.phi.loc)[:, 0]) > 5.0
    choices = {"solver": jaxvi.Stochastic(tolerance=None), "max_steps": 1}
    scales = np.geomspace(0.1, 10.0, 6)
    together, pooled = (
        quick(6, start_scale=scales, **choices),
        quick(6, start_scale=scales, pool=4, **choices),
    )
    np.testing.assert_allclose(pooled.phi.loc, together.phi.loc, atol=1e-5)


@pytest.mark.slow
def test_little_is_idle_where_stopping_times_spread(long):
    num, width = (160, 16) if long else (80, 8)
    together = mixture(num, solver=jaxvi.FrozenNoise(), pool=num)
    pooled = mixture(num, solver=jaxvi.FrozenNoise(), pool=width)
    assert np.std(pooled.steps) > 0.2 * np.mean(pooled.steps)
    waiting = 1.0 - together.steps.mean() / together.steps.max()
    assert waiting > 0.3
    assert pooled.pool.idle_share < 0.1
    np.testing.assert_allclose(pooled.bounds, together.bounds, atol=1e-3)


def test_more_restarts_than_are_ranked_on_all_draws():
    found = quick(300, max_steps=400, pool=64)
    assert found.num_restarts == len(found.bounds) == 300
    assert found.bounds_mcse[found.best] < 1.5 * np.median(found.bounds_mcse)
    told = found.bounds - 4.0 * found.bounds_mcse
    assert told[found.best] > told.max() - 0.05
    np.testing.assert_allclose(found.bounds, np.log(2 * np.pi * 2.0), atol=0.1)
    assert len(found.log_weights) == 2_000


def test_history_is_bounded_whatever_the_restarts(monkeypatch):
    monkeypatch.setattr(history, "_MAX_NUMBERS", 20 * 16)
    found = quick(20, solver=jaxvi.Stochastic(tolerance=None), max_steps=2_000, pool=6)
    step, bound = found.history
    assert bound.shape == (len(step), 20)
    assert len(step) <= 16
    assert step[-1] == 2_000
    assert (np.diff(step) == step[0]).all() or step[0] > step[-1] - step[-2]
    assert np.isfinite(bound).all()
    assert (bound[-1] > bound[0]).all()


def test_an_interrupt_keeps_what_has_been_begun():
    def stop(progress):
        if progress.num_running < 12:
            raise KeyboardInterrupt

    found = quick(20, solver=jaxvi.Stochastic(tolerance=None), pool=4, progress=stop)
    assert found.interrupted
    assert 8 <= found.num_restarts < 20
    finished = found.status == jaxvi.Status.STEP_LIMIT
    assert finished.sum() >= 8
    assert set(found.status[~finished]) <= {jaxvi.Status.INTERRUPTED}
    assert np.isfinite(found.bounds).all()


def test_ctrl_c_does_the_same():
    seen = []

    def press(progress):
        seen.append(progress)
        if len(seen) == 2:
            _thread.interrupt_main()

    found = quick(20, solver=jaxvi.Stochastic(tolerance=None), pool=4, progress=press)
    assert found.interrupted
    assert found.num_restarts < 20


@pytest.mark.parametrize("width", [None, 8])
def test_a_pool_that_does_not_fit_is_halved(monkeypatch, width):
    """Lanes that a device has no memory for, at the first chunk."""
    real = pool_module.advance_pool

    def full(*arguments, **choices):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory allocating 9 bytes")

    def some(keys, lanes, *others, **choices):
        if len(lanes.status) > 4:
            full()
        return real(keys, lanes, *others, **choices)

    monkeypatch.setattr(importlib.import_module("jaxvi._engine.placement"), "advance_lanes", full)
    monkeypatch.setattr(pool_module, "advance_pool", some)
    with pytest.warns(RuntimeWarning, match="don't fit in memory: they run in a pool of"):
        found = quick(8 if width is None else 16, pool=width)
    monkeypatch.undo()
    assert found.pool.width == 4
    together = quick(found.num_restarts)
    np.testing.assert_array_equal(found.steps, together.steps)


def test_other_errors_are_not_taken_for_memory(monkeypatch):
    def broken(*arguments, **choices):
        raise RuntimeError("something else")

    monkeypatch.setattr(pool_module, "advance_pool", broken)
    with pytest.raises(RuntimeError, match="something else"):
        quick(8, pool=4)


def test_restarts_without_a_start_leave_the_pool_at_once():
    def half(z, data):
        return jnp.where(z[0] > 0.0, quadratic(z, data), jnp.nan)

    target = jaxvi.Target(half, Real((2,)))
    starts = jnp.asarray([[1.0, 0.0], [-1.0, 0.0]] * 5)
    found = jaxvi.fit(
        jax.random.key(0),
        target,
        jaxvi.MeanField(),
        data=DATA + 8.0,
        start=starts,
        num_restarts=10,
        pool=3,
        max_steps=200,
        progress=False,
    )
    assert (found.status[1::2] == jaxvi.Status.NO_START).all()
    assert (found.status[::2] != jaxvi.Status.NO_START).all()
    assert (found.steps[1::2] == 0).all()


@pytest.mark.parametrize(("name", "value"), [("pool", 0), ("pool", -3)])
def test_bad_arguments_are_told(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        quick(**{name: value})


def test_the_default_call_does_not_race():
    with pytest.raises(ValueError, match="race: expected False with the default call"):
        jaxvi.fit(jax.random.key(0), TARGET, data=DATA, race=True)


# Racing


def test_who_is_overtaken():
    gap = np.asarray([0.0, -1.0, -1.0, -1.0, -5.0, 0.5])
    se = np.asarray([0.01, 0.1, 0.5, 0.1, 0.1, 0.01])
    gain = np.asarray([0.01, 0.1, 0.1, 0.5, 2.0, -1.0])
    # level and at rest; behind; behind by no more than noise; gaining; a slow starter; ahead
    np.testing.assert_array_equal(
        should_prune(gap, se, gain), [True, True, False, False, False, False]
    )


def test_noise_alone_seldom_drops_a_better_one():
    """The odds stated: a lane a tolerance above, and level in its gains, 0.0013 a look."""
    rng = np.random.default_rng(0)
    se = 0.3
    gap = 0.2 + se * rng.standard_normal(200_000)
    share = should_prune(gap, np.full(gap.shape, se), np.zeros(gap.shape)).mean()
    assert share == pytest.approx(0.00135, rel=0.25)


def test_a_slow_starter_wins():
    """Two hills: the higher one is reached by way of a long gentle slope."""

    def hills(z, data):
        low = -0.5 * jnp.sum((z + 3.0) ** 2) / 0.05 + data
        high = -0.02 * jnp.sqrt(1.0 + jnp.sum((z - 40.0) ** 2) * 100.0)
        return jnp.logaddexp(low, high)

    target = jaxvi.Target(hills, Real((2,)))
    starts = jnp.asarray([[-3.0, -3.0]] * 4 + [[15.0, 15.0]] * 4)
    found = jaxvi.fit(
        jax.random.key(0),
        target,
        jaxvi.MeanField(),
        solver=jaxvi.Stochastic(learning_rate=0.05),
        data=jnp.asarray(-6.0),
        start=starts,
        num_restarts=8,
        race=True,
        progress=False,
    )
    assert np.abs(found.phi.loc[found.best] - 40.0).max() < 1.0
    assert found.status[found.best] == jaxvi.Status.CONVERGED
    assert (found.status[:4] == jaxvi.Status.PRUNED).any()


@pytest.mark.slow
def test_a_race_finds_the_same_optimum_for_a_third():
    every = mixture(64)
    raced = mixture(64, race=True, pool=16)
    assert raced.bound > every.bound - 0.1
    looks = 512 / (3 * 8)  # a look's values, in steps of 8 gradients
    spent = raced.steps.sum() + looks * np.sum(np.log(raced.steps / 100.0) / np.log(1.5) + 2.0)
    assert spent < every.steps.sum() / 3
    assert (raced.status == jaxvi.Status.PRUNED).sum() > 32


def test_a_mesh_has_no_pool(monkeypatch):
    """Another process's device says nothing of its memory, and none is asked for it."""

    def never(*arguments):
        raise AssertionError("the width of a pool was asked for")

    monkeypatch.setattr(importlib.import_module("jaxvi._fitting.restarts"), "usual_width", never)
    found = quick(70, max_steps=50, mesh=jaxvi.make_mesh(devices=jax.devices()[:1]))
    assert found.pool is None
    assert found.num_restarts == 70


def test_so_many_restarts_take_turns():
    """A pool as wide as a quarter of the restarts would idle while the last of them end."""
    assert quick(600, max_steps=50).pool.width == 64
    assert quick(200, max_steps=50).pool is None
