"""Frozen noise: the optimum of the frozen bound, found to the end, and nothing that isn't one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from problems import GAMMA_POISSON, GAUSSIAN_5, LOG_GAMMA, Bare

import jaxvi
from jaxvi import Antithetic, Fresh, Frozen, Sobol, Status
from jaxvi._numerics import split_key
from jaxvi.families import FullRank, LowRank, MeanField, StudentT
from jaxvi.noise import MomentMatched, match_moments
from jaxvi.objectives import ELBO
from jaxvi.solvers import FrozenNoise, Problem, _frozen_noise
from jaxvi.solvers._deterministic.frozen_draws import draws_needed
from jaxvi.solvers._deterministic.local_coordinates import local_map
from jaxvi.solvers._deterministic.trust_region import (
    solve_within,
    start_trust_region_search,
    trust_region_step,
)

KEY = jax.random.key(4)


def ill_conditioned(dim, condition, dtype):
    """A Gaussian off-centre, and the exact bound of a Gaussian q less the best one's."""
    rng = np.random.default_rng(dim)
    spectrum = 4.0 * np.logspace(0, -np.log10(condition), dim)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    precision, mean = (rotation / spectrum) @ rotation.T, 3.0 + 5.0 * rng.normal(size=dim)
    p, m = jnp.asarray(precision, dtype), jnp.asarray(mean, dtype)

    def log_density(z):
        return 17.0 - 0.5 * (z - m) @ p @ (z - m)

    def short_of_best(family, phi):
        q_mean, q_cov = (np.asarray(a, float) for a in (phi.loc, family.covariance(phi)))
        gap = q_mean - mean
        inside = gap @ precision @ gap + np.sum(precision * q_cov) - dim
        best = np.diag(precision) if isinstance(family, MeanField) else 1.0 / spectrum
        log_dets = np.linalg.slogdet(q_cov)[1] + np.log(best).sum()
        return 0.5 * (inside - log_dets)

    return jaxvi.Target(log_density, jaxvi.Real(dim)), short_of_best


pytestmark = pytest.mark.usefixtures("compiled_quickly")


@functools.partial(
    jax.jit, static_argnames=("target", "family", "objective", "solver", "noise", "num")
)
def lanes(
    target, data, start, *, family=None, objective=None, solver=None, noise=None, num=2, most=300
):
    """What became of the first lanes of a fit, in one program."""
    parts = {"objective": objective, "noise": noise, "solver": solver or FrozenNoise()}
    family = family or FrozenNoise().defaults(None, target.dim).family

    def one(lane):
        return jaxvi.run(
            KEY, target, family, data=data, start=start, max_steps=most, lane=lane, **parts
        )

    return jax.vmap(one)(jnp.arange(num))


def maximise(target, family=None, data=None, start=None, **options):
    return lanes(target, data, start, family=family, **options)


def lane(found, index):
    return jax.tree.map(lambda leaf: leaf[index], found.phi)


def assert_all(found, status):
    assert (np.asarray(found.status) == status).all(), [Status(int(s)) for s in found.status]


# Known optima


@pytest.mark.parametrize(
    ("family", "dim", "condition", "method"),
    [
        (MeanField(), 30, 1e4, "newton"),
        (FullRank(), 30, 1e4, "newton"),
        (MeanField(), 10, 1e3, "lbfgs"),
    ],
    ids=repr,
)
def test_the_exact_optimum_of_a_gaussian(family, dim, condition, method, x64):
    """Matched moments integrate a quadratic exactly: 1e-6 nats short of the best at most."""
    target, short_of_best = ill_conditioned(dim, condition, float)
    most = 40 if method == "newton" else 5_000
    found = maximise(target, family, solver=FrozenNoise(method), most=most)
    assert_all(found, Status.CONVERGED)
    for index in range(2):
        assert abs(short_of_best(family, lane(found, index))) < 1e-6


def test_float32_converges():
    """By default, as far as rounding allows: a hundredth of a nat at condition 1000."""
    target, short_of_best = ill_conditioned(10, 1e3, jnp.float32)
    found = maximise(target)
    assert_all(found, Status.CONVERGED)
    for index in range(2):
        assert abs(short_of_best(FullRank(), lane(found, index))) < 1e-2


