"""A few coordinates given, the latents Laplace's: exact where it must be, told where it isn't."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import jaxvi
from jaxvi._compilation import equations
from jaxvi.diagnostics import importance_weights
from jaxvi.families import scale_tril_on_host
from jaxvi.hierarchical._conditional_laplace import conditionals
from jaxvi.hierarchical._hyperparameters import find_hyperparameters
from jaxvi.hierarchical._mode_search import Search
from jaxvi.hierarchical._nested_family import NestedLaplace
from jaxvi.hierarchical._nested_hmc import nested_short_chains
from jaxvi.hierarchical._nested_laplace import _masses, nested_laplace
from jaxvi.hierarchical._partition import Fixed, split
from jaxvi.hierarchical._proposals import Proposal, effective_sample_size
from jaxvi.target import hessian_products

SEEN = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@pytest.fixture(autouse=True)
def _float64(x64):
    """Hessians, and integrals against exact ones."""


def schools(p, data):
    """Centred, with flat priors on the mean and a half-Cauchy one on the scale."""
    y, error = data
    prior = -jnp.log1p((p["tau"] / 5.0) ** 2) - 0.5 * (p["mu"] / 5.0) ** 2
    prior += jnp.sum(jax.scipy.stats.norm.logpdf(p["theta"], p["mu"], p["tau"]))
    return prior + jnp.sum(jax.scipy.stats.norm.logpdf(y, p["theta"], error))


def counts(p, y):
    """Poisson counts of groups, whose log rates have an unknown scale."""
    prior = jax.scipy.stats.norm.logpdf(p["effect"], 0.0, p["sigma"]).sum() - p["sigma"]
    eta = p["level"] + p["effect"]
    return prior - 0.5 * (p["level"] / 3.0) ** 2 + jnp.sum(y * eta - jnp.exp(eta))


SCHOOLS = jaxvi.Target(
    schools, {"mu": jaxvi.Real(), "tau": jaxvi.Positive(), "theta": jaxvi.Real(8)}
)
COUNTS = jaxvi.Target(
    counts, {"effect": jaxvi.Real(40), "level": jaxvi.Real(), "sigma": jaxvi.Positive()}
)


SCHOOL_DATA = (jnp.asarray(SEEN), jnp.asarray(ERRORS))


def count_data():
    rng = np.random.default_rng(3)
    return jnp.asarray(rng.poisson(np.exp(0.7 + 0.5 * rng.normal(size=40))), float)


def gaussian(target, data, key=0, restarts=4):
    return jaxvi.fit(
        jax.random.key(key),
        target,
        solver=jaxvi.NaturalGradient(),
        data=data,
        num_restarts=restarts,
        progress=False,
    )


@pytest.fixture(scope="module")
def nested_schools():
    with jax.enable_x64(True):
        data = (jnp.asarray(SEEN), jnp.asarray(ERRORS))
        fit = gaussian(SCHOOLS, data)
        hyperparameters = find_hyperparameters(jax.random.key(1), SCHOOLS, fit.q.phi, data)
        found = nested_laplace(jax.random.key(2), SCHOOLS, fit.q.phi, hyperparameters, data)
        return data, fit, hyperparameters, found


def exact_log_tau():
    """Mean, sd and log evidence of the schools' log tau, by quadrature; mu and theta integrated."""

    def log_mass(t):
        tau = np.exp(t)
        variance = ERRORS**2 + tau**2
        cov = np.diag(variance) + 25.0
        prior = -np.log1p((tau / 5.0) ** 2) + 0.5 * np.log(2.0 * np.pi * 25.0)
        return stats.multivariate_normal.logpdf(SEEN, np.zeros(8), cov) + prior + t

    def moment(power, centre=0.0):
        def part(t):
            return (t - centre) ** power * np.exp(log_mass(t))

        return integrate.quad(part, -25.0, 8.0, limit=400)[0]

    total = moment(0)
    mean = moment(1) / total
    return mean, np.sqrt(moment(2, mean) / total), np.log(total)


def test_the_scale_drives(nested_schools):
    hyperparameters = nested_schools[2]
    assert [SCHOOLS.coordinate_names()[i] for i in hyperparameters] == ["tau"]


