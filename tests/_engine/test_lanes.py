"""Restarts as lanes: they differ, don't touch each other, and are ranked fairly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvi
from jaxvi import Status
from jaxvi._engine.lanes import lane_results
from jaxvi._engine.ranking import is_sharp, ranking_of
from jaxvi._engine.setup import Setup
from jaxvi._engine.starts import start_lanes
from jaxvi._numerics import split_key

KEY = jax.random.key(11)
SOLVER = jaxvi.Stochastic(optax.adam, learning_rate=0.05)


def two_modes(z, offset):
    """Two Gaussians of dim 2, the one at +4 three times as heavy; NaN beyond 9."""
    near = -0.5 * jnp.sum((z - 4.0) ** 2) + jnp.log(0.75)
    far = -0.5 * jnp.sum((z + 4.0) ** 2) + jnp.log(0.25)
    return jnp.where(z[0] > 9.0, jnp.nan, jnp.logaddexp(near, far)) + offset


TARGET = jaxvi.Target(two_modes, jaxvi.Real((2,)))
OFFSET = jnp.float32(2.5)


def fit(**options):
    """A small fit of the two modes."""
    settings = {"solver": SOLVER, "data": OFFSET, "max_steps": 600, "progress": False}
    return jaxvi.fit(KEY, TARGET, jaxvi.MeanField(), **{**settings, **options})


def starting_points(**options):
    setup = Setup(TARGET, jaxvi.MeanField(), jaxvi.ELBO(), SOLVER, jaxvi.Fresh())
    lanes = start_lanes(
        split_key(KEY), options.get("z"), jnp.float32(1.0), OFFSET, setup=setup, num_lanes=16
    )
    return np.asarray(lanes.state.phi.loc)


def test_starts_differ():
    """No two of the restarts begin at one point, and they spread as start_scale says."""
    loc = starting_points()
    distance = np.linalg.norm(loc[:, None] - loc[None], axis=-1)
    assert distance[~np.eye(16, dtype=bool)].min() > 0.01
    assert 0.6 < loc.std() < 1.5


def test_one_start_is_lane_zero_and_the_others_scatter():
    """A given point is kept exactly for lane 0 and jittered for the rest."""
    loc = starting_points(z=jnp.array([2.0, -3.0]))
    np.testing.assert_array_equal(loc[0], [2.0, -3.0])
    assert np.linalg.norm(loc[1:] - loc[:1], axis=-1).min() > 0.01


def test_starts_by_lane_are_kept():
    """A start with a lane axis gives every lane its own, exactly."""
    z = jnp.arange(32.0).reshape(16, 2) / 10
    np.testing.assert_array_equal(starting_points(z=z), z)


@pytest.mark.parametrize("shared", [True, False])
def test_a_lane_is_its_solo_run(shared):
    """Lane i of a batch and `run(..., lane=i)` give the same parameters, status and steps."""
    noise = jaxvi.Fresh(shared=shared)
    with jax.enable_x64(True):
        offset = jnp.float64(2.5)
        batch = fit(num_restarts=4, noise=noise, data=offset, max_steps=500)
        solo = jax.jit(
            lambda lane: jaxvi.run(
                KEY,
                TARGET,
                jaxvi.MeanField(),
                solver=SOLVER,
                noise=noise,
                data=offset,
                max_steps=500,
                lane=lane,
            )
        )
        for lane in range(4):
            alone, together = solo(lane), batch.lane(lane)
            np.testing.assert_allclose(alone.phi.loc, together.phi.loc, rtol=1e-7)
            np.testing.assert_allclose(alone.phi.log_scale, together.phi.log_scale, rtol=1e-7)
            assert alone.status == together.status
            assert alone.step == together.step


def test_shared_noise_and_own_noise_differ():
    """With noise of their own, lanes from one start part ways; with shared noise they don't."""
    start = np.tile(np.float32([1.0, 1.0]), (3, 1))
    shared = fit(num_restarts=3, start=start, noise=jaxvi.Fresh(), max_steps=100)
    own = fit(num_restarts=3, start=start, noise=jaxvi.Fresh(shared=False), max_steps=100)
    np.testing.assert_allclose(shared.phi.loc[0], shared.phi.loc[1], rtol=1e-6)
    assert abs(own.phi.loc[0] - own.phi.loc[1]).max() > 1e-4


def test_a_broken_lane_does_not_touch_the_others():
    """Lanes in or at the edge of a hole of NaN end with their status; the rest are bit-equal."""
    good = np.float32([[1.0, 1.0], [2.0, 2.0], [-3.0, -3.0], [1.0, -1.0]])
    bad = good.copy()
    bad[1] = [20.0, 0.0]  # no finite start
    bad[3] = [8.999, 0.0]  # half of q's draws are in the hole
    clean, broken = fit(num_restarts=4, start=good), fit(num_restarts=4, start=bad)
    assert broken.status[1] == Status.NO_START
    assert broken.status[3] == Status.NOT_FINITE
    for lane in (0, 2):
        np.testing.assert_array_equal(clean.phi.loc[lane], broken.phi.loc[lane])
        assert clean.status[lane] == broken.status[lane]
    assert broken.best == 0
    assert np.isfinite(broken.phi.loc[3]).all()  # frozen where it was last good
    assert np.isfinite(broken.bound)


