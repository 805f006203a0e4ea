"""Objectives: bounds below the evidence, unbiased, with unbiased gradients; and the catalogue.

Members come from `objectives.__all__` by way of tests/problems.py, and are crossed with every
family and problem.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import (
    FAMILIES,
    GAUSSIAN_3,
    GAUSSIAN_PROBLEMS,
    NORMAL_MEAN,
    OBJECTIVES,
    PROBLEMS,
    Bare,
    Problem,
    assert_within,
    concrete,
    has_moments,
    is_first_of_its_kind,
    is_gaussian,
    mean_and_error,
    normal_log_prob,
    somewhere,
)
from programs import rest_long

import jaxvi
from jaxvi import ELBO, FullRank, MeanField, Real, Target, objectives
from jaxvi.families import Family, HasCovariance, HasEntropy, HasMoments
from jaxvi.objectives import Estimate, Objective

pytestmark = pytest.mark.usefixtures("compiled_quickly")
every_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
every_family = pytest.mark.parametrize(
    "family", rest_long(FAMILIES, is_first_of_its_kind), ids=repr
)
KEYS = 1000


def fits(objective: Objective, family: Family) -> bool:
    try:
        objective.check(family)
    except TypeError:
        return False
    return True


def usable(family: Family) -> tuple[Objective, ...]:
    """What fits the family; a closed entropy is the default already where there is one."""
    return tuple(
        objective
        for objective in OBJECTIVES
        if fits(objective, family) and getattr(objective, "entropy", None) != "closed"
    )


def exact_elbo(family: Family, problem: Problem, phi: Any, data: Any) -> jax.Array:
    """The bound itself, without draws: from q's moments and entropy."""
    mean, covariance = family.moments(phi).mean, family.covariance(phi)
    return problem.expected_log_prob(mean, covariance, data) + family.entropy(phi)


def has_exact_elbo(family: Family, problem: Problem) -> bool:
    known = isinstance(family, HasMoments) and isinstance(family, HasCovariance)
    if not (known and isinstance(family, HasEntropy)):
        return False
    return has_moments(family, 4) and (problem.gaussian or is_gaussian(family))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def estimates(
    chosen: tuple[Objective, ...], family: Family, target: Target, phi: Any, data: Any
) -> list[tuple[Estimate, Any]]:
    """Of each objective: its estimates and gradients in phi, under many keys."""

    def one(objective: Objective, key: jax.Array) -> tuple[Estimate, Any]:
        noise = family.draw_noise(
            key, objective.num_draws, target.dim, jax.tree.leaves(phi)[0].dtype
        )

        def loss(p: Any) -> tuple[jax.Array, Estimate]:
            estimate = objective(p, noise, family, target, data)
            return estimate.loss, estimate

        gradient, estimate = jax.grad(loss, has_aux=True)(phi)
        return estimate, gradient

    keys = jax.random.split(jax.random.key(23), KEYS)
    return [jax.vmap(functools.partial(one, objective))(keys) for objective in chosen]


def near(family: Family, problem: Problem) -> Any:
    """Parameters near the posterior, but not at it."""
    return somewhere(family, problem.dim, start=problem.mean + 0.2, spread=0.2)


def test_the_public_objectives_are_found() -> None:
    """The evidence lower bound is among the members, with its estimators."""
    names = concrete(objectives.__all__, objectives, Objective)
    assert ELBO in names
    assert len(OBJECTIVES) > len(names)


# ---- the catalogue's own numbers


