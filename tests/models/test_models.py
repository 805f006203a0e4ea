"""The mixture's density against the textbook, its start, and what a fit makes of known data."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from sklearn.metrics import adjusted_rand_score

import jaxvi
from jaxvi import models

PRIOR = {"concentration": 1.7, "mean_sd": 1.3, "scale_median": 0.4, "scale_log_sd": 0.8}


def naive_log_density(params, rows, prior):
    """The formulas one factor at a time, by scipy."""
    weights, means, scales = (np.asarray(params[k]) for k in ("weights", "means", "scales"))
    normal = scipy.stats.norm.logpdf(rows[:, None], means, scales).sum(-1)
    log_likelihood = scipy.special.logsumexp(np.log(weights) + normal, axis=1).sum()
    dirichlet = scipy.stats.dirichlet(np.full(len(weights), prior["concentration"]))
    log_normal = scipy.stats.lognorm(prior["scale_log_sd"], scale=prior["scale_median"])
    return (
        log_likelihood
        + dirichlet.logpdf(weights)
        + scipy.stats.norm.logpdf(means, 0, prior["mean_sd"]).sum()
        + log_normal.logpdf(scales).sum()
    )


def problem(num_components=3, num_features=2, num_rows=40, offset=3.0):
    rng = np.random.default_rng(0)
    params = {
        "weights": rng.dirichlet(np.full(num_components, 3.0)),
        "means": offset + rng.normal(size=(num_components, num_features)),
        "scales": rng.uniform(0.2, 1.5, (num_components, num_features)),
    }
    return params, offset + 1.5 * rng.normal(size=(num_rows, num_features))


def test_the_density_is_the_textbook_formula_term_by_term():
    params, rows = problem()
    with jax.enable_x64(True):
        target = models.gaussian_mixture(3, 2, **PRIOR)
        value = target.log_density(jax.tree.map(jnp.asarray, params), jnp.asarray(rows))
    assert value.dtype == "float64"
    assert float(value) == pytest.approx(naive_log_density(params, rows, PRIOR), abs=1e-10)


def test_its_gradient_is_the_gradient_of_the_naive_formula():
    params, rows = problem()

    def naive(params, rows):
        normal = jax.scipy.stats.norm.logpdf(
            rows[:, None], params["means"][None], params["scales"][None]
        )
        return jax.nn.logsumexp(jnp.log(params["weights"])[None] + normal.sum(-1), axis=1).sum()

    def likelihood(params, rows):
        density = models.gaussian_mixture(3, 2).log_density
        return density(params, rows) - density.log_prior(params)

    with jax.enable_x64(True):
        params, rows = jax.tree.map(jnp.asarray, (params, rows))
        ours, theirs = jax.grad(likelihood)(params, rows), jax.grad(naive)(params, rows)
    for name in params:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("offset", [3.0, 1000.0])
def test_float32_keeps_its_digits_far_from_the_origin(offset):
    params, rows = problem(num_rows=500, offset=offset)
    # what float32 can represent at all, so that only our own arithmetic is judged
    params, rows = jax.tree.map(lambda a: a.astype(np.float32), (params, rows))
    double = jax.tree.map(lambda a: a.astype(np.float64), params)
    exact = naive_log_density(double, rows.astype(np.float64), PRIOR)
    density = models.gaussian_mixture(3, 2, **PRIOR).log_density
    assert float(density(params, jnp.asarray(rows))) == pytest.approx(exact, rel=2e-6)


def test_the_prior_integrates_to_one():
    density = models.gaussian_mixture(2, 1, **PRIOR).log_density

    # a product over means, scales and the first weight: integrate each along its own axis
    def log_prior(weight, mean, log_scale):
        params = {
            "weights": jnp.stack([weight, 1 - weight]),
            "means": jnp.stack([mean, 0.3 * jnp.ones(())])[:, None],
            "scales": jnp.stack([jnp.exp(log_scale), 0.5 * jnp.ones(())])[:, None],
        }
        return density.log_prior(params) + log_scale  # d scale = scale d log scale

    rest = scipy.stats.norm.logpdf(0.3, 0, 1.3) + scipy.stats.lognorm(0.8, scale=0.4).logpdf(0.5)
    with jax.enable_x64(True):
        weight = jnp.linspace(0.0, 1.0, 1001)[1:-1]
        axis = jnp.linspace(-9.0, 9.0, 61)
        grid = jnp.meshgrid(weight, axis, axis - 0.9, indexing="ij")
        values = np.exp(jax.vmap(log_prior)(*(g.ravel() for g in grid)) - rest)
        volume = float(weight[1] - weight[0]) * float(axis[1] - axis[0]) ** 2
    assert values.sum() * volume == pytest.approx(1.0, abs=2e-4)


def test_evidence_of_one_component_and_the_target_agree():
    """One row, one component: the evidence is an integral that quadrature can do."""
    target = models.gaussian_mixture(1, 1)
    assert set(target.supports) == {"means", "scales"}
    with jax.enable_x64(True):
        row = jnp.array([[1.3]])
        axis = jnp.linspace(-8.0, 8.0, 401)
        z = jnp.stack([g.ravel() for g in jnp.meshgrid(axis, axis, indexing="ij")], axis=1)
        values = jax.vmap(target.log_prob, (0, None))(z, row)
        evidence = float(jnp.exp(values).sum() * (axis[1] - axis[0]) ** 2)

    def marginal(log_scale):
        total = np.hypot(1.0, np.exp(log_scale))
        prior = scipy.stats.norm.pdf(log_scale, np.log(0.5), 0.5)
        return prior * scipy.stats.norm.pdf(1.3, 0, total)

    assert evidence == pytest.approx(scipy.integrate.quad(marginal, -6, 5)[0], rel=1e-6)


def test_equal_numbers_give_equal_targets_and_one_program():
    first = models.gaussian_mixture(3, 2, concentration=1)
    again = models.gaussian_mixture(3, 2, concentration=1.0)
    assert first == again
    assert hash(first) == hash(again)
    assert first != models.gaussian_mixture(3, 2, concentration=1.5)
    traced = []

    def log_prob(target, z, rows):
        traced.append(target)
        return target.log_prob(z, rows)

    program = jax.jit(log_prob, static_argnums=0)
    z, rows = jnp.zeros(first.dim), jnp.ones((5, 2))
    assert program(first, z, rows) == program(again, z, rows + 0.0)
    assert len(traced) == 1


def test_starts_are_distinct_rows_inside_the_supports():
    rng = np.random.default_rng(1)
    rows = 50.0 + rng.normal(size=(4, 2)).astype(np.float32)
    target = models.gaussian_mixture(3, 2)
    seen = set()
    starts = jax.vmap(target.start, (0, None))(jax.random.split(jax.random.key(0), 60), rows)
    assert np.isfinite(jax.vmap(target.unconstrain)(starts)).all()
    starts = jax.tree.map(np.asarray, starts)
    for i in range(60):
        start = {name: value[i] for name, value in starts.items()}
        which = [int(np.argmin(np.abs(rows - mean).sum(1))) for mean in start["means"]]
        np.testing.assert_array_equal(start["means"], rows[which])
        assert len(set(which)) == 3
        seen.add(frozenset(which))
        np.testing.assert_allclose(
            start["scales"], np.tile(rows.std(0) / 3**0.5, (3, 1)), rtol=1e-5
        )
        np.testing.assert_allclose(start["weights"], 1 / 3, rtol=1e-6)
    assert seen == {frozenset(c) for c in itertools.combinations(range(4), 3)}


def test_rows_are_drawn_evenly():
    start = models.GaussianMixtureStart(2, 1)
    rows = jnp.arange(5.0)[:, None]
    keys = jax.random.split(jax.random.key(0), 4000)
    means = np.asarray(jax.vmap(lambda key: start(key, rows)["means"])(keys))[..., 0].astype(int)
    counts = np.bincount(means.ravel(), minlength=5)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [((2, 40), "data on the wrong axis"), ((40, 3), r"D = 2 columns"), ((40,), r"\(N, D\)")],
)
def test_data_of_the_wrong_shape_is_told_before_compiling(shape, sentence):
    target = models.gaussian_mixture(3, 2)
    with pytest.raises(ValueError, match=sentence):
        target.check(jnp.zeros(shape))


def test_too_few_rows_for_the_start_is_told():
    with pytest.raises(ValueError, match="at least as many rows as components, 3; got 2"):
        models.gaussian_mixture(3, 2).start(jax.random.key(0), jnp.zeros((2, 2)))


@pytest.mark.parametrize(
    ("args", "numbers", "name"),
    [
        ((0, 2), {}, "num_components"),
        ((2, 0), {}, "num_features"),
        ((2, 2), {"mean_sd": 0.0}, "mean_sd"),
        ((2, 2), {"concentration": float("nan")}, "concentration"),
    ],
)
def test_numbers_that_cannot_be_used_are_named(args, numbers, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        models.gaussian_mixture(*args, **numbers)


def test_responsibilities_are_bayes_rule():
    params, rows = problem()
    with jax.enable_x64(True):
        ours = models.responsibilities(params, rows)
    normal = scipy.stats.norm.pdf(rows[:, None], params["means"], params["scales"]).prod(-1)
    joint = (params["weights"] * normal).T
    np.testing.assert_allclose(ours, joint / joint.sum(0), rtol=1e-10, atol=1e-14)


def test_mean_responsibilities_are_the_mean_over_draws():
    params, rows = problem()
    scaled = [{**params, "scales": factor * params["scales"]} for factor in (0.5, 1.0, 2.0)]
    draws = {name: np.stack([one[name] for one in scaled]) for name in params}
    with jax.enable_x64(True):
        mean = models.mean_responsibilities(draws, rows)
        each = [models.responsibilities(one, rows) for one in scaled]
    np.testing.assert_allclose(mean, np.mean(each, axis=0), rtol=1e-12)


def test_a_fit_recovers_known_components_off_centre_and_off_scale():
    rng = np.random.default_rng(3)
    means = np.array([[1.0, 200.0], [9.0, 200.0], [5.0, 260.0]])
    scales = np.array([[0.5, 4.0], [1.0, 2.0], [0.7, 6.0]])
    truth = np.repeat([0, 1, 2], [60, 90, 150])
    rows = means[truth] + scales[truth] * rng.normal(size=(300, 2))
    centre, spread = rows.mean(0), rows.std(0)
    data = jnp.asarray((rows - centre) / spread, jnp.float32)
    fit = jaxvi.fit(
        jax.random.key(0),
        models.gaussian_mixture(3, 2),
        jaxvi.MeanField(),
        solver=jaxvi.Stochastic(optax.adam, learning_rate=0.03, tolerance=0.1, anneal=0.25),
        noise=jaxvi.Antithetic(),
        data=data,
        num_restarts=6,
        max_steps=3000,
        progress=False,
    )
    draws = jax.tree.map(np.asarray, fit.sample(jax.random.key(1), 2000))
    probability = np.asarray(models.mean_responsibilities(draws, data))
    assert adjusted_rand_score(truth, probability.argmax(0)) == 1.0
    order = [int(probability[:, truth == k].sum(1).argmax()) for k in range(3)]
    found = {
        "weights": (draws["weights"], np.array([0.2, 0.3, 0.5])),
        "means": (centre + spread * draws["means"], means),
        "scales": (spread * draws["scales"], scales),
    }
    for values, true in found.values():
        values = values[:, order]
        assert np.max(np.abs(values.mean(0) - true) / values.std(0)) < 4.0
    # and no wider than the data allow
    count = np.array([60, 90, 150])[:, None]
    np.testing.assert_allclose(
        found["means"][0][:, order].std(0), scales / np.sqrt(count), rtol=0.25
    )
