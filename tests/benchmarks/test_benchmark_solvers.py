"""The solvers benchmark: its counter on known calls, its exact cases, its page from a quick run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvi
from benchmarks._counting import counted, counting
from benchmarks.solvers._cases import BAD, CONDITION, LOG_EVIDENCE, gaussian
from jaxvi.solvers import FrozenNoise
from jaxvi.target import hessian_products, log_probs, value_and_gradient, values_and_gradients

ROOT = Path(__file__).resolve().parents[2]
DIM, DRAWS, LANES, VECTORS = 3, 5, 4, 2


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """As the benchmark."""
    with jax.enable_x64(True):
        yield


def density(z: jax.Array, data: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum((z - data) ** 2) - 0.1 * jnp.sum(z**4)


PLAIN = jaxvi.Target(density, jaxvi.Real(DIM))
TARGET = counted(PLAIN)
DATA = jnp.array([1.0, -2.0, 3.0])


def mean_log_prob(z: jax.Array) -> jax.Array:
    return log_probs(TARGET, z, DATA).mean()


def products(z: jax.Array) -> jax.Array:
    vectors = jnp.ones((len(z), VECTORS, DIM), z.dtype)
    return hessian_products(TARGET, z, vectors, DATA)


def loop_of_products(z: jax.Array) -> jax.Array:
    """Ten products one after another, as in conjugate gradients, all at the same z."""

    def body(_: jax.Array, v: jax.Array) -> jax.Array:
        return jax.jvp(jax.grad(mean_log_prob), (z,), (v,))[1]

    return jax.lax.fori_loop(0, 10, body, z)


def ascent(z: jax.Array) -> jax.Array:
    """Steps until a condition that only the numbers decide: each lane's own number of them."""
    return jax.lax.fori_loop(0, 7, lambda _, z: z + 0.1 * jax.grad(mean_log_prob)(z), z)


# (function of z[draws, dim], kind, how many of it at one z[draws, dim])
KNOWN: list[tuple[Callable[[jax.Array], Any], str, int]] = [
    (lambda z: log_probs(TARGET, z, DATA), "values", DRAWS),
    (lambda z: values_and_gradients(TARGET, z, DATA), "gradients", DRAWS),
    (lambda z: value_and_gradient(TARGET, z[0], DATA), "gradients", 1),
    (jax.grad(mean_log_prob), "gradients", DRAWS),
    (products, "products", DRAWS * VECTORS),
    (lambda z: jax.hessian(TARGET.log_prob)(z[0], DATA), "products", DIM),
    (loop_of_products, "products", 10 * DRAWS),
    (ascent, "gradients", 7 * DRAWS),
]


@pytest.mark.parametrize("lanes", [None, LANES])
@pytest.mark.parametrize(("function", "kind", "number"), KNOWN)
def test_counter_counts_points_and_vectors(function, kind, number, lanes):
    z = jnp.linspace(-1.0, 1.0, DRAWS * DIM).reshape(DRAWS, DIM)
    if lanes is not None:
        z = z[None] + jnp.arange(float(lanes))[:, None, None]
        function, number = jax.vmap(function), lanes * number
    with counting() as counts:
        jax.block_until_ready(jax.jit(function)(z))
    assert getattr(counts, kind) == counts.total == number


def test_counter_changes_no_number():
    z = jnp.linspace(-1.0, 1.0, DRAWS * DIM).reshape(DRAWS, DIM)
    vectors = jnp.ones((DRAWS, DIM, DIM)) * jnp.eye(DIM)[None]
    for function, rest in ((values_and_gradients, ()), (hessian_products, (vectors,))):
        found, expected = (function(target, z, *rest, DATA) for target in (TARGET, PLAIN))
        # zeros are added and ones multiplied: but for fusing, which rounds once less, the same
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=4.0 * np.finfo(np.float64).eps)


def test_counter_of_a_fit_is_its_steps_times_draws():
    # Adam's steps, and the one gradient by which a start is judged; 8 values are compared at the
    # end of no window, since 60 steps are fewer than the first has, and 2 rank.
    with counting() as counts:
        fit = jaxvi.fit(
            jax.random.key(0),
            TARGET,
            jaxvi.MeanField(),
            data=DATA,
            num_restarts=3,
            max_steps=60,
            num_eval_draws=2,
            progress=False,
        )
        jax.block_until_ready(fit.phi)
    assert counts.gradients == 3 * (60 * 8 + 1)
    assert (counts.values, counts.products) == (3 * 2, 0)


