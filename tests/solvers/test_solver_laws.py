"""Laws of every solver: a known optimum, lanes that are what they would be alone, honest ends.

The members come from `solvers.__all__`: a new solver is tested here without a new line.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import GAMMA_POISSON, NORMAL_MEAN, concrete

import jaxvi
from jaxvi import solvers
from jaxvi._engine import make_setup
from jaxvi.solvers import Solver

SOLVERS = [cls() for cls in concrete(solvers.__all__, solvers, Solver) if not cls.conjugate]
every = pytest.mark.parametrize("solver", SOLVERS, ids=repr)


@functools.cache
def fitted(solver: Solver, problem_name: str, dtype: str = "float64") -> jaxvi.Fit:
    problem = {p.name: p for p in (NORMAL_MEAN, GAMMA_POISSON)}[problem_name]
    with jax.enable_x64(dtype == "float64"):
        return jaxvi.fit(
            jax.random.key(3),
            problem.target,
            solver=solver,
            data=problem.data_as(dtype),
            num_restarts=3,
            num_eval_draws=4_000,
            progress=False,
        )


@every
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gaussian_posterior_is_found(solver, dtype):
    """On a Gaussian posterior the default family's bound is the evidence, and lanes say so."""
    fit = fitted(solver, "normal_mean", dtype)
    with jax.enable_x64(dtype == "float64"):
        sample = fit.sample_unconstrained(jax.random.key(1), 20_000)
    assert sample.dtype == dtype
    assert (fit.status == jaxvi.Status.CONVERGED).all()
    assert abs(fit.bounds - NORMAL_MEAN.log_evidence).max() < 0.03
    sds = np.sqrt(np.diag(NORMAL_MEAN.covariance))
    z = np.asarray(sample, float)
    assert (abs(z.mean(0) - NORMAL_MEAN.mean) / sds < 0.06).all()
    assert (abs(z.std(0) / sds - 1.0) < 0.05).all()


@every
def test_one_dimension_and_a_skewed_posterior(solver):
    """The bound never exceeds the evidence, and comes within the best Gaussian's reach of it."""
    fit = fitted(solver, "gamma_poisson")
    assert (fit.status == jaxvi.Status.CONVERGED).all()
    slack = 4.0 * fit.bounds_mcse
    assert (fit.bounds < GAMMA_POISSON.log_evidence + slack).all()
    # Laplace and Pathfinder sit at the mode, which costs them about as much again
    gap = GAMMA_POISSON.log_evidence - GAMMA_POISSON.full.bound
    assert (fit.bounds > GAMMA_POISSON.full.bound - 4.0 * gap - slack).all()


@every
def test_a_lane_is_what_it_would_be_alone(solver):
    """Lane 2 of a batch and the pure function of one lane agree up to rounding."""
    fit = fitted(solver, "normal_mean")
    with jax.enable_x64(True):
        setup = make_setup(NORMAL_MEAN.target, None, None, solver, None)
        alone = jax.jit(
            lambda key, data: jaxvi.run(
                key, setup.target, setup.family, solver=solver, data=data, lane=2, max_steps=20_000
            )
        )(jax.random.key(3), NORMAL_MEAN.data_as(float))
    together = fit.lane(2)
    assert alone.status == together.status
    for one, other in zip(jax.tree.leaves(alone.phi), jax.tree.leaves(together.phi), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def log_density(z, data):
    """A quadratic, NaN beyond a wall. Numbers decide: one program a solver serves every case."""
    value = data["height"] + data["slope"] @ z - 0.5 * data["curvature"] @ z**2
    return jnp.where(z[0] > data["wall"], jnp.nan, value)


TARGET = jaxvi.Target(log_density, jaxvi.Real((2,)))
FLAT = {"height": 1.5, "slope": [0.0, 0.0], "curvature": [0.0, 0.0], "wall": 1e30}
RISING = {"height": 0.0, "slope": [1.0, 0.0], "curvature": [0.0, 1.0], "wall": 1e30}
WALLED = {"height": -1.0, "slope": [-1.0, -1.0], "curvature": [1.0, 1.0], "wall": 0.0}


def fit_quadratic(solver, numbers):
    data = {name: np.asarray(value, np.float32) for name, value in numbers.items()}
    return jaxvi.fit(
        jax.random.key(0),
        TARGET,
        solver=solver,
        data=data,
        num_restarts=2,
        max_steps=1_500,
        progress=False,
    )


@every
@pytest.mark.parametrize("numbers", [FLAT, RISING], ids=["flat", "rising"])
def test_an_improper_posterior_is_not_called_converged(solver, numbers):
    """Where no best q exists every lane has another status, with a remedy, and a finite phi."""
    fit = fit_quadratic(solver, numbers)
    assert (fit.status != jaxvi.Status.CONVERGED).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.phi))
    with pytest.raises(jaxvi.FitError):
        fit.check()


@every
def test_mass_on_nan_is_not_called_converged(solver):
    """A density that is NaN on a sixth of q's mass: no exception, and no lane is fine with it.

    A search that looks at one point sees nothing of it; then the fresh draws do.
    """
    fit = fit_quadratic(solver, WALLED)
    bad = (fit.status != jaxvi.Status.CONVERGED) | (fit.num_bad_draws > 0)
    assert bad.all()


@every
def test_equal_by_value(solver):
    """Solvers are keys of compiled programs."""
    assert solver == type(solver)()
    assert hash(solver) == hash(type(solver)())
    assert type(solver).__name__ in repr(solver)