def test_skewed_optimum_within_the_draws_error(x64):
    """In dimension 1, with many draws, the best Gaussian for a density that is none."""
    problem, family = GAMMA_POISSON, MeanField()
    objective, noise = ELBO(num_draws=8192), Frozen(MomentMatched(Sobol()))
    found = maximise(
        problem.target, family, problem.data_as(float), objective=objective, noise=noise
    )
    assert_all(found, Status.CONVERGED)
    phi, best = lane(found, 0), problem.diagonal
    sds = np.sqrt(np.diag(best.covariance))
    np.testing.assert_allclose((np.asarray(phi.loc) - best.mean) / sds, 0.0, atol=5e-3)
    np.testing.assert_allclose(np.sqrt(family.moments(phi).variance) / sds, 1.0, atol=1e-2)


def test_low_rank_finds_a_gaussian_of_its_rank(x64):
    """By default draws, a Gaussian is fitted exactly: the bound is the log evidence.

    A rank of 4 in dimension 5 leaves directions without a slope, along which a lane may come to
    rest a little short; it doesn't say then that it has converged.
    """
    found = maximise(GAUSSIAN_5.target, LowRank(4), GAUSSIAN_5.data_as(float))
    bound, converged = np.asarray(found.bound), np.asarray(found.status) == Status.CONVERGED
    assert converged.any()
    np.testing.assert_allclose(bound[converged], GAUSSIAN_5.log_evidence, atol=1e-5)
    np.testing.assert_allclose(bound, GAUSSIAN_5.log_evidence, atol=1e-2)


def test_the_gradient_vanishes_on_the_frozen_draws(x64):
    """Where a lane has converged, the loss on its own draws has no slope."""
    objective, noise = ELBO(num_draws=32), Frozen(Antithetic(shared=False))
    data = LOG_GAMMA.data_as(float)
    found = maximise(LOG_GAMMA.target, MeanField(), data, objective=objective, noise=noise)
    assert_all(found, Status.CONVERGED)
    problem = Problem(LOG_GAMMA.target, MeanField(), objective, data)
    slope_at = jax.jit(jax.grad(lambda phi, rows: problem.loss(phi, rows).loss))
    keys = split_key(KEY).noise
    for index in range(2):
        own = jax.random.fold_in(keys, index)
        rows = noise.draw(own, 7, MeanField(), 32, 2, jnp.dtype(float))
        phi = lane(found, index)
        slope = slope_at(phi, rows)
        assert np.abs(slope.loc * np.exp(phi.log_scale)).max() < 1e-6
        assert np.abs(slope.log_scale).max() < 1e-6


# The method


def test_steps_converge_quadratically(x64):
    """Near the optimum the decrement, a square, falls to less than its power 3/2 a step."""
    rows = MomentMatched().draw(KEY, 0, FullRank(), 64, 2, jnp.dtype(float))
    problem = Problem(LOG_GAMMA.target, FullRank(), ELBO(), None)

    @jax.jit
    def step(search):
        return trust_region_step(
            search,
            lambda phi: problem.loss(phi, rows),
            lambda phi: local_map(FullRank(), phi, rows),
            jnp.zeros((), bool),
        )

    search = start_trust_region_search(FullRank().init(KEY, 2, start=jnp.array([1.0, 0.5])))
    decrements = []
    for _ in range(25):
        search = step(search)
        decrements.append(float(search.decrement))
    close = [d for d in decrements if 1e-13 < d < 1e-2]
    assert len(close) >= 2
    assert min(decrements) < 1e-15
    for before, after in itertools.pairwise(decrements):
        if 1e-9 < before < 1e-2:
            assert after < before**1.5