def test_a_hole_that_is_seldom_hit_is_survived():
    """Blocks that hit non-finite draws are undone and the lane still gets to the mode."""

    def holey(z):
        return jnp.where(jnp.abs(z[0] - 3.0) < 0.02, jnp.nan, -0.5 * jnp.sum((z - 1.0) ** 2))

    found = jaxvi.fit(
        KEY,
        jaxvi.Target(holey, jaxvi.Real((2,))),
        jaxvi.MeanField(),
        solver=SOLVER,
        num_restarts=4,
        max_steps=6_000,
        progress=False,
    )
    # about one draw in 500 falls into the hole, nearly every block:
    # lanes either say so or are right
    alive = found.status != Status.NOT_FINITE
    close = abs(found.phi.loc - 1.0).max(axis=-1) < 0.3
    assert (close | ~alive).all()
    assert found.num_bad_draws[found.best] > 0
    with pytest.raises(jaxvi.FitError, match="not finite"):
        found.check()


def test_the_winner_is_the_heavier_mode():
    """Restarts end in both modes; the best bound is that of the heavier, log 0.75 + log 2 pi."""
    start = np.float32([[-3.0, -3.0], [3.0, 3.0], [-5.0, -4.0], [4.0, 5.0]])
    found = fit(num_restarts=4, start=start, max_steps=4_000, num_eval_draws=4_000)
    assert found.best in (1, 3)
    expected = np.log(0.75) + np.log(2 * np.pi) + 2.5
    assert abs(found.bound - expected) < 4 * found.bound_mcse + 0.03
    np.testing.assert_array_equal(found.agreement.sizes, [2, 2])
    assert abs(found.agreement.bounds[0] - found.agreement.bounds[1] - np.log(3)) < 0.1
    # common draws: at one optimum, a difference is known far better than each bound
    twin = 4 - found.best
    assert found.difference_mcse[twin] < 0.5 * np.hypot(found.bounds_mcse[twin], found.bound_mcse)


def test_run_is_pure():
    """`run` may be jitted and vmapped over keys and data; each result is its own."""
    offsets = jnp.float32([0.0, 10.0])
    keys = jax.random.split(KEY, 2)

    def one(key, offset):
        return jaxvi.run(key, TARGET, jaxvi.MeanField(), solver=SOLVER, data=offset, max_steps=200)

    many = jax.jit(jax.vmap(one))(keys, offsets)
    alone = one(keys[1], offsets[1])
    np.testing.assert_allclose(many.phi.loc[1], alone.phi.loc, rtol=2e-4, atol=2e-4)
    np.testing.assert_array_equal(many.step, [200, 200])
    assert many.bound[1] > 5.0 > many.bound[0]


def test_a_converged_lane_comes_before_an_equal_one_that_is_not():
    """Bounds that noise tells apart do not: but one that is clearly higher is the best anyway."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 1_000)) + np.array([[0.0], [0.1], [-5.0]])
    status = np.array([Status.CONVERGED, Status.STEP_LIMIT, Status.CONVERGED])
    assert ranking_of(weights, status).best == 0
    weights[1] += 5.0
    assert ranking_of(weights, status).best == 1
    weights[0, 0] = np.nan
    assert ranking_of(weights, status).best == 1


def test_an_absurd_bound_is_not_the_best():
    """One draw where the density is broken makes a mean of anything; its error says so."""
    weights = np.random.default_rng(0).normal(size=(2, 1_000))
    weights[1, 7] = 1e200
    status = np.full(2, Status.STEP_LIMIT)
    assert ranking_of(weights, status).best == 0
    weights[1, 7] = 1e308  # whose square overflows
    assert ranking_of(weights, status).best == 0


def test_a_lane_in_a_broken_region_is_not_the_best():
    """Neither one that ended where nothing is finite, nor one whose weights are of all sizes."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 1_000)) - 2_000.0
    weights[1] += 500.0
    weights[2] = 5_000.0 * rng.normal(size=1_000)
    status = np.array([Status.CONVERGED, Status.NOT_FINITE, Status.STEP_LIMIT])
    assert ranking_of(weights, status).best == 0
    status[0] = Status.STEP_LIMIT  # nothing has converged
    assert ranking_of(weights, status).best == 1


def test_ranking_stops_when_it_is_sharp():
    """Draws enough to tell the bounds that matter; of a lane far below none does."""
    rng = np.random.default_rng(0)
    status = np.full(3, Status.CONVERGED)
    weights = rng.normal(size=(3, 500)) * np.array([[0.1], [0.1], [9.0]])
    weights[2] -= 100.0
    assert is_sharp(status, weights)
    weights[2] += 100.0
    assert not is_sharp(status, weights)
    assert not is_sharp(status, np.full((3, 500), np.nan))


def test_starts_are_mirrored_in_pairs():
    """Every second lane begins where the one before does, seen through the origin."""
    target = jaxvi.Target(lambda z: -0.5 * jnp.sum(z**2), jaxvi.Real((3,)))
    setup = Setup(target, jaxvi.FullRank(), jaxvi.ELBO(), SOLVER, jaxvi.Fresh())
    scales = jnp.array([1.0, 1.0, 2.0, 4.0])
    lanes = start_lanes(split_key(KEY), None, scales, None, setup=setup, num_lanes=4)
    loc = np.asarray(lane_results(lanes, setup=setup).loc)
    np.testing.assert_allclose(loc[1], -loc[0], rtol=1e-6)
    np.testing.assert_allclose(loc[3], -2.0 * loc[2], rtol=1e-6)
    assert abs(loc[2] - 2.0 * loc[0]).min() > 0.01
