"""Pathfinder: the algebra of its Gaussians, known posteriors, and paths that lead nowhere."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import GAUSSIAN_5, LOG_GAMMA, normal_log_prob

import jaxvi
from jaxvi import Status, families
from jaxvi._engine import LaneResult
from jaxvi.families import NormalNoiseFamily
from jaxvi.objectives import Objective
from jaxvi.results import importance_resample
from jaxvi.solvers import Pathfinder
from jaxvi.solvers._deterministic.path_gaussian import (
    PathGaussian,
    conjugate_pairs,
    draw_path,
    family_member,
    path_gaussian,
)

DIM, MEMORY = 7, 5


def bfgs(diagonal: np.ndarray, steps: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """The inverse Hessian by the textbook's formula, pairs of zeros left out."""
    inverse = np.diag(diagonal)
    for s, y in zip(steps, changes, strict=True):
        if s @ y > 0.0:
            left = np.eye(len(s)) - np.outer(s, y) / (s @ y)
            inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
    return inverse


@functools.cache
def pairs_of_a_path(seed: int = 4) -> dict[str, np.ndarray]:
    """Pairs of a density that is no Gaussian, the oldest place empty."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(DIM, DIM))
    precision = root @ root.T + 0.1 * np.eye(DIM)
    steps = rng.normal(size=(MEMORY, DIM))
    changes = steps @ precision + 0.1 * steps**3
    steps[0] = changes[0] = 0.0
    return {
        "z": rng.normal(size=DIM) + 3.0,
        "grad": rng.normal(size=DIM),
        "diagonal": rng.uniform(0.2, 3.0, size=DIM),
        "steps": steps,
        "changes": changes,
    }


def as_jax(arrays: dict[str, np.ndarray], dtype: Any = float) -> dict[str, jax.Array]:
    return {name: jnp.asarray(array, dtype) for name, array in arrays.items()}


def test_the_gaussian_is_that_of_the_textbooks_updates(dtype: np.dtype) -> None:
    """Covariance, mean, draws and density, against dense matrices in float64."""
    parts = pairs_of_a_path()
    inverse = bfgs(parts["diagonal"], parts["steps"], parts["changes"])
    q = path_gaussian(**as_jax(parts, dtype))
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == jnp.float64 else {"rtol": 2e-3, "atol": 2e-4}
    mean = parts["z"] + inverse @ parts["grad"]
    np.testing.assert_allclose(q.loc, mean, **close)
    assert float(q.log_det) == pytest.approx(0.5 * np.linalg.slogdet(inverse)[1], rel=close["rtol"])
    rows, _ = draw_path(q, jnp.eye(DIM, dtype=dtype))
    factor = (np.asarray(rows, float) - np.asarray(q.loc, float)).T
    np.testing.assert_allclose(factor @ factor.T, inverse, **close)
    z, log_q = draw_path(q, jax.random.normal(jax.random.key(0), (20, DIM), dtype))
    np.testing.assert_allclose(log_q, normal_log_prob(np.asarray(z, float), mean, inverse), **close)


def test_without_pairs_it_is_the_diagonal_one(x64: None) -> None:
    parts = as_jax(pairs_of_a_path())
    none = jnp.zeros((MEMORY, DIM))
    q = path_gaussian(parts["z"], parts["grad"], parts["diagonal"], none, none)
    np.testing.assert_allclose(q.loc, parts["z"] + parts["diagonal"] * parts["grad"], rtol=1e-12)
    assert float(q.log_det) == pytest.approx(0.5 * float(jnp.log(parts["diagonal"]).sum()))


def test_conjugate_pairs_keep_every_secant_and_are_exact_on_a_quadratic(x64: None) -> None:
    """As many as the dimension give the inverse Hessian; updates by the raw pairs don't."""
    rng = np.random.default_rng(6)
    root = rng.normal(size=(DIM, DIM))
    precision = root @ root.T + 0.01 * np.eye(DIM)
    steps = rng.normal(size=(DIM + 2, DIM))
    steps[2] = steps[5] * 1.5  # nothing new in it
    steps[0] = 0.0
    changes = steps @ precision
    left, right = conjugate_pairs(jnp.asarray(steps), jnp.asarray(changes))
    used = np.asarray((left != 0.0).any(-1))
    np.testing.assert_array_equal(used, [False, True, False] + [True] * (DIM - 1))
    np.testing.assert_allclose(left @ right.T, np.diag(used), atol=1e-8)
    diagonal = rng.uniform(0.2, 3.0, size=DIM)
    exact = np.linalg.inv(precision)
    np.testing.assert_allclose(bfgs(diagonal, left, right), exact, rtol=1e-6, atol=1e-6)
    assert np.abs(bfgs(diagonal, steps, changes) / exact - 1.0).max() > 0.05
    # fewer: each pair's secant equation holds, H y = s
    left, right = conjugate_pairs(jnp.asarray(steps[-4:]), jnp.asarray(changes[-4:]))
    inverse = bfgs(diagonal, left, right)
    np.testing.assert_allclose(changes[-4:] @ inverse, steps[-4:], rtol=1e-7, atol=1e-8)