@every_problem
def test_log_evidence_and_moments_of_the_catalogue(problem: Problem, x64: None) -> None:
    """Findings, mean and covariance by quadrature; a Gaussian posterior also point by point."""
    log_prob = jax.jit(jax.vmap(problem.target.log_prob, (0, None)))
    data = problem.data_as("float64")
    assert abs(problem.log_evidence) > 0.5
    if problem.gaussian:
        z = np.random.default_rng(0).multivariate_normal(problem.mean, 4 * problem.covariance, 50)
        posterior = normal_log_prob(z, problem.mean, problem.covariance)
        np.testing.assert_allclose(
            log_prob(jnp.asarray(z), data) - posterior, problem.log_evidence, rtol=1e-10
        )
        return
    # far enough for t's tails; elsewhere exp(z) must not overflow
    reach = 12.0 if problem.name == "student_t" else 6.0
    u = np.arange(-reach, reach, 0.01 if problem.dim == 1 else 0.04)
    grid = np.stack(np.meshgrid(*[u] * problem.dim, indexing="ij"), -1).reshape(-1, problem.dim)
    scale = np.sqrt(np.diag(problem.covariance))
    z = problem.mean + scale * np.sinh(grid)
    log_cell = (np.log(np.cosh(grid)) + np.log(scale * (u[1] - u[0]))).sum(-1)
    mass = np.exp(np.asarray(log_prob(jnp.asarray(z), data)) + log_cell)
    np.testing.assert_allclose(np.log(mass.sum()), problem.log_evidence, atol=1e-8)
    mass /= mass.sum()
    np.testing.assert_allclose(mass @ z, problem.mean, atol=1e-7)
    centred = z - problem.mean
    np.testing.assert_allclose((mass * centred.T) @ centred, problem.covariance, atol=1e-6)


@every_problem
def test_optima_of_the_catalogue(problem: Problem, x64: None) -> None:
    """At the stated optimum of each structure the exact bound is as stated, its gradient zero."""
    data = problem.data_as("float64")
    full = FullRank()
    bound = functools.partial(exact_elbo, full, problem)
    value, gradient = jax.jit(jax.value_and_grad(bound))(problem.full.full_rank, data)
    np.testing.assert_allclose(value, problem.full.bound, rtol=1e-9)
    for leaf in gradient:
        np.testing.assert_allclose(leaf, np.zeros(leaf.shape), atol=1e-7)
    field = MeanField()
    phi = field.init(jax.random.key(0), problem.dim, start=jnp.asarray(problem.diagonal.mean))
    log_scale = 0.5 * np.log(np.diag(problem.diagonal.covariance))
    phi = phi._replace(log_scale=jnp.asarray(log_scale))
    bound = functools.partial(exact_elbo, field, problem)
    value, gradient = jax.jit(jax.value_and_grad(bound))(phi, data)
    np.testing.assert_allclose(value, problem.diagonal.bound, rtol=1e-9)
    for leaf in gradient:
        np.testing.assert_allclose(leaf, np.zeros(leaf.shape), atol=1e-7)
    assert problem.diagonal.bound <= problem.full.bound <= problem.log_evidence


# ---- laws of every objective


@every_family
def test_the_exact_posterior_gives_the_evidence(family: Family, x64: None) -> None:
    """Where q is the posterior, every draw's bound is the log evidence and gradients average 0.

    The target is q's own density times e^1.7, for every family. Sticking the landing, the
    gradient is zero for every single draw.
    """
    phi = somewhere(family, 3)
    target = Target(lambda z, data: family.log_prob(data, z) + 1.7, Real((3,)))
    chosen = usable(family)
    for objective, (estimate, gradient) in zip(
        chosen, estimates(chosen, family, target, phi, phi), strict=True
    ):
        np.testing.assert_allclose(estimate.bound, 1.7, atol=1e-9)
        for leaf in jax.tree.leaves(gradient):
            if leaf.size:
                assert_within(leaf.mean(0), 0.0, mean_and_error(leaf)[1] + 1e-9)
            if getattr(objective, "stick_the_landing", False):
                np.testing.assert_allclose(leaf, np.zeros(leaf.shape), atol=1e-9)