def test_conjugate_gradients_solve_or_stop_at_the_boundary(x64):
    """The interior solution, the boundary where it lies outside, and along bad curvature."""
    rng = np.random.default_rng(1)
    half = rng.normal(size=(6, 6))
    matrix, grad = jnp.asarray(half @ half.T + np.eye(6)), jnp.asarray(rng.normal(size=6))
    exact = np.linalg.solve(matrix, -grad)
    inside = solve_within(lambda v: matrix @ v, grad, jnp.asarray(1e3), jnp.asarray(1e-12))
    assert inside.solved
    np.testing.assert_allclose(inside.step, exact, rtol=1e-10)
    np.testing.assert_allclose(inside.product, matrix @ inside.step, rtol=1e-10)
    radius = jnp.asarray(0.5 * np.linalg.norm(exact))
    short = solve_within(lambda v: matrix @ v, grad, radius, jnp.asarray(1e-12))
    assert not short.inside
    assert np.linalg.norm(short.step) == pytest.approx(radius)
    bent = solve_within(lambda v: -(matrix @ v), grad, radius, jnp.asarray(1e-12))
    assert bent.flat
    assert not bent.solved
    assert np.linalg.norm(bent.step) == pytest.approx(radius)
    nan = solve_within(lambda v: jnp.nan * v, grad, radius, jnp.asarray(1e-12))
    assert nan.flat
    np.testing.assert_allclose(nan.step, -radius * grad / np.linalg.norm(grad))


@pytest.mark.parametrize("family", [FullRank(), LowRank(2)], ids=repr)
def test_local_coordinates_measure_q(family, x64):
    """0 is phi; the information is 1 along every coordinate, whatever q's scales are."""
    phi = family.init_gaussian(KEY, jnp.array([3.0, -2.0]), jnp.array([[40.0, 0.0], [0.3, 0.01]]))
    noise = family.draw_noise(KEY, 4_000, 2, jnp.dtype(float))
    move = local_map(family, phi, noise[:64])
    size = sum(leaf.size for leaf in jax.tree.leaves(phi))
    jax.tree.map(np.testing.assert_array_equal, move(jnp.zeros(size)), phi)
    z = jax.vmap(family.transform, (None, 0))(phi, noise)
    at = jax.jit(
        jax.vmap(lambda z: jax.grad(lambda x: family.log_prob(move(x), z))(jnp.zeros(size)))
    )
    information = np.mean(np.square(at(z)), axis=0)
    seen = information[information > 1e-12]
    assert seen.min() > 0.4
    assert seen.max() < 2.5


# No optimum


WALL, SD = 30.0, 2.0
ODD = ["rises", "constant", "separable", "wall", "nowhere"]


def odd_density(z, data):
    """Densities that have no maximum of the bound, or none that is easily come by."""

    def rises(z):
        return 3.0 + z[0] - 0.5 * (z[1] - 2.0) ** 2

    def constant(z):
        return 1.5 + 0.0 * z.sum()

    def separable(z):
        return -jnp.sum(jnp.logaddexp(0.0, -3.0 * z))

    def wall(z):
        square = jnp.sum((z - 6.0) ** 2) / SD**2
        return jnp.where(jnp.all(z < WALL), 4.0 - 0.5 * square, jnp.nan)

    def nowhere(z):
        return jnp.where(jnp.abs(z).max() < 1e-12, 0.0, jnp.nan) - jnp.sum(z**2)

    return lax.switch(data["which"], [rises, constant, separable, wall, nowhere], z)


def odd(name, method, dtype, most):
    data = {"which": jnp.asarray(ODD.index(name)), "dtype": jnp.zeros((), dtype)}
    target, start = jaxvi.Target(odd_density, jaxvi.Real(2)), jnp.zeros(2, dtype)
    return maximise(target, MeanField(), data, start, solver=FrozenNoise(method), most=most)


CASES = [("newton", "float32"), ("lbfgs", "float64")]


@pytest.mark.parametrize(("method", "dtype"), CASES)
def test_what_has_no_optimum_is_not_found(method, dtype):
    """Bounds that rise for ever are unbounded; NaN from the start is not finite, and at once."""
    with jax.enable_x64(dtype == "float64"):
        for name in ("rises", "constant"):
            assert_all(odd(name, method, dtype, 2_000), Status.UNBOUNDED)
        # a bound that creeps up a curved valley may take more steps than there are
        assert not (np.asarray(odd("separable", method, dtype, 300).status) == 1).any()
        found = odd("nowhere", method, dtype, 300)
        assert_all(found, Status.NOT_FINITE)
        assert (np.asarray(found.step) <= 8).all()


