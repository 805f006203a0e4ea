"""The Laplace solver and its parts: the exact mode and curvature, or a status that says why not."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import GAUSSIAN_3, LOG_2PI

import jaxvi
from jaxvi import families
from jaxvi.solvers import Laplace, Problem
from jaxvi.solvers._deterministic import lbfgs, newton

pytestmark = pytest.mark.usefixtures("compiled_quickly")
LANES = 6
SHAPE, RATE = 3.0, 0.2
PRECISION = np.array([[4.0, 3.0], [3.0, 9.0]])
MEAN = np.array([3.0, -1.0])
POINTS = np.array([1.2, 2.5, 3.1, 3.3])


def normal(z):
    r = z - jnp.asarray(MEAN, z.dtype)
    return 7.0 - 0.5 * r @ jnp.asarray(PRECISION, z.dtype) @ r


def singular_mixture(z):
    """Data from a wide normal and one of unknown mean and log sd: infinite at a point, sd -> 0."""
    white = (jnp.asarray(POINTS, z.dtype) - z[0]) * jnp.exp(-z[1])
    return jnp.logaddexp(-0.5 * white**2 - z[1], -0.5 * jnp.asarray(POINTS, z.dtype) ** 2).sum()


# name: log density of two coordinates, the status of every lane, and a start if it matters
ZOO = {
    "normal": (normal, {"CONVERGED"}, None),
    "log gamma": (
        lambda z: jnp.sum(SHAPE * z - RATE * jnp.exp(z)),
        {"CONVERGED"},
        None,
    ),
    "heavy tails": (lambda z: -jnp.sum(jnp.log1p((z - 3.0) ** 2)), {"CONVERGED"}, None),
    "valley": (
        lambda z: -((1.0 - z[0]) ** 2) - 100.0 * (z[1] - z[0] ** 2) ** 2,
        {"CONVERGED"},
        None,
    ),
    "on a saddle": (
        lambda z: -4.0 * (z[0] ** 2 - 1.0) ** 2 - 0.5 * (z[1] - 2.0) ** 2,
        {"CONVERGED"},
        [0.0, 2.0],
    ),
    "beside NaN": (lambda z: jnp.sum(jnp.log(z) - z), {"CONVERGED"}, [0.1, 40.0]),
    "constant": (lambda z: 2.0 + 0.0 * z.sum(), {"SINGULAR"}, None),
    "flat direction": (lambda z: -((z[0] - z[1] - 3.0) ** 2), {"SINGULAR"}, None),
    "quartic": (lambda z: -jnp.sum((z - 3.0) ** 4), {"SINGULAR"}, None),
    "kink": (lambda z: -jnp.sum(jnp.abs(z - 3.0)), {"SINGULAR"}, None),
    "linear": (lambda z: 0.01 * z[0] - 0.5 * (z[1] - 1.0) ** 2, {"UNBOUNDED"}, None),
    "exponential tail": (
        lambda z: 50.0 - jnp.exp(-z[0]) - 0.5 * (z[1] - 1.0) ** 2,
        {"UNBOUNDED"},
        None,
    ),
    "power tail": (lambda z: -jnp.sum(1.0 / (1.0 + jnp.sqrt(1.0 + z**2))), {"UNBOUNDED"}, None),
    "convex": (lambda z: jnp.sum((z - 3.0) ** 2), {"UNBOUNDED"}, None),
    "exploding": (lambda z: jnp.exp(z[0]) - 0.5 * z[1] ** 2, {"UNBOUNDED"}, None),
    "wall of NaN": (
        lambda z: jnp.where(z[0] < 5.0, z[0], jnp.nan) - 0.5 * (z[1] - 1.0) ** 2,
        {"NOT_FINITE"},
        None,
    ),
    "singularity": (
        singular_mixture,
        {"UNBOUNDED", "NOT_FINITE", "SINGULAR", "STALLED"},
        [POINTS[1], -4.0],
    ),
}


def from_the_zoo(z, which):
    return jax.lax.switch(which, [density for density, _, _ in ZOO.values()], z)


ZOO_TARGET = jaxvi.Target(from_the_zoo, jaxvi.Real((2,)))


@functools.partial(jax.jit, static_argnames="dtype")
def run_zoo(which, starts, dtype):
    """One program for every density of the zoo; `dtype` since the target is the same."""
    run = functools.partial(
        jaxvi.run, target=ZOO_TARGET, family=jaxvi.FullRank(), solver=Laplace(), data=which
    )
    return jax.vmap(lambda key, start: run(key, start=start, max_steps=3_000))(
        jax.random.split(jax.random.key(0), LANES), starts
    )


def zoo(name, dtype):
    """Ends of all lanes for one density of the zoo."""
    _, _, start = ZOO[name]
    starts = 2.0 * jax.random.normal(jax.random.key(5), (LANES, 2), dtype)
    if start is not None:
        starts = jnp.broadcast_to(jnp.asarray(start, dtype)[None], (LANES, 2))
    return run_zoo(jnp.int32(list(ZOO).index(name)), starts, str(dtype))


@pytest.mark.parametrize("name", ZOO)
def test_every_lane_ends_as_it_should(name, dtype):
    """Modes are found, and what has none is never called converged; q is finite in all cases."""
    ends = zoo(name, dtype)
    found = {jaxvi.Status(int(code)).name for code in ends.status}
    assert found <= ZOO[name][1]
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(ends))
    if found == {"CONVERGED"}:
        target = functools.partial(ZOO[name][0])
        hessians = jax.vmap(jax.hessian(target))(ends.phi.loc)
        factors = jax.vmap(jaxvi.FullRank().scale_tril)(ends.phi)
        white = jnp.swapaxes(factors, 1, 2) @ hessians @ factors  # -I at a proper mode
        slopes = jnp.einsum("lij,li->lj", factors, jax.vmap(jax.grad(target))(ends.phi.loc))
        tolerance = 1e-4 if dtype == jnp.float64 else 0.05
        assert abs(white + jnp.eye(2, dtype=dtype)[None]).max() < tolerance
        assert abs(slopes).max() < tolerance


def test_modes_are_the_known_ones(dtype):
    """In closed form: the bound too, which for a normal is its log evidence."""
    precise = dtype == jnp.float64
    ends = zoo("normal", dtype)
    evidence = 7.0 + LOG_2PI - 0.5 * np.linalg.slogdet(PRECISION)[1]
    np.testing.assert_allclose(ends.phi.loc, np.tile(MEAN, (LANES, 1)), rtol=1e-6)
    np.testing.assert_allclose(ends.bound, evidence, rtol=1e-9 if precise else 1e-5)
    ends = zoo("log gamma", dtype)
    # to a root of the tolerance of the decrement, in standard deviations
    np.testing.assert_allclose(ends.phi.loc, math.log(SHAPE / RATE), atol=1e-6 if precise else 3e-3)
    np.testing.assert_allclose(
        ends.phi.log_diag, -0.5 * math.log(SHAPE), atol=1e-6 if precise else 3e-3
    )
    ends = zoo("on a saddle", dtype)
    np.testing.assert_allclose(jnp.abs(ends.phi.loc), [[1.0, 2.0]] * LANES, atol=1e-4)


def test_ill_conditioned_gaussian(x64):
    """Dimension 30, variances over a factor of 1e4, rotated: mode, covariance and evidence."""
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    covariance = rotation * np.geomspace(1e-2, 1e2, 30)[None] @ rotation.T
    precision, mean = np.linalg.inv(covariance), rng.normal(size=30) * 5.0

    def log_density(z, data):
        r = z - data["mean"]
        return 11.0 - 0.5 * r @ data["precision"] @ r

    target, data = (
        jaxvi.Target(log_density, jaxvi.Real((30,))),
        {"mean": mean, "precision": precision},
    )
    run = functools.partial(jaxvi.run, target=target, family=jaxvi.FullRank(), solver=Laplace())
    ends = jax.jit(jax.vmap(functools.partial(run, data=data)))(
        jax.random.split(jax.random.key(0), 3)
    )
    assert (ends.status == jaxvi.Status.CONVERGED).all()
    assert np.abs((ends.phi.loc - mean[None]) / np.sqrt(np.diag(covariance))[None]).max() < 1e-6
    error = jax.vmap(jaxvi.FullRank().covariance)(ends.phi) - covariance[None]
    assert np.abs(error).max() < 1e-6 * np.abs(covariance).max()
    evidence = 11.0 + 15.0 * LOG_2PI + 0.5 * np.linalg.slogdet(covariance)[1]
    np.testing.assert_allclose(ends.bound, evidence, atol=1e-6)
    assert ends.step.max() < 500


def test_mean_field_takes_the_diagonal_of_the_precision(x64):
    """For a Gaussian target that is the optimum of the ELBO, and the bound reported is its."""
    problem = GAUSSIAN_3
    result = jax.jit(
        functools.partial(
            jaxvi.run, target=problem.target, family=jaxvi.MeanField(), solver=Laplace()
        )
    )(jax.random.key(2), data=problem.data_as(float))
    assert result.status == jaxvi.Status.CONVERGED
    np.testing.assert_allclose(result.phi.loc, problem.diagonal.mean, rtol=1e-7)
    variances = np.exp(2.0 * result.phi.log_scale)
    np.testing.assert_allclose(variances, np.diag(problem.diagonal.covariance), rtol=1e-7)
    np.testing.assert_allclose(result.bound, problem.diagonal.bound, rtol=1e-9)


def logistic_problem():
    """Logistic regression with a prior, not a Gaussian by far."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(30, 4)) * np.array([1.0, 5.0, 0.2, 1.0]))
    y = jnp.asarray(rng.random(30) < 0.3)

    def log_density(w, data):
        logits = data["x"] @ w
        likelihood = jnp.where(data["y"], logits, 0.0) - jax.nn.softplus(logits)
        return likelihood.sum() - 0.05 * w @ w

    target = jaxvi.Target(log_density, jaxvi.Real((4,)))
    return Problem(target, jaxvi.FullRank(), jaxvi.ELBO(), {"x": x, "y": y})