def wide_gaussian(dim: int) -> tuple[PathGaussian, np.ndarray]:
    rng = np.random.default_rng(1)
    parts = {name: rng.normal(size=(6, dim)) for name in ("steps", "weights")}
    root = rng.uniform(0.3, 2.0, size=dim)
    loc = rng.normal(size=dim)
    factor = (np.eye(dim) + 0.2 * parts["steps"].T @ parts["weights"]) * root
    q = PathGaussian(
        *(jnp.asarray(a) for a in (loc, root, 0.2 * parts["steps"], parts["weights"])),
        jnp.asarray(np.linalg.slogdet(factor)[1]),
    )
    return q, factor @ factor.T


@pytest.mark.parametrize("dim", [9, 40])
def test_members_of_families(dim: int, x64: None) -> None:
    """FullRank is exact; the others have the mean and the marginal variances."""
    q, covariance = wide_gaussian(dim)
    exact = families.FullRank()
    phi = family_member(exact, q)
    np.testing.assert_allclose(exact.covariance(phi), covariance, rtol=1e-9, atol=1e-9)
    low = [families.LowRank(6)] if dim == 40 else []  # below, by factor analysis
    for family in [exact, families.MeanField(), *low]:
        moments = family.moments(family_member(family, q))
        np.testing.assert_allclose(moments.mean, q.loc, rtol=1e-12)
        np.testing.assert_allclose(moments.variance, np.diag(covariance), rtol=1e-8)
    if dim == 40:  # of no rank is a better one nearer than MeanField's own
        phis = [family_member(family, q) for family in (*low, families.MeanField())]
        off = [
            np.asarray(f.covariance(p)) - covariance
            for f, p in zip([*low, families.MeanField()], phis, strict=True)
        ]
        assert np.linalg.norm(off[0]) < 0.7 * np.linalg.norm(off[1])


def test_a_gaussian_posterior_is_found(x64: None) -> None:
    """The best path of some sees every direction; others may end before."""
    problem = GAUSSIAN_5
    fit = jaxvi.fit(
        jax.random.key(1), problem.target, solver=Pathfinder(), data=problem.data_as(float),
        num_restarts=8,
    ).check()  # fmt: skip
    assert isinstance(fit.setup.family, jaxvi.FullRank)
    assert (fit.status == Status.CONVERGED).all()
    phi = fit.lane(fit.best).phi
    scales = np.sqrt(np.diag(problem.covariance))
    assert (np.abs(phi.loc - problem.mean) < 1e-3 * scales).all()
    covariance = fit.setup.family.covariance(phi) / np.outer(scales, scales)
    exact = problem.covariance / np.outer(scales, scales)
    np.testing.assert_allclose(covariance, exact, atol=5e-3)
    assert fit.bound == pytest.approx(problem.log_evidence, abs=5e-3)
    assert (fit.bounds > problem.log_evidence - 2.0).all()


def stretched(z: Any, data: Any) -> jax.Array:
    error = z - data["mean"]
    return 5.0 - 0.5 * error @ data["precision"] @ error


def test_dimension_30_and_condition_number_10000(x64: None) -> None:
    """A thousandth of a standard deviation in the mean, and 0.5 % in every direction's variance."""
    rng, dim = np.random.default_rng(0), 30
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    covariance = (axes * np.logspace(-2.0, 2.0, dim)) @ axes.T
    mean = 3.0 * rng.normal(size=dim)
    data = {"mean": jnp.asarray(mean), "precision": jnp.asarray(np.linalg.inv(covariance))}
    target = jaxvi.Target(stretched, jaxvi.Real(dim))
    fit = jaxvi.fit(
        jax.random.key(0), target, data=data, solver=Pathfinder(), num_restarts=2
    ).check()
    phi = fit.lane(fit.best).phi
    error = (phi.loc - mean) / np.sqrt(np.diag(covariance))
    assert jnp.abs(error).max() < 1e-3
    ratio = np.linalg.eigvals(np.linalg.solve(covariance, fit.setup.family.covariance(phi)))
    assert np.abs(ratio.real - 1.0).max() < 5e-3
    assert fit.steps.max() < 400