@pytest.mark.parametrize("problem", GAUSSIAN_PROBLEMS, ids=repr)
def test_the_full_rank_posterior_gives_the_evidence(problem: Problem, dtype: np.dtype) -> None:
    """For Gaussian posteriors FullRank at the exact answer gives the log evidence, to rounding."""
    phi, data, family = problem.full.full_rank, problem.data_as(dtype), FullRank()
    tolerance = 1e-9 if dtype == "float64" else 2e-4
    sticky = ELBO(num_draws=4, stick_the_landing=True)
    noise = family.draw_noise(jax.random.key(1), 4, problem.dim, dtype)

    def loss(p: Any) -> tuple[jax.Array, Estimate]:
        estimate = sticky(p, noise, family, problem.target, data)
        return estimate.loss, estimate

    gradient, estimate = jax.jit(jax.grad(loss, has_aux=True))(phi)
    assert estimate.loss.dtype == estimate.bound.dtype == dtype
    np.testing.assert_allclose(estimate.bound, problem.log_evidence, rtol=tolerance)
    for leaf in gradient:
        np.testing.assert_allclose(leaf, np.zeros(leaf.shape), atol=20 * tolerance)


@every_problem
def test_bounds_lie_below_the_evidence(problem: Problem, x64: None) -> None:
    """The mean bound exceeds the log evidence for no objective, whatever q; smaller loss is better.

    A q far off has a lower bound and a higher loss than one near the posterior.
    """
    data, chosen = problem.data_as("float64"), usable(FullRank())
    phi = near(FullRank(), problem)
    off = phi._replace(loc=phi.loc + 2.0 * np.sqrt(np.diag(problem.covariance)))

    @jax.jit
    def apply(phi: Any) -> list[Estimate]:
        keys = jax.random.split(jax.random.key(29), KEYS)

        def one(objective: Objective, key: jax.Array) -> Estimate:
            noise = FullRank().draw_noise(key, objective.num_draws, problem.dim)
            return objective(phi, noise, FullRank(), problem.target, data)

        return [jax.vmap(functools.partial(one, objective))(keys) for objective in chosen]

    for close, far in zip(apply(phi), apply(off), strict=True):
        for estimate in (close, far):
            mean, error = mean_and_error(estimate.bound)
            assert mean - 5.0 * error < problem.log_evidence
        assert np.mean(far.bound) < np.mean(close.bound)
        assert np.mean(far.loss) > np.mean(close.loss)


# ---- laws of the evidence lower bound


@pytest.mark.parametrize(
    "case",
    rest_long(
        [(family, GAUSSIAN_3) for family in FAMILIES if has_exact_elbo(family, GAUSSIAN_3)],
        lambda case: is_first_of_its_kind(case[0]),
    )
    + [
        (family, problem)
        for family in (FullRank(), MeanField())
        for problem in PROBLEMS
        if problem is not GAUSSIAN_3 and (problem.gaussian or family == FullRank())
    ],
    ids=repr,
)
def test_bound_and_gradient_are_unbiased(case: tuple[Family, Problem], x64: None) -> None:
    """Mean bound, mean loss and mean gradient are those of the bound without draws.

    For every estimator: closed entropy, sampled entropy, sticking the landing.
    """
    family, problem = case
    phi, data = near(family, problem), problem.data_as("float64")
    chosen = tuple(objective for objective in usable(family) if isinstance(objective, ELBO))
    assert len(chosen) == 3
    bound = functools.partial(exact_elbo, family, problem)
    exact, exact_gradient = jax.jit(jax.value_and_grad(bound))(phi, data)
    assert exact < problem.log_evidence
    for estimate, gradient in estimates(chosen, family, problem.target, phi, data):
        assert_within(*with_error(estimate.bound, exact))
        assert_within(*with_error(-estimate.loss, exact))
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(exact_gradient), strict=True)
        for found, expected in pairs:
            if expected.size:
                assert_within(*with_error(-found, expected))


def with_error(values: Any, exact: Any) -> tuple[Any, Any, Any]:
    mean, error = mean_and_error(values)
    return mean, exact, error