def test_counter_of_a_newton_fit_is_what_its_state_says():
    # Every iteration of conjugate gradients is a product at each of the frozen draws. Without
    # data, since nothing then stands between the outer derivative and the counter.
    target = counted(jaxvi.Target(lambda z: density(z, jnp.arange(float(DIM))), jaxvi.Real(DIM)))
    objective = jaxvi.ELBO(num_draws=16)
    with counting() as counts:
        fit = jaxvi.fit(
            jax.random.key(0),
            target,
            jaxvi.MeanField(),
            solver=FrozenNoise(),
            objective=objective,
            num_restarts=1,
            num_eval_draws=2,
            progress=False,
        )
        jax.block_until_ready(fit.phi)
    assert fit.check().steps[0] > 1
    # a gradient at every draw a step, and the one that judges the start
    assert counts.gradients == 1 + 16 * fit.steps[0]
    assert counts.values == 2
    assert counts.products > 0
    assert counts.products % 16 == 0


def test_gaussian_is_what_it_says():
    problem = gaussian(4)
    values = np.linalg.eigvalsh(problem.covariance)
    np.testing.assert_allclose(values[-1] / values[0], CONDITION)
    hessian = jax.hessian(problem.target.log_prob)(problem.mean, problem.data)
    np.testing.assert_allclose(-np.linalg.inv(hessian), problem.covariance, rtol=1e-8)
    at_mean = problem.target.log_prob(jnp.asarray(problem.mean), problem.data)
    log_norm = 0.5 * np.linalg.slogdet(2.0 * np.pi * problem.covariance)[1]
    np.testing.assert_allclose(at_mean + log_norm, LOG_EVIDENCE)


def test_errors_are_those_in_the_worst_direction():
    problem = gaussian(4)
    values, axes = np.linalg.eigh(problem.covariance)
    # off by 0.3 sds along the narrowest axis, with 1.5 times the variance there
    mean = problem.mean + 0.3 * np.sqrt(values[0]) * axes[:, 0]
    covariance = problem.covariance + 0.5 * values[0] * np.outer(axes[:, 0], axes[:, 0])
    found = problem.errors(mean, covariance)
    assert found["mean_direction"] == pytest.approx(0.3)
    assert found["covariance_direction"] == pytest.approx(0.5, rel=1e-6)
    assert found["kl"] == pytest.approx(0.5 * (0.09 + 0.5 - np.log(1.5)), rel=1e-6)


@pytest.mark.parametrize("case", [case for case in BAD if case.mean is not None])
def test_answers_of_bad_input_are_right(case):
    # every coordinate is independent, so one of them on a grid is enough
    grid = jnp.linspace(case.mean - 12.0 * case.sd, case.mean + 12.0 * case.sd, 20_001)
    rest = jnp.full((grid.size, case.target.dim), case.mean)
    values = jax.vmap(case.target.log_prob)(rest.at[:, 0].set(grid))
    weights = np.exp(values - values.max())
    weights /= weights.sum()
    mean = weights @ grid
    np.testing.assert_allclose(mean, case.mean, atol=1e-6)
    np.testing.assert_allclose(np.sqrt(weights @ (grid - mean) ** 2), case.sd, rtol=1e-4)


def test_nan_hessian_has_finite_gradients():
    case = next(case for case in BAD if case.name == "nan_hessian")
    z = jnp.array([0.5, -1.0, 2.0])
    gradient = jax.grad(case.target.log_prob)(z)
    np.testing.assert_allclose(gradient, -(z + 2.0) / 9.0)
    assert np.isnan(np.diagonal(jax.hessian(case.target.log_prob)(z))).all()


@pytest.mark.slow
@pytest.mark.long  # sections, cells and pages are made as those of the posteriors, run without it
def test_quick_run_writes_its_page(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "solvers", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "solvers-cpu.json").read_text(encoding="utf-8"))
    rows = {name: section["rows"] for name, section in results["sections"].items()}
    assert set(rows) == {"gaussian", "lanes", "bad", "small", "large"}
    # natural gradients are exact on a Gaussian, whatever its condition
    cell = rows["gaussian"]["gaussian"]["natural_gradient"]
    assert cell["status"] == "CONVERGED"
    assert cell["kl"] < 1e-6
    assert cell["counts"]["gradients"] > 0
    # three posteriors that are Gaussians but for a scale
    assert len(rows["small"]) == 3
    for cells in rows["small"].values():
        assert cells["natural_gradient"]["within_moments"]
    assert rows["bad"]["constant"]["Laplace"]["wrong"] == 0
    page = (tmp_path / "solvers-cpu.md").read_text(encoding="utf-8")
    for name in ("**1. ", "**2. ", "**3. ", "**4. ", "**5. ", *rows["small"]):
        assert name in page
    # the page can be had from the raw numbers alone
    again = subprocess.run(
        [*command[:4], "--render", str(tmp_path / "solvers-cpu.json"), "--quick"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert again.stdout.strip() == page.strip()