CASES = {
    # name: log density of two coordinates, status, z0 and z1 of the mean where there is one
    "linear": (lambda z: z[0] - 0.5 * z[1] ** 2, Status.UNBOUNDED, None),
    "slower than linear": (
        lambda z: jnp.sqrt(1.0 + jax.nn.softplus(z[0])) - 0.5 * z[1] ** 2, Status.UNBOUNDED, None
    ),
    "levels off": (lambda z: -jnp.sum(jnp.exp(-z)), Status.UNBOUNDED, None),
    "heavy tails": (lambda z: -jnp.sum(jnp.log1p(z**2)), Status.CONVERGED, None),
    "constant": (lambda z: 3.0 + 0.0 * z.sum(), Status.SINGULAR, None),
    "flat along one": (lambda z: -0.5 * (z[0] - 2.0) ** 2, Status.SINGULAR, None),
    "NaN near the mode": (
        lambda z: jnp.where(z[0] > 3.0, jnp.nan, -0.5 * jnp.sum((z - 2.0) ** 2)),
        Status.NOT_FINITE, None,
    ),
    "-inf beyond": (
        lambda z: jnp.where(z[0] > 9.0, -jnp.inf, -0.5 * jnp.sum((z - 2.0) ** 2)),
        Status.CONVERGED, (2.0, 2.0),
    ),
    "far out": (lambda z: -0.5 * jnp.sum(((z - 1e4) / 3.0) ** 2), Status.CONVERGED, (1e4, 1e4)),
    "far and narrow": (
        lambda z: -0.5 * jnp.sum(((z - 300.0) / 0.01) ** 2), Status.CONVERGED, (300.0, 300.0)
    ),
    "wide": (lambda z: -0.5 * jnp.sum(((z + 1e5) / 1e5) ** 2), Status.CONVERGED, (-1e5, -1e5)),
    "large constant": (
        lambda z: 1e4 - 0.5 * ((z[0] - 1.0) ** 2 + (z[1] + 2.0) ** 2 / 4.0),
        Status.CONVERGED, (1.0, -2.0),
    ),
    "infinite at the mode": (  # a funnel of one: proper, and its density has no maximum
        lambda z: -0.5 * (z[0] / 3.0) ** 2 - 0.5 * z[0] - 0.5 * z[1] ** 2 * jnp.exp(-z[0]),
        Status.CONVERGED, None,
    ),
}  # fmt: skip


def any_case(z: Any, data: Any) -> jax.Array:
    """The case of index `data`, by its position."""
    densities = [density for density, _, _ in CASES.values()]
    return jax.lax.switch(data.astype(int), densities, z)


@functools.cache
def paths(wide: bool) -> LaneResult:
    """Every case from three starts, in one program."""
    target = jaxvi.Target(any_case, jaxvi.Real(2))
    run = functools.partial(
        jaxvi.run, target=target, family=jaxvi.FullRank(), solver=Pathfinder(), max_steps=2_000
    )
    keys = jax.random.split(jax.random.key(12), 3)
    which = jnp.arange(float(len(CASES)))
    by_key = jax.vmap(lambda key, data: run(key, data=data), (0, None))
    return jax.jit(jax.vmap(by_key, (None, 0)))(keys, which)


@pytest.mark.parametrize("name", CASES)
def test_where_paths_lead(name: str, dtype: np.dtype) -> None:
    """A path that leads nowhere is a status, with finite parameters; others find the Gaussian."""
    _, expected, mean = CASES[name]
    row = list(CASES).index(name)
    found = jax.tree.map(lambda leaf: np.asarray(leaf[row]), paths(dtype == jnp.float64))
    assert [Status(int(code)) for code in found.status] == [expected] * 3
    assert all(np.isfinite(leaf).all() for leaf in [*found.phi, found.bound])
    assert (found.step < 600).all()
    if mean is not None:
        scales = np.exp(found.phi.log_diag)
        assert (np.abs(found.phi.loc - np.array(mean)) < 0.05 * scales + 1e-6 * np.abs(mean)).all()


def test_the_funnels_gaussian_lies_before_its_infinite_mode(x64: None) -> None:
    """Its bound is below the evidence, and not far."""
    row = list(CASES).index("infinite at the mode")
    log_evidence = math.log(2.0 * math.pi * 3.0)  # N(0, 9) times N(0, e^z)
    bounds = np.asarray(paths(True).bound[row])
    assert (bounds < log_evidence + 0.3).all()  # estimates of the best of some, by 32 draws
    assert bounds.max() > log_evidence - 2.5