def value_and_gradient(problem):
    """At one point."""

    def evaluate(z):
        values, grads = problem.values_and_gradients(z[None])
        return values[0], grads[0]

    return evaluate


def newton_trace(problem, z, tolerance=1e-22):
    """Every state of Newton's method from z."""
    step = jax.jit(lambda state: newton.newton_step(state, problem, tolerance))
    state = newton.start_newton(lbfgs.Point(z, *value_and_gradient(problem)(z)))
    states = []
    while bool(newton.unfinished(state)):
        state = step(state)
        states.append(state)
    return states


def test_newton_converges_to_second_order(x64):
    """Near the mode a decrement is the square of the one before, times a constant."""
    states = newton_trace(logistic_problem(), jnp.full(4, 0.5))
    assert states[-1].status == jaxvi.Status.CONVERGED
    decrements = np.array([float(state.decrement) for state in states])
    near = np.flatnonzero((decrements[:-1] < 1e-1) & (decrements[1:] > 1e-25))
    near = near[decrements[near + 1] != decrements[near]]  # the certificate stays where it is
    assert len(near) >= 2
    ratios = decrements[near + 1] / decrements[near] ** 2
    assert ratios.max() < 10.0


def test_newton_takes_no_step_that_loses(x64):
    """From far out, on a density with convex regions, log p rises with every step."""

    def bumpy(z):
        return -jnp.sum(jnp.log1p((z - 3.0) ** 2)) + jnp.cos(2.0 * z[0]) * jnp.sin(z[1])

    target = jaxvi.Target(bumpy, jaxvi.Real((2,)))
    problem = Problem(target, jaxvi.FullRank(), jaxvi.ELBO(), None)
    states = newton_trace(problem, jnp.array([-9.0, 14.0]))
    values = np.array([float(state.at.value) for state in states])
    assert states[-1].status == jaxvi.Status.CONVERGED
    assert (np.diff(values) > -1e-13).all()