def test_it_is_the_posterior_where_the_latents_are_gaussian(nested_schools):
    found = nested_schools[3]
    mean, sd, evidence = exact_log_tau()
    assert found.weighed.relative_ess == pytest.approx(1.0, abs=1e-6)
    assert found.weighed.bound == pytest.approx(evidence, abs=0.05)
    share = np.exp(found.of_values.log_weights - found.of_values.log_weights.max())
    log_tau = found.of_values.z[:, 1]
    of_draws = np.average(log_tau, weights=share)
    assert abs(of_draws - mean) < 4.0 * found.of_values.error.mean_mcse[1] * sd
    spread = np.sqrt(np.average((log_tau - of_draws) ** 2, weights=share))
    assert abs(np.log(spread / sd)) < 4.0 * found.of_values.error.log_sd_mcse[1]


def test_the_family_is_normalised_and_draws_what_it_says(nested_schools):
    data, _, _, found = nested_schools
    family = NestedLaplace(SCHOOLS)
    again = importance_weights(jax.random.key(7), SCHOOLS, family, found.phi, data, num_draws=1_000)
    assert again.relative_ess == pytest.approx(1.0, abs=1e-6)
    noise = jnp.asarray(np.random.default_rng(0).normal(size=family.noise_size(10)))
    z, log_q = family.transform_and_log_prob(found.phi, noise)
    assert float(family.log_prob(found.phi, z)) == pytest.approx(float(log_q), abs=1e-8)
    with pytest.raises(TypeError, match="nested_laplace"):
        family.init(jax.random.key(0), 10)


def test_the_conditional_of_a_gaussian_is_its_own():
    rng = np.random.default_rng(1)
    root = np.tril(rng.normal(size=(5, 5))) + 3.0 * np.eye(5)
    precision = np.linalg.inv(root @ root.T)
    mean = rng.normal(size=5)

    def density(z):
        return -0.5 * (z - mean) @ precision @ (z - mean)

    target = jaxvi.Target(density, jaxvi.Real((5,)))
    at = split(target, np.array([1, 3]), np.zeros(5), np.eye(5))  # a poor place to begin from
    values = rng.normal(size=(3, 2))
    found = conditionals(at, jnp.asarray(values), jnp.zeros((3, 3)), None, target=target)
    latents = [0, 2, 4]
    own = precision[np.ix_(latents, latents)]
    shift = np.linalg.solve(own, precision[np.ix_(latents, [1, 3])])
    expected = mean[latents] - (values - mean[[1, 3]]) @ shift.T
    np.testing.assert_allclose(found.mode, expected, atol=1e-9)
    for spread in np.asarray(found.scale):
        np.testing.assert_allclose(spread @ spread.T, np.linalg.inv(own), atol=1e-9)
    cov = root @ root.T
    marginal = stats.multivariate_normal(mean[[1, 3]], cov[np.ix_([1, 3], [1, 3])])
    total = 2.5 * np.log(2.0 * np.pi) + 0.5 * np.linalg.slogdet(cov)[1]
    np.testing.assert_allclose(found.mass, marginal.logpdf(values) + total, atol=1e-9)
    assert np.all(found.has_mode)


def process(p, data):
    """Counts along a line, whose log rate is a Gaussian process."""
    x, y = data
    kernel = jnp.exp(-0.5 * ((x[:, None] - x[None]) / p["length"]) ** 2) + 1e-6 * jnp.eye(x.size)
    rate = p["level"] + p["size"] * jnp.linalg.cholesky(kernel) @ p["noise"]
    prior = -0.5 * jnp.sum(p["noise"] ** 2) - p["size"] - p["length"] - 1.0 / p["length"]
    return prior - 0.5 * p["level"] ** 2 + jnp.sum(y * rate - jnp.exp(rate))


def test_what_hyperparameters_alone_make_is_left_out_of_hessians():
    """A kernel's Cholesky factor has no derivative in latents; conditionals are the same."""
    real, positive = jaxvi.Real(), jaxvi.Positive()
    supports = {"length": positive, "level": real, "noise": jaxvi.Real(9), "size": positive}
    target = jaxvi.Target(process, supports)
    rng = np.random.default_rng(0)
    data = (jnp.linspace(0.0, 3.0, 9), jnp.asarray(rng.poisson(3.0, 9), float))
    hyperparameters = np.array([0, 1, 11])
    at = split(target, hyperparameters, np.zeros(12), np.eye(12))
    assert at.fixed == Fixed((0, 1, 3))
    assert Fixed.of(target, np.array([0, 2, 3])) == Fixed((0,))  # the noise is given in part
    values, starts = jnp.asarray(0.3 * rng.normal(size=(5, 3))), jnp.zeros((5, 9))
    found = conditionals(at, values, starts, data, target=target)
    whole = conditionals(at._replace(fixed=Fixed(())), values, starts, data, target=target)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, whole)

    def solved(held):
        z, vectors = jnp.zeros((1, 12)), at.rest[None]
        traced = jax.make_jaxpr(lambda z: hessian_products(held.constant(target), z, vectors, data))
        names = [equation.primitive.name for equation in equations(traced(z).jaxpr)]
        return names.count("cholesky"), names.count("triangular_solve")

    assert solved(at.fixed) == (1, 0)
    assert solved(Fixed(()))[1] > 0