def test_estimators_share_one_bound(x64: None) -> None:
    """All estimators report the same sampled bound for the same noise; only losses differ.

    The closed entropy's loss replaces the mean of -log q at the draws by its expectation.
    """
    family, data = FullRank(), NORMAL_MEAN.data_as("float64")
    phi = near(family, NORMAL_MEAN)
    noise = family.draw_noise(jax.random.key(2), 6, 2)
    closed, sampled, sticky, default = (
        objective(phi, noise, family, NORMAL_MEAN.target, data)
        for objective in (
            ELBO(entropy="closed"),
            ELBO(entropy="sampled"),
            ELBO(stick_the_landing=True),
            ELBO(),
        )
    )
    for other in (sampled, sticky, default):
        np.testing.assert_allclose(other.bound, closed.bound, rtol=1e-12)
    np.testing.assert_allclose([sampled.loss, sticky.loss], -closed.bound, rtol=1e-12)
    assert default == closed
    z = jax.vmap(family.transform, (None, 0))(phi, noise)
    log_p = np.mean([NORMAL_MEAN.target.log_prob(row, data) for row in z])
    np.testing.assert_allclose(closed.loss, -(log_p + family.entropy(phi)), rtol=1e-12)
    log_q = np.mean([family.log_prob(phi, row) for row in z])
    np.testing.assert_allclose(closed.bound, log_p - log_q, rtol=1e-10)


def test_more_draws_average_and_change_nothing_else(x64: None) -> None:
    """The estimate from many rows of noise is the mean of the estimates from each row."""
    family, data, objective = MeanField(), GAUSSIAN_3.data_as("float64"), ELBO()
    phi = near(family, GAUSSIAN_3)
    noise = family.draw_noise(jax.random.key(2), 5, 3)

    def apply(rows: jax.Array) -> Estimate:
        return objective(phi, rows, family, GAUSSIAN_3.target, data)

    together, apart = apply(noise), jax.vmap(apply)(noise[:, None])
    np.testing.assert_allclose(together.bound, np.mean(apart.bound), rtol=1e-12)
    np.testing.assert_allclose(together.loss, np.mean(apart.loss), rtol=1e-12)


def test_a_family_without_an_entropy_is_sampled(x64: None) -> None:
    """By default the entropy is sampled where the family has none; closed is refused there."""
    family = Bare()
    assert not isinstance(family, HasEntropy)
    ELBO().check(family)
    ELBO(stick_the_landing=True).check(family)
    with pytest.raises(TypeError, match=r'expected .*entropy\(phi\).*got Bare.*try entropy="sam'):
        ELBO(entropy="closed").check(family)
    phi = family.init(jax.random.key(0), 3, start=jnp.asarray([1.0, -2.5, 3.0]))
    data = GAUSSIAN_3.data_as("float64")
    exact = GAUSSIAN_3.expected_log_prob(phi[0], jnp.eye(3), data) + 1.5 * math.log(
        2 * math.pi * math.e
    )
    for estimate, _ in estimates((ELBO(),), family, GAUSSIAN_3.target, phi, data):
        np.testing.assert_array_equal(estimate.loss, -estimate.bound)
        assert_within(*with_error(estimate.bound, exact))


def test_a_density_that_is_not_finite_shows(x64: None) -> None:
    """NaN in one draw's log density makes bound and loss NaN: nothing is masked."""
    target = jaxvi.Target(lambda z: jnp.sum(jnp.where(z > 50.0, jnp.nan, -(z**2))), Real((2,)))
    phi = somewhere(MeanField(), 2)
    noise = jnp.zeros((4, 2)).at[1, 0].set(1e4)
    estimate = ELBO()(phi, noise, MeanField(), target, None)
    assert np.isnan(estimate.loss)
    assert np.isnan(estimate.bound)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_objectives_are_values(objective: Objective) -> None:
    """Frozen, hashable, equal by value: the key of a compiled program."""
    twin = eval(repr(objective), vars(objectives))
    assert twin == objective
    assert hash(twin) == hash(objective)
    assert objective.num_draws >= 1
    with pytest.raises(AttributeError):
        objective.num_draws = 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ELBO(num_draws=0), r"a whole number of at least 1.*got 0"),
        (lambda: ELBO(num_draws=-4), "got -4"),
        (lambda: ELBO(entropy="closed", stick_the_landing=True), 'got both; try entropy="sampled"'),
    ],
)
def test_bad_objectives_are_refused(make: Any, words: str) -> None:
    """An objective that cannot be says so when it is made."""
    with pytest.raises(ValueError, match=f"ELBO.*: expected .*{words}"):
        make()