@pytest.mark.parametrize(("method", "dtype"), CASES)
def test_trials_that_are_not_finite_are_stepped_round(method, dtype):
    """A density that is NaN beyond a wall 12 sds away is fitted; its optimum is known."""
    with jax.enable_x64(dtype == "float64"):
        found = odd("wall", method, dtype, 2_000)
    assert_all(found, Status.CONVERGED)
    np.testing.assert_allclose(found.phi.loc, 6.0, atol=5e-3)
    np.testing.assert_allclose(np.exp(found.phi.log_scale), SD, rtol=2e-3)


def test_too_few_draws_that_pass_the_door_are_unbounded(x64, monkeypatch):
    """FullRank on 3 draws in 5 dimensions: the entropy grows, and no lane converges."""
    monkeypatch.setattr(_frozen_noise, "check_num_draws", lambda *_: None)
    noise, objective = Frozen(Fresh()), ELBO(num_draws=3)
    data = GAUSSIAN_5.data_as(float)
    options = {"noise": noise, "objective": objective, "most": 4_000}
    found = maximise(GAUSSIAN_5.target, FullRank(), data, **options)
    assert_all(found, Status.UNBOUNDED)


# The door


@pytest.mark.parametrize(
    ("family", "dim", "plain", "mirrored"),
    [
        (MeanField(), 7, 2, 2),
        (FullRank(), 7, 8, 14),
        (FullRank(), 1, 2, 2),
        (LowRank(3), 7, 5, 8),
        (StudentT(), 7, 8, 14),
        (StudentT(structure="diagonal"), 7, 2, 2),
    ],
    ids=repr,
)
def test_too_few_draws_are_refused(family, dim, plain, mirrored):
    """One draw fewer than a coordinate has numbers is refused; what is proposed is not."""
    assert draws_needed(family, dim) == plain
    solver = FrozenNoise()
    for noise, least in ((Frozen(Fresh()), plain), (Frozen(Antithetic()), mirrored)):
        solver.check(family, ELBO(num_draws=least), noise, dim)
        with pytest.raises(ValueError, match=f"expected at least {least} draws.*try num_draws="):
            solver.check(family, ELBO(num_draws=least - 1), noise, dim)
        parts = solver.defaults(family, dim)
        parts.noise.check(family, parts.objective.num_draws)
        solver.check(family, parts.objective, parts.noise, dim)


def test_fewest_draws_decide_between_bounded_and_not(x64):
    """The entropy's direction that no draw sees is there at one draw less, and not at least."""
    phi = FullRank().init(KEY, 3, start=jnp.zeros(3))
    move_all = jax.vmap(FullRank().transform, (None, 0))
    for num, full in ((4, True), (3, False)):
        rows = Fresh().draw(KEY, 0, FullRank(), num, 3, jnp.dtype(float))
        jacobian = jax.jacrev(move_all)(phi, rows)
        leaves = [np.asarray(leaf).reshape(3 * num, -1) for leaf in jacobian]
        seen = np.concatenate(leaves, axis=1)
        seen = seen[:, np.abs(seen).max(axis=0) > 0]
        assert (np.linalg.matrix_rank(seen) == seen.shape[1]) == full


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"noise": Fresh()}, TypeError, r"drawn once; got Fresh.*try noise=jaxvi.Frozen\(Fresh"),
        (
            {"objective": ELBO(num_draws=64, stick_the_landing=True)},
            ValueError,
            "drops a term; try stick_the_landing=False",
        ),
        ({"objective": ELBO(num_draws=4)}, ValueError, "at least 6 draws.*got 4; try num_draws="),
    ],
)
def test_misfits_are_refused(options, error, words):
    """Parts that don't go together are refused with what would."""
    target = jaxvi.Target(lambda z: -jnp.sum(z**2), jaxvi.Real(3))
    with pytest.raises(error, match=f"FrozenNoise: expected .*{words}"):
        jaxvi.fit(KEY, target, FullRank(), solver=FrozenNoise(), **options)