def test_a_search_goes_on_from_what_is_near():
    """Newton's method fails from afar on a heavy-tailed conditional that moves."""

    def density(z):
        return -0.5 * (z[0] / 5.0) ** 2 - 1.5 * jnp.log1p(((z[1] - 5.0 * z[0]) / 0.3) ** 2 / 2.0)

    target = jaxvi.Target(density, jaxvi.Real((2,)))
    at = split(target, np.array([0]), np.zeros(2), np.eye(2))
    far = np.array([[3.0]])
    assert not Search(target, at, None)(far).has_mode.any()
    search = Search(target, at, None)
    for values in np.linspace(0.0, 3.0, 200).reshape(10, 20, 1):
        found = search(values)
        assert found.has_mode.all()
        np.testing.assert_allclose(found.mode, 5.0 * values, atol=1e-2)
    assert search(far).has_mode.all()


def test_values_without_a_mode_weigh_what_their_neighbours_do():
    """Near one that has a mode; far out what they have themselves."""
    values = np.array([[0.0], [1.0], [9.0]])
    found = Search(SCHOOLS, split(SCHOOLS, np.array([1]), np.zeros(10), np.eye(10)), SCHOOL_DATA)(
        values
    )
    assert found.has_mode.all()
    lost = found._replace(
        indefinite=np.array([False, True, True]), mass=np.array([-3.0, -50.0, -50.0])
    )
    np.testing.assert_allclose(_masses(values, lost, np.ones(1)), [-3.0, -3.0, -50.0])


def test_chains_mend_what_is_not_gaussian():
    """Against weights, which are worth enough here to say what is right."""
    y = count_data()
    fit = gaussian(COUNTS, y)
    hyperparameters = find_hyperparameters(jax.random.key(1), COUNTS, fit.q.phi, y)
    assert "sigma" in [COUNTS.coordinate_names()[i] for i in hyperparameters]
    found = nested_laplace(jax.random.key(2), COUNTS, fit.q.phi, hyperparameters, y)
    assert 0.15 < found.weighed.relative_ess < 0.9
    moved = nested_short_chains(jax.random.key(3), COUNTS, found)
    share = np.exp(found.weighed.log_weights - found.weighed.log_weights.max())
    right = np.average(found.weighed.z, axis=0, weights=share)
    sd = found.weighed.z.std(axis=0)
    chains = np.asarray(moved.x).reshape(-1, COUNTS.dim)
    off = np.abs(chains.mean(axis=0) - right) / sd
    raw = np.abs(found.weighed.z.mean(axis=0) - right) / sd
    assert off.max() < 0.12
    assert off.mean() < 0.6 * raw.mean()
    assert float(moved.groups[0].changed) > 0.5  # whole hyperparameters are taken anew
    assert moved.drift.start_correlation.max() < 0.1


def test_chains_leave_an_exact_one_alone(nested_schools):
    moved = nested_short_chains(jax.random.key(3), SCHOOLS, nested_schools[3])
    assert max(moved.drift.at_least()) < 0.05
    assert float(moved.groups[0].changed) == pytest.approx(1.0, abs=1e-6)


def test_the_default_call_takes_it_and_is_right():
    data = (jnp.asarray(SEEN), jnp.asarray(ERRORS))
    mean, sd, evidence = exact_log_tau()
    for key in (0, 1):
        fit = jaxvi.fit(jax.random.key(key), SCHOOLS, data=data, progress=False)
        assert [stage.name for stage in fit.log][-1] == "nested_laplace"
        assert fit.verdict == "ok"
        assert fit.bound == pytest.approx(evidence, abs=0.05)
        log_tau = np.log(fit.sample(jax.random.key(9), 20_000)["tau"])
        assert abs(log_tau.mean() - mean) < 0.1 * sd
        assert abs(log_tau.std() / sd - 1.0) < 0.1


