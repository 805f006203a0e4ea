"""Hessians with zeros: as many products as colours, the same numbers, no trust where they fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvi
from jaxvi.families import FullRank, MeanField
from jaxvi.objectives import ELBO
from jaxvi.solvers import NaturalGradient, Problem
from jaxvi.solvers._gaussian.hessian_sparsity import colour, find_sparsity

DIM = 60


@pytest.fixture(autouse=True)
def _float64(x64):
    """Zeros are exact in any precision; what is compared here is rounding."""


def hierarchy(z):
    """Groups of two under three shared coordinates, not quadratic: an arrow of blocks."""
    shared, groups = z[:3], z[3:].reshape(-1, 2)
    inner = (groups[:, 0] - shared[0]) ** 2 * jnp.exp(-shared[1]) + groups[:, 0] * groups[:, 1] ** 3
    return -0.5 * jnp.sum(inner) - jnp.sum(groups**4) - jnp.sum(shared**4) + shared[2] * shared[0]


def chain(z):
    """Neighbours only: a band."""
    return -jnp.sum(jnp.cosh(z[1:] - 0.9 * z[:-1])) - 0.5 * jnp.sum(z**2)


def apart(z):
    """No coordinate touches another."""
    return -jnp.sum(jnp.cosh(z))


def crossed(z):
    """Every row of a table touches every column: one side's colours, and one more."""
    rows, columns = z[:20], z[20:59]
    return -jnp.sum(jnp.cosh(rows[:, None] * columns[None])) - jnp.sum(z**2)


def dense(z):
    """Everything touches everything."""
    return -jnp.cosh(jnp.sum(z)) - jnp.sum(z**2)


def broken(z):
    """Finite nowhere."""
    return jnp.log(-1.0 - jnp.sum(z**2))


def problem(density, dim=DIM):
    return Problem(jaxvi.Target(density, jaxvi.Real((dim,))), FullRank(), ELBO(), None)


@pytest.mark.parametrize(
    ("density", "dim", "colours"),
    [(hierarchy, 61, 4), (chain, DIM, 3), (apart, DIM, 1), (crossed, DIM, 21)],
)
def test_hessians_come_back_whole_from_a_few_products(density, dim, colours):
    """At points other than those where the zeros were looked for."""
    here = problem(density, dim)
    found = find_sparsity(here, jnp.dtype("float64"))
    assert found.num_colours <= colours + 1
    z = jax.random.normal(jax.random.key(1), (4, dim))
    expected = jax.vmap(jax.hessian(density))(z).mean(axis=0)
    np.testing.assert_allclose(found.mean_hessian(here, z), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("density", [dense, broken])
def test_where_nothing_is_saved_nothing_is_claimed(density):
    """A dense Hessian, or none."""
    assert find_sparsity(problem(density), jnp.dtype("float64")) is None


def test_an_entry_that_wakes_up_is_noticed():
    """Zero at the points looked at, not zero further out: NaN, which gradients take over."""
    waking = problem(lambda z: -jnp.sum(z**2) + jnp.where(z[0] > 9.0, z[1] * z[2], 0.0))
    found = find_sparsity(waking, jnp.dtype("float64"))
    near, far = jnp.zeros((2, DIM)), jnp.full((2, DIM), 10.0)
    assert np.isfinite(found.mean_hessian(waking, near)).all()
    assert np.isnan(found.mean_hessian(waking, far)).all()


def test_columns_of_a_colour_can_be_told_apart(rng):
    """Random symmetric patterns: of a colour no two columns share a row outside the dense ones."""
    for density in (0.01, 0.05, 0.2, 0.7):
        pattern = rng.random((40, 40)) < density
        pattern |= pattern.T | np.eye(40, dtype=bool)
        colours, alone = colour(pattern)
        rest = np.setdiff1d(np.arange(40), alone)
        for c in set(colours):
            members = np.flatnonzero(colours == c)
            assert len(members) == 1 or not np.isin(members, alone).any()
            assert (pattern[np.ix_(rest, members)].sum(axis=1) <= 1).all()


@pytest.mark.parametrize("family", [FullRank(), MeanField()])
def test_a_fit_is_the_same_and_says_what_was_found(family):
    """With zeros known and not, from one key: up to rounding the same q."""
    target = jaxvi.Target(chain, jaxvi.Real((DIM,)))
    draws = {"objective": ELBO(64), "num_restarts": 2, "progress": False}
    plain = NaturalGradient(sparsity=None, num_hessians=4)
    known = NaturalGradient(num_hessians=4)
    one, other = (
        jaxvi.fit(jax.random.key(3), target, family, solver=solver, **draws)
        for solver in (plain, known)
    )
    assert other.setup.solver.sparsity.num_colours == 3
    if family == FullRank():
        np.testing.assert_allclose(one.bounds, other.bounds, atol=1e-6)
    assert (other.status == jaxvi.Status.CONVERGED).all()
    np.testing.assert_allclose(one.bounds, other.bounds, atol=0.1)