def test_skewed_posterior_in_single_precision() -> None:
    """Below the best Gaussian's bound, by no more than Laplace's approximation loses."""
    problem = LOG_GAMMA
    fit = jaxvi.fit(jax.random.key(2), problem.target, solver=Pathfinder(), num_restarts=4).check()
    assert fit.bound < problem.full.bound + 4.0 * fit.bound_mcse
    # Laplace: mean log(shape / rate), variance 1 / shape
    shape, rate, offset = np.array([1.5, 6.0]), np.array([0.2, 9.0]), -4.2
    laplace = offset + np.sum(
        shape * np.log(shape / rate) - shape * np.exp(0.5 / shape)
        + 0.5 * (np.log(2.0 * np.pi / shape) + 1.0)
    )  # fmt: skip
    assert fit.bound > laplace - 4.0 * fit.bound_mcse - 0.05


def two_modes(z: Any) -> jax.Array:
    """Masses 0.7 and 0.3 of a total of exp(1.1), 12 standard deviations apart."""
    first = -0.5 * jnp.sum((z - jnp.array([4.0, -3.0])) ** 2) + math.log(0.7)
    second = -0.5 * jnp.sum(((z - jnp.array([-5.0, 5.0])) / 0.5) ** 2) + math.log(0.3 / 0.25)
    return 1.1 + jnp.logaddexp(first, second) - math.log(2.0 * math.pi)


def test_many_paths_find_the_masses_of_two_modes() -> None:
    """Together, resampled: right masses, the evidence within its error, a low khat."""
    fit = jaxvi.fit(
        jax.random.key(3), jaxvi.Target(two_modes, jaxvi.Real(2)), solver=Pathfinder(),
        num_restarts=12, start_scale=5.0,
    )  # fmt: skip
    found = importance_resample(jax.random.key(4), fit, 600)
    share = float((found.z[:, 0] > 0.0).mean())
    assert abs(share - 0.7) < 4.0 * (0.21 / 600) ** 0.5
    assert abs(found.log_evidence - 1.1) < 4.0 * found.log_evidence_mcse + 1e-3
    assert found.ok
    assert found.ess > 0.5 * found.num_proposals


def test_defaults_and_what_is_refused() -> None:
    solver = Pathfinder(num_draws=7, memory=9)
    assert solver.defaults(None, 300).family == jaxvi.FullRank()
    assert solver.defaults(None, 301).family == jaxvi.LowRank(9)
    assert solver.defaults(None, 301).objective.num_draws == 7
    assert solver.defaults(jaxvi.MeanField(), 2).family == jaxvi.MeanField()
    assert solver.defaults(None, 2).noise == jaxvi.Frozen(jaxvi.Fresh())
    assert Pathfinder().defaults(None, 2).noise == jaxvi.Frozen(jaxvi.Antithetic())
    for wrong in ({"num_draws": 0}, {"memory": 0}, {"num_draws": True}):
        with pytest.raises(ValueError, match=r"expected a whole number of at least 1.*; got"):
            Pathfinder(**wrong)
    for tolerance in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="tolerance: expected a finite number above 0; got"):
            Pathfinder(tolerance=tolerance)


class Shifted(NormalNoiseFamily):
    """N(phi, I): a family that can't be set to a Gaussian."""

    def noise_size(self, dim: int) -> int:
        return dim

    def init(self, key: Any, dim: int, *, start: Any = None) -> Any:
        return start

    def transform(self, phi: Any, noise: Any) -> Any:
        return phi + noise

    def log_prob(self, phi: Any, z: Any) -> Any:
        return -0.5 * jnp.sum((z - phi) ** 2)


class OtherBound(Objective):
    """Not the evidence lower bound."""

    num_draws = 4

    def check(self, family: Any) -> None:
        """Any."""

    def __call__(self, phi: Any, noise: Any, family: Any, target: Any, data: Any) -> Any:
        raise AssertionError


def test_parts_that_do_not_fit_are_refused_before_tracing() -> None:
    check = Pathfinder().check
    check(jaxvi.LowRank(2), jaxvi.ELBO(4), jaxvi.Fresh(), 3)
    with pytest.raises(TypeError, match="Pathfinder: expected a family on normal noise"):
        check(Shifted(), jaxvi.ELBO(4), jaxvi.Fresh(), 3)
    with pytest.raises(TypeError, match=r"Pathfinder: expected objective=jaxvi\.ELBO"):
        check(jaxvi.FullRank(), OtherBound(), jaxvi.Fresh(), 3)