def test_a_kink_is_no_curvature():
    """Laplace priors: the Hessian of what is at zero says nothing; the stage is left."""
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.normal(size=(60, 33)))
    y = x[:, 0] + 0.5 * jnp.asarray(rng.normal(size=60))

    def density(p, data):
        x, y = data
        fit = jax.scipy.stats.norm.logpdf(y, x @ p["beta"], p["sigma"]).sum()
        return fit - jnp.abs(p["beta"]).sum() / 0.05 - p["sigma"]

    target = jaxvi.Target(density, {"beta": jaxvi.Real(33), "sigma": jaxvi.Positive()})
    fit = jaxvi.fit(jax.random.key(0), target, data=(x, y), progress=False)
    notes = [stage.note for stage in fit.log if stage.name == "nested_laplace"]
    assert all("left" in note or "far from Gaussian" in note for note in notes)
    assert fit.verdict in ("ok", "caution")


def test_proposals_adapt_to_a_long_tail():
    """That of the log of a scale near zero: exponential to the left, and cut to the right."""
    generator = np.random.default_rng(0)

    def log_mass(values):
        t, u = values.T
        return t - np.exp(t) - 0.5 * u**2

    own = np.diag([0.3, 0.3])
    proposal = Proposal.around(np.zeros(2), own)
    for _ in range(3):
        values = proposal.draw(generator, 512)
        weights = log_mass(values) - proposal.log_density(values)
        proposal = Proposal.of(generator, values, weights, own)
    values = proposal.draw(generator, 20_000)
    weights = log_mass(values) - proposal.log_density(values)
    assert effective_sample_size(weights) > 0.4 * len(weights)
    share = np.exp(weights) / np.exp(weights).sum()
    exact = stats.loggamma(1.0)
    mean = share @ values[:, 0]
    assert mean == pytest.approx(exact.mean(), abs=0.05)
    assert np.sqrt(share @ (values[:, 0] - mean) ** 2) == pytest.approx(exact.std(), rel=0.05)
    # normalised: the mean weight is the integral
    assert np.exp(weights).mean() == pytest.approx(np.sqrt(2.0 * np.pi), rel=0.03)


@pytest.mark.parametrize("hyperparameters", [[], [10], [-1], list(range(10)), [0.5], "tau"])
def test_hyperparameters_are_coordinates(nested_schools, hyperparameters):
    data, fit, _, _ = nested_schools
    with pytest.raises(ValueError, match="hyperparameters: expected numbers of coordinates"):
        nested_laplace(jax.random.key(0), SCHOOLS, fit.q.phi, hyperparameters, data)


def test_no_mode_no_approximation():
    """The latents are bimodal, and flat in between: nothing to expand about at most values."""

    def density(z):
        ring = -50.0 * (jnp.sum(z[1:] ** 2) - jnp.exp(z[0])) ** 2
        return ring - 0.5 * z[0] ** 2

    target = jaxvi.Target(density, jaxvi.Real((4,)))
    phi = jaxvi.FullRank().init(jax.random.key(0), 4, start=jnp.zeros(4))
    found = nested_laplace(jax.random.key(0), target, phi, [0])
    assert found is None or found.weighed.relative_ess < 0.3


def test_hyperparameters_are_few_or_none():
    """None in a Gaussian; where more than 8 coordinates set scales, none, too."""

    def flat(z):
        return -0.5 * z @ z

    def many(z):
        return -0.5 * jnp.sum(z[:10] ** 2) - 0.5 * jnp.sum(
            jnp.exp(-2.0 * z[:10]) * z[10:] ** 2 + 2.0 * z[:10]
        )

    for density, dim in ((flat, 6), (many, 20)):
        target = jaxvi.Target(density, jaxvi.Real((dim,)))
        fit = gaussian(target, None)
        assert find_hyperparameters(jax.random.key(0), target, fit.q.phi).size == 0


def test_factor_of_the_fit_is_used(nested_schools):
    _, fit, hyperparameters, found = nested_schools
    factor = scale_tril_on_host(fit.q.phi.log_diag, fit.q.phi.lower)
    precision = np.linalg.inv(factor @ factor.T)
    latents = np.setdiff1d(np.arange(10), hyperparameters)
    own = np.asarray(found.phi.at.factor)
    np.testing.assert_allclose(own @ own.T, precision[np.ix_(latents, latents)], rtol=1e-6)