@pytest.mark.parametrize("dim", [3, 70])
def test_dense_hessian_by_columns(dim, x64):
    """In slices or at once, it is that of automatic differentiation, and symmetric."""

    def log_density(z):
        return -jnp.sum(jnp.cosh(z)) + jnp.prod(jnp.sin(z[:3])) + 0.1 * z[0] * z[-1]

    problem = Problem(
        jaxvi.Target(log_density, jaxvi.Real((dim,))), jaxvi.FullRank(), jaxvi.ELBO(), None
    )
    z = jnp.linspace(-1.0, 2.0, dim) + 0.3
    found = newton.dense_hessian(z, problem)
    np.testing.assert_allclose(found, jax.hessian(log_density)(z), atol=1e-12)
    np.testing.assert_array_equal(found, found.T)


def test_whitening_and_its_factor(x64):
    """W W^T = |H|^-1, whatever the units; L L^T is the same with L lower triangular."""
    rng = np.random.default_rng(0)
    units = np.geomspace(1e-6, 1e6, 5)
    root = rng.normal(size=(5, 5))
    hessian = -(root @ root.T + 0.1 * np.eye(5)) / units[:, None] / units[None]
    curvature = newton.measure(jnp.asarray(hessian))
    assert not curvature.rising.any()
    assert not curvature.flat.any()
    covariance = np.linalg.inv(-hessian * units[:, None] * units[None])
    white = np.asarray(curvature.whiten) / units[:, None]
    np.testing.assert_allclose(white @ white.T, covariance, rtol=1e-9, atol=1e-9)
    factor = np.asarray(newton.scale_tril(curvature)) / units[:, None]
    np.testing.assert_allclose(factor, np.linalg.cholesky(covariance), rtol=1e-7, atol=1e-9)
    mixed = newton.measure(jnp.array([[0.0, 3.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert (mixed.rising.sum(), mixed.flat.sum()) == (1, 1)


# L-BFGS


def test_pairs_are_the_inverse_hessian_of_bfgs(x64):
    """The product is that of the matrix that BFGS updates make, up to the last `memory` pairs."""
    rng = np.random.default_rng(4)
    dim, memory = 5, 4
    root = rng.normal(size=(dim, dim))
    hessian = root @ root.T + np.eye(dim)
    steps = rng.normal(size=(6, dim))
    changes = steps @ hessian
    empty = jnp.zeros((memory, dim))
    pairs = lbfgs.Pairs(empty, empty, jnp.zeros(memory), jnp.ones(dim))
    for step, change in zip(steps, changes, strict=True):
        pairs = lbfgs.add_pair(pairs, jnp.asarray(step), jnp.asarray(change))
    inverse = np.eye(dim) * (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y in zip(steps[-memory:], changes[-memory:], strict=True):
        left = np.eye(dim) - np.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
    vector = rng.normal(size=dim)
    found = lbfgs.inverse_product(pairs, jnp.asarray(vector))
    np.testing.assert_allclose(found, inverse @ vector, rtol=1e-10)
    assert (pairs.diagonal > 0.0).all()
    bent = lbfgs.add_pair(pairs, jnp.asarray(step), -jnp.asarray(change))
    np.testing.assert_array_equal(bent.steps, pairs.steps)  # no curvature downwards: left out


def test_diagonal_of_a_diagonal_hessian(x64):
    """The diagonal that Pathfinder takes comes to the variances of an independent Gaussian."""
    rng = np.random.default_rng(6)
    variances = jnp.array([0.01, 1.0, 25.0])
    pairs = lbfgs.start_search(jnp.zeros(3), jnp.zeros(()), jnp.zeros(3), 5).pairs
    for row in rng.normal(size=(60, 3)):
        step = jnp.asarray(row) * jnp.sqrt(variances)
        pairs = jax.jit(lbfgs.add_pair)(pairs, step, step / variances)
    np.testing.assert_allclose(pairs.diagonal, variances, rtol=0.02)


def test_line_searches_end_where_wolfe_says(x64):
    """Every accepted step rises enough and leaves less slope, also next to values of NaN."""

    def log_density(z):
        return jnp.sum(jnp.log(z) - z) - (z[0] - z[1] ** 2) ** 2  # NaN for z < 0

    problem = Problem(
        jaxvi.Target(log_density, jaxvi.Real((2,))), jaxvi.FullRank(), jaxvi.ELBO(), None
    )
    evaluate = value_and_gradient(problem)
    climb = jax.jit(lambda search: lbfgs.climb(search, evaluate))
    z = jnp.array([0.01, 9.0])
    search, moves = lbfgs.start_search(z, *evaluate(z), 5), 0
    while jnp.linalg.norm(search.at.grad) > 1e-5 and moves < 60:
        before, search = search, climb(search)
        assert search.accepted
        step, promised = search.at.z - before.at.z, before.direction @ before.at.grad
        length = jnp.linalg.norm(step) / jnp.linalg.norm(before.direction)
        assert search.at.value >= before.at.value + 0.99e-4 * length * promised
        assert before.direction @ search.at.grad <= 0.901 * promised
        moves += 1
    assert 3 < moves < 60
    np.testing.assert_allclose(jax.grad(log_density)(search.at.z), 0.0, atol=1e-5)


# the door


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (ValueError, "tolerance", {"tolerance": 0.0}),
        (ValueError, "memory", {"memory": 0}),
        (ValueError, "max_dense", {"max_dense": -1}),
    ],
)
def test_bad_numbers_are_refused(error, words, arguments):
    with pytest.raises(error, match=rf"Laplace\.{words}: expected"):
        Laplace(**arguments)


class Bare(families.Family):
    """A family that takes no Gaussian."""

    def init(self, key, dim, *, start=None):
        return start

    def draw_noise(self, key, num, dim, dtype=None):
        return jnp.zeros((num, dim), dtype)

    def transform(self, phi, noise):
        return phi + noise

    def log_prob(self, phi, z):
        return -jnp.sum((z - phi) ** 2)


def test_a_dense_gaussian_is_the_default():
    """Whatever the dimension: what is too large is refused, not approximated."""
    assert Laplace().defaults(None, 900).family == jaxvi.FullRank()


def test_what_does_not_fit_is_refused_at_the_door(key):
    with pytest.raises(ValueError, match=r"at most 1 coordinates.*got 2"):
        jaxvi.fit(key, ZOO_TARGET, solver=Laplace(max_dense=1), data=jnp.int32(0))
    with pytest.raises(TypeError, match="init_gaussian"):
        jaxvi.fit(key, ZOO_TARGET, Bare(), solver=Laplace(), data=jnp.int32(0))
