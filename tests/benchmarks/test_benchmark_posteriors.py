"""The benchmark posteriors: densities at stored points, references with exact answers, scores."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from benchmarks import posteriors
from benchmarks.posteriors._posterior import DATA, as_it_is, read
from benchmarks.posteriors._score import LEVELS, Summary
from jaxvi.target import value_and_gradient

NAMES = posteriors.names()
# Linear regressions with flat priors on the coefficients and on sigma: their marginals are known.
FLAT = [
    name
    for name in NAMES
    if name.startswith(("earnings", "mesquite", "nes", "kidiq_with_mom_work"))
]
# A kernel whose condition number is 1e10 leaves six digits fewer.
ROUNDING = {"gp_pois_regr__gp_pois_regr": 1e-6}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """All of it is meant for float64."""
    with jax.enable_x64(True):
        yield


@partial(jax.jit, static_argnums=0)  # once for all posteriors of one target and shape
def at_points(target, points, data):
    """Log densities, gradients, parameters, and the points again by way of the parameters."""
    values, gradients = jax.vmap(lambda z: value_and_gradient(target, z, data))(points)
    params = jax.vmap(target.constrain)(points)
    return values, gradients, params, jax.vmap(target.unconstrain)(params)


@pytest.mark.parametrize("name", NAMES)
def test_density_and_gradient_at_stored_points(name):
    # The points' values come from another implementation of each density, by other formulas.
    posterior, stored = posteriors.load(name), read(f"{name}.reference")
    target = posterior.target
    assert target.dtype(posterior.data) == np.float64
    values, gradients, params, back = at_points(target, stored["points"], posterior.data)
    flat = np.asarray(posterior.flatten(params, "constrained"))
    tolerance = ROUNDING.get(name, 1e-9)
    size = np.max(np.abs(stored["point_gradients"]), axis=1, keepdims=True)
    np.testing.assert_allclose(
        values - values[0], stored["point_log_probs"], rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(
        gradients / size, stored["point_gradients"] / size, rtol=0.0, atol=tolerance
    )
    # Coordinates: the first three points are draws of the reference, none of them far out.
    assert posterior.reference.unconstrained.names == target.coordinate_names()
    np.testing.assert_allclose(back, stored["points"], rtol=1e-9, atol=1e-9)
    summary = posterior.reference.constrained
    if posterior.report is as_it_is:
        assert summary.names == target.parameter_names()
    assert flat.shape == (5, len(summary.names)) == (5, summary.mean.size)
    assert np.max(np.abs(flat[:3] - summary.mean) / summary.sd) < 6.0


@pytest.mark.parametrize("name", NAMES)
def test_reference_is_one_of_a_distribution(name):
    reference = posteriors.load(name).reference
    for summary in (reference.constrained, reference.unconstrained):
        assert summary.quantiles.shape == (LEVELS.size, summary.mean.size)
        assert np.all(np.diff(summary.quantiles, axis=0) >= 0.0)
        # The mean of the quantiles is that of the middle 99%: 0.1 sds off by tails at the most.
        middle = np.abs(summary.quantiles.mean(0) - summary.mean) / summary.sd
        assert np.max(middle) < 0.1
        # 1% of the mass lies outside, with some of the variance.
        assert np.all(summary.quantiles.std(0) < summary.sd)
    # On the scale of judging it is little, or no sample would know the sd.
    judged = reference.on()
    assert np.all((judged.quantiles.std(0) > 0.85 * judged.sd)[judged.sd_judged])


def test_every_file_of_the_folder_belongs_to_a_name():
    files = {path.name for path in DATA.glob("*.npz")}
    assert files == {f"{name}{kind}.npz" for name in NAMES for kind in ("", ".reference")}
    assert (DATA / "LICENCE.posteriordb.md").is_file()
    assert len(posteriors.names("small")) == 21
    assert len(posteriors.names("large")) == 7


@pytest.mark.parametrize("name", FLAT)
def test_reference_of_flat_regression_is_exact(name):
    # With a density of one on sigma > 0, b has n - p - 1 degrees of freedom around least squares,
    # and 1 / sigma^2 is a gamma variate.
    posterior = posteriors.load(name)
    data, summary = posterior.data, posterior.reference.constrained
    columns = data["projected"].size
    freedom = float(data["rows"]) - columns - 1.0
    inverse = np.linalg.inv(data["root"])
    scales = np.sqrt(data["residual"] / freedom * np.sum(inverse**2, axis=1))
    quantiles = np.empty_like(summary.quantiles)
    quantiles[:, :columns] = inverse @ data["projected"] + scales * scipy.stats.t.ppf(
        LEVELS[:, None], freedom
    )
    precision = scipy.stats.gamma(0.5 * freedom, scale=2.0 / data["residual"])
    quantiles[:, columns] = precision.ppf(1.0 - LEVELS) ** -0.5
    distances = np.mean(np.abs(quantiles - summary.quantiles), axis=0) / summary.sd
    # 10,000 draws know a mean to 0.01 sds, and the W1 of their quantiles is about as much;
    # the shape in between is that of 2,000.
    assert np.max(distances) < 0.04
    sds = scales * np.sqrt(freedom / (freedom - 2.0))
    np.testing.assert_allclose(summary.sd[:columns], sds, rtol=0.04)
    assert np.max(np.abs(inverse @ data["projected"] - summary.mean[:columns]) / sds) < 0.045


def test_two_modes_is_normalised_and_its_reference_exact():
    # Importance sampling from the two modes themselves: p / q is one everywhere.
    posterior = posteriors.load("synthetic__two_modes10")
    raw = read(posterior.name)
    rng = np.random.default_rng(3)
    mode = rng.choice(2, size=20_000, p=raw["weight"])
    noise = rng.normal(size=(mode.size, 10))
    draws = raw["mean"][mode] + np.einsum("nij,nj->ni", raw["chol"][mode], noise)
    found = posterior.score({"x": draws})
    assert found.within
    # sds of 2.5 and 20,000 draws: four standard errors of a mean
    assert found.mean_error < 4.0 / np.sqrt(mode.size)
    density = [
        scipy.stats.multivariate_normal(mean, factor @ factor.T).pdf(draws[:5])
        for mean, factor in zip(raw["mean"], raw["chol"], strict=True)
    ]
    values = jax.vmap(posterior.target.log_prob, (0, None))(draws[:5], posterior.data)
    np.testing.assert_allclose(values, np.log(raw["weight"] @ density), rtol=1e-12)


def test_funnel_reference_is_exact_and_its_sds_are_not_judged():
    posterior = posteriors.load("synthetic__funnel10")
    rng = np.random.default_rng(4)
    v = 3.0 * rng.normal(size=20_000)
    x = np.exp(0.5 * v)[:, None] * rng.normal(size=(v.size, 9))
    found = posterior.score({"v": v, "x": x})
    assert found.within
    assert found.w1 < 0.04
    assert found.summary.sd_judged.tolist() == [True] + 9 * [False]
    assert not posterior.score({"v": v, "x": 1.5 * x}).within  # by W1


def test_garch_reports_the_parameters_of_the_triangle():
    posterior = posteriors.load("garch__garch11")
    z = np.random.default_rng(5).normal(size=(100, 4))
    params = jax.jit(jax.vmap(posterior.target.constrain))(z)
    draws = np.asarray(posterior.flatten(params))
    assert posterior.reference.names == ("alpha0", "alpha1", "beta1", "mu")
    assert np.all(draws[:, 1] + draws[:, 2] < 1.0)
    np.testing.assert_allclose(draws[:, 2] / (1.0 - draws[:, 1]), params["beta1_share"])
    assert posterior.flatten(params, "unconstrained") == pytest.approx(z)


def normal_summary(mean: np.ndarray, sd: np.ndarray) -> Summary:
    """Independent normals."""
    names = tuple(f"x[{i}]" for i in range(mean.size))
    quantiles = mean + sd * scipy.stats.norm.ppf(LEVELS)[:, None]
    return Summary(names, mean, sd, quantiles, np.ones(mean.size, bool))


@pytest.fixture
def summary() -> Summary:
    return normal_summary(np.array([-3.0, 50.0]), np.array([0.2, 7.0]))


@pytest.fixture
def draws(summary) -> np.ndarray:
    """20,000 points at equal levels: mean, sd and quantiles nearly those of the summary."""
    levels = (np.arange(20_000) + 0.5) / 20_000
    return summary.mean + summary.sd * scipy.stats.norm.ppf(levels)[:, None]


def test_score_of_the_posterior_itself_is_zero(summary, draws):
    found = posteriors.score(draws, summary)
    assert found.within
    # what is cut off beyond levels of 1 / 40,000
    assert max(found.mean_error, found.sd_error, found.w1) < 1e-3


def test_score_of_a_shift_is_the_shift_in_sds(summary, draws):
    found = posteriors.score(draws + np.array([0.1, -0.35]), summary)
    np.testing.assert_allclose(found.mean_errors, [0.5, 0.05], atol=1e-3)
    np.testing.assert_allclose(found.w1s, [0.5, 0.05], atol=1e-3)
    np.testing.assert_allclose(found.sd_errors, 0.0, atol=1e-3)
    assert found.within_by_coordinate.tolist() == [False, True]
    assert not found.within
    assert found.worst == "x[0]"


def test_score_of_a_stretch(summary, draws):
    # W1 of two normals of equal means is the difference of their sds times E|N(0, 1)|.
    found = posteriors.score(summary.mean + np.array([1.05, 0.6]) * (draws - summary.mean), summary)
    np.testing.assert_allclose(found.sd_errors, [0.05, 0.4], atol=1e-3)
    np.testing.assert_allclose(found.mean_errors, 0.0, atol=1e-9)
    expected = np.array([0.05, 0.4]) * np.sqrt(2.0 / np.pi)
    np.testing.assert_allclose(found.w1s, expected, rtol=0.03)  # less the outer 1%
    assert found.within_by_coordinate.tolist() == [True, False]
    free = posteriors.Summary(**(vars(summary) | {"sd_judged": np.array([True, False])}))
    assert posteriors.score(draws, free).sd_error < 1e-3


def test_score_sees_a_shape_that_mean_and_sd_hide(summary, draws):
    # Two points at one sd either side: W1 is E| |N(0, 1)| - 1 |, about 0.48.
    two = np.where(np.arange(draws.shape[0])[:, None] % 2 == 0, 1.0, -1.0)
    found = posteriors.score(summary.mean + summary.sd * two, summary)
    assert found.mean_error < 1e-3
    assert found.sd_error < 1e-3
    expected = 4.0 * scipy.stats.norm.pdf(1.0) - np.sqrt(2.0 / np.pi) + 1.0
    expected -= 4.0 * scipy.stats.norm.sf(1.0)
    np.testing.assert_allclose(found.w1s, expected, rtol=0.03)
    assert not found.within


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_draws_that_are_not_finite_are_never_within(summary, draws, bad):
    draws[17, 1] = bad
    found = posteriors.score(draws, summary)
    assert found.within_by_coordinate.tolist() == [True, False]
    assert not found.within
    assert not np.isfinite(found.mean_error)
    assert found.worst == "x[1]"


def test_errors_at_the_door(summary):
    with pytest.raises(ValueError, match=r"expected draws of shape .* got \(10, 3\)"):
        posteriors.score(np.zeros((10, 3)), summary)
    with pytest.raises(ValueError, match="expected one of"):
        posteriors.load("arK")
    with pytest.raises(ValueError, match="expected one of"):
        posteriors.names("huge")
    with pytest.raises(ValueError, match="expected one of"):
        posteriors.load("arK__arK").reference.on("log")


def test_targets_are_the_same_object_and_draws_keep_their_dtype():
    first, second = posteriors.load("nes1972__nes"), posteriors.load("nes1988__nes")
    assert first.target == second.target
    assert posteriors.load("nes1972__nes").target is first.target
    params = {"beta": jnp.zeros((3, 9)), "sigma": jnp.ones(3)}
    assert first.flatten(params).dtype == jnp.float64
    assert first.flatten(params).shape == (3, 10)