def test_numbers_out_of_range_are_refused():
    """A tolerance and a method that there are."""
    with pytest.raises(
        ValueError,
        match=r"tolerance: expected a finite number above 0; got 0\.0; try tolerance=1e-06",
    ):
        FrozenNoise(tolerance=0.0)
    with pytest.raises((ValueError, TypeError), match="bfgs"):
        FrozenNoise("bfgs")


def test_a_family_with_nothing_to_offer(x64):
    """Unit Gaussians without a mirror: frozen fresh noise by default, and the exact mean of it."""
    parts = FrozenNoise().defaults(Bare(), 3)
    assert parts.noise == Frozen(Fresh())
    target = jaxvi.Target(lambda z: 1.0 - 0.5 * jnp.sum((z - 4.0) ** 2), jaxvi.Real(3))
    found = maximise(target, Bare())
    assert_all(found, Status.CONVERGED)
    num = parts.objective.num_draws
    rows = Fresh().draw(split_key(KEY).noise, 0, Bare(), num, 3, jnp.dtype(float))
    np.testing.assert_allclose(found.phi[0][0], 4.0 - rows.mean(axis=0), atol=1e-3)


# Matched moments


@pytest.mark.parametrize("source", [Fresh(), Sobol()], ids=repr)
def test_matched_moments_are_exact(source, dtype):
    """Mean 0, second moments the identity; with few rows, ones on the diagonal alone."""
    noise = MomentMatched(source)
    tolerance = 100 * jnp.finfo(dtype).eps
    draw = jax.jit(noise.draw, static_argnums=(2, 3, 4, 5))
    for num, size in ((8, 4), (256, 12)):
        rows = np.asarray(draw(KEY, 3, MeanField(), num, size, dtype))
        assert rows.shape == (num, size)
        assert rows.dtype == dtype
        np.testing.assert_allclose(rows.sum(axis=0), 0.0, atol=tolerance * num)
        np.testing.assert_allclose(rows.T @ rows / num, np.eye(size), atol=tolerance)
    few = np.asarray(draw(KEY, 3, MeanField(), 8, 30, dtype))
    np.testing.assert_allclose(np.mean(few**2, axis=0), 1.0, rtol=tolerance)
    np.testing.assert_array_equal(few[4:], -few[:4])


def test_matching_twice_is_matching_once(x64):
    """Matched rows are left as they are, signs included."""
    rows = jax.random.normal(KEY, (12, 5))
    once = match_moments(rows)
    np.testing.assert_allclose(match_moments(once), once, atol=1e-12)
    # a triangular root keeps directions: no coordinate is turned against what it was
    assert (np.sum(np.asarray(once) * np.asarray(rows), axis=0) > 0).all()


def test_matched_integrals_have_a_bias_of_order_one_over_num(x64):
    """E[e^4] = 3 comes out low by a share that falls fourfold from 8 draws to 32."""
    keys = jax.random.split(KEY, 20_000)

    def short_by(num):
        draw = jax.jit(
            jax.vmap(lambda k: MomentMatched().draw(k, 0, MeanField(), num, 1, jnp.dtype(float)))
        )
        values = np.mean(np.asarray(draw(keys)) ** 4, axis=(1, 2))
        return 3.0 - values.mean(), values.std() / len(values) ** 0.5

    # rows of a uniform direction in num / 2 dimensions: E[e^4] = 3 m / (m + 2), m = num / 2
    for num in (8, 32):
        half = num / 2
        off, error = short_by(num)
        assert off == pytest.approx(3.0 - 3.0 * half / (half + 2.0), abs=5 * error)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: MomentMatched().check(Bare(), 8), TypeError, "standard normals.*got Bare"),
        (
            lambda: MomentMatched().check(MeanField(), 7),
            ValueError,
            "even num_draws; got 7; try num_draws=8",
        ),
        (lambda: MomentMatched(Sobol()).check(MeanField(), 12), ValueError, "power of two.*got 6"),
        (
            lambda: MomentMatched(Antithetic()),
            TypeError,
            r"Fresh\(\) or Sobol\(\).*try MomentMatched",
        ),
    ],
)
def test_matching_refuses_what_it_cannot(make, error, words):
    with pytest.raises(error, match=words):
        make()
