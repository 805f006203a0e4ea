"""Families: a draw, its density, its moments and its gradients all speak of one distribution.

The members come from `families.__all__` by way of tests/problems.py: a new family is tested here
without a new line. A fixture of module scope makes the draws of one family and dimension once
for all the laws.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from problems import (
    FAMILIES,
    assert_within,
    concrete,
    has_moments,
    mean_and_error,
    normal_log_prob,
    somewhere,
)
from programs import rest_long
from scipy import stats

from jaxvi import families
from jaxvi.families import (
    Bijector,
    Family,
    HasCovariance,
    HasEntropy,
    HasMirror,
    HasMoments,
    HasUniform,
    LowRank,
    Mixture,
    StudentT,
    transform_and_log_prob,
)

pytestmark = pytest.mark.usefixtures("compiled_quickly")
NUM = 100_000
CASES = [
    (family, dim, dtype)
    for family in FAMILIES
    for dim, dtype in [(1, "float64"), (3, "float32"), (4, "float64")]
]
every = pytest.mark.parametrize("family", FAMILIES, ids=repr)
students = pytest.mark.parametrize(
    "family", [family for family in FAMILIES if isinstance(family, StudentT)], ids=repr
)


class Sample(NamedTuple):
    """One member of a family and many of its draws, as float64 NumPy arrays."""

    family: Family
    dim: int
    dtype: str
    phi: Any
    z: np.ndarray
    log_q: np.ndarray
    joint: tuple[np.ndarray, np.ndarray]
    facts: dict[str, Any]
    centre: np.ndarray
    factor: np.ndarray

    def x64(self) -> Any:
        return jax.enable_x64(self.dtype == "float64")


@functools.partial(jax.jit, static_argnums=(0, 1))
def draw(family: Family, dim: int, phi: Any, key: jax.Array) -> Any:
    noise = family.draw_noise(key, NUM, dim, jax.tree.leaves(phi)[0].dtype)
    z = jax.vmap(family.transform, (None, 0))(phi, noise)
    log_q = jax.vmap(family.log_prob, (None, 0))(phi, z)
    joint = jax.vmap(lambda row: transform_and_log_prob(family, phi, row))(noise)
    names = [name for name in ("entropy", "moments", "covariance") if hasattr(family, name)]
    return z, log_q, joint, {name: getattr(family, name)(phi) for name in names}


@functools.partial(jax.jit, static_argnums=0)
def log_probs(family: Family, phi: Any, z: jax.Array) -> jax.Array:
    return jax.vmap(family.log_prob, (None, 0))(phi, z)


def rough_shape(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and a square root of a covariance, found whatever the tails."""
    low, centre, high = np.quantile(z, [0.16, 0.5, 0.84], axis=0)
    scale = 0.5 * (high - low)
    bulk = np.clip((z - centre) / scale, -3.0, 3.0)
    return centre, scale[:, None] * np.linalg.cholesky(np.atleast_2d(np.cov(bulk.T)))


@functools.cache
def sample(family: Family, dim: int, dtype: str) -> Sample:
    with jax.enable_x64(dtype == "float64"):
        phi = somewhere(family, dim)
        drawn = draw(family, dim, phi, jax.random.key(1))
    z, log_q, joint, facts = jax.tree.map(np.asarray, drawn)
    wide = z.astype(float)
    return Sample(family, dim, dtype, phi, wide, log_q, joint, facts, *rough_shape(wide))


# one dimension in float64 and several in float32 show what several in float64 would
@pytest.fixture(
    scope="module",
    params=rest_long(CASES, lambda case: case[1] != 4),
    ids=lambda case: f"{case[0]!r}-{case[1]}-{case[2]}",
)
def case(request: pytest.FixtureRequest) -> Sample:
    return sample(*request.param)


def test_the_public_families_are_found() -> None:
    """At least the four families of the first release are among the members."""
    names = {type(family).__name__ for family in FAMILIES}
    assert {"MeanField", "FullRank", "LowRank", "StudentT"} <= names
    assert len(names) == len(concrete(families.__all__, families, Family))


def test_shapes_and_dtypes(case: Sample) -> None:
    """Draws are (dim,), densities scalars, all in the dtype of phi."""
    z, log_q = case.joint
    assert z.shape == (NUM, case.dim)
    assert log_q.shape == case.log_q.shape == (NUM,)
    assert z.dtype.name == log_q.dtype.name == case.log_q.dtype.name == case.dtype
    assert np.isfinite(z).all()


def test_joint_transform_is_transform_then_log_prob(case: Sample) -> None:
    """`transform_and_log_prob` gives the draw of `transform` and its `log_prob`."""
    tolerance = 1e-9 if case.dtype == "float64" else 2e-4
    np.testing.assert_allclose(case.joint[0], case.z, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(case.joint[1], case.log_q, rtol=tolerance, atol=5 * tolerance)


def test_importance_weights_have_mean_one(case: Sample) -> None:
    """E_q[r(z) / q(z)] = 1 for normalised Gaussians r with lighter tails than q's."""
    covariance = 0.5 * case.factor @ case.factor.T
    for shift in (0.0, 0.4, -0.4):
        mean = case.centre + case.factor @ np.full(case.dim, shift / math.sqrt(case.dim))
        weights = np.exp(normal_log_prob(case.z, mean, covariance) - case.log_q)
        assert_within(*split_exact(weights, 1.0))


def split_exact(values: np.ndarray, exact: Any) -> tuple[np.ndarray, Any, np.ndarray]:
    mean, error = mean_and_error(values)
    return mean, exact, error


def heavy_reference(case: Sample, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Points from an even mixture of a multivariate and a product Cauchy about q, and log r."""
    rng = np.random.default_rng(8)
    gauss = rng.normal(size=(num, case.dim))
    white = gauss / np.abs(rng.normal(size=(num, 1)))
    white[::2] = gauss[::2] / np.abs(rng.normal(size=(num, case.dim)))[::2]
    joint = stats.multivariate_t(np.zeros(case.dim), df=1.0).logpdf(white)
    apart = stats.cauchy.logpdf(white).sum(-1)
    log_r = np.logaddexp(joint, apart) - math.log(2.0) - np.linalg.slogdet(case.factor)[1]
    return case.centre + white @ case.factor.T, log_r


def test_draws_have_the_distribution_of_the_density(case: Sample) -> None:
    """P(v z <= t) is the same from draws and from the density, in many directions v.

    The second comes from importance weights q / r on points of a density r with heavier tails.
    """
    rng = np.random.default_rng(9)
    points, log_r = heavy_reference(case, NUM)
    with case.x64():
        log_q = np.asarray(log_probs(case.family, case.phi, jnp.asarray(points, case.dtype)))
    weights = np.exp(log_q - log_r)
    assert_within(*split_exact(weights, 1.0))
    directions = np.vstack([np.eye(case.dim), rng.normal(size=(4, case.dim))])
    for direction in np.linalg.solve(case.factor.T, directions.T).T:
        drawn, placed = case.z @ direction, points @ direction
        for quantile in (0.02, 0.3, 0.5, 0.8, 0.99):
            limit = np.quantile(drawn, quantile)
            # the empirical quantile carries the error of the draws
            error = math.hypot(
                mean_and_error(weights * (placed <= limit))[1],
                math.sqrt(quantile * (1 - quantile) / NUM),
            )
            assert_within((weights * (placed <= limit)).mean(), quantile, error)


def test_entropy_is_minus_the_mean_log_density(case: Sample) -> None:
    """H = -E_q[log q]."""
    if not isinstance(case.family, HasEntropy):
        pytest.skip("no closed entropy")
    entropy = case.facts["entropy"]
    assert entropy.shape == ()
    assert entropy.dtype == case.dtype
    assert_within(*split_exact(-case.log_q, entropy))


def test_moments_are_those_of_the_draws(case: Sample) -> None:
    """Mean and variance agree with the draws' within standard errors, where those exist."""
    if not isinstance(case.family, HasMoments):
        pytest.skip("no closed moments")
    mean, variance = case.facts["moments"]
    assert mean.dtype == variance.dtype == case.dtype
    assert mean.shape == variance.shape == (case.dim,)
    if has_moments(case.family, 2):
        assert_within(*split_exact(case.z, mean))
    else:
        assert np.isinf(variance).all()
    if has_moments(case.family, 4):
        assert_within(*split_exact((case.z - np.asarray(mean, float)) ** 2, variance))


def test_covariance_is_that_of_the_draws(case: Sample) -> None:
    """The covariance agrees with the draws' within standard errors; its diagonal is `moments`."""
    if not isinstance(case.family, HasCovariance):
        pytest.skip("no closed covariance")
    moments = case.facts["moments"]
    covariance = case.facts["covariance"].astype(float)
    np.testing.assert_allclose(np.diag(covariance), moments.variance, rtol=1e-5)
    if has_moments(case.family, 4):
        centred = case.z - np.asarray(moments.mean, float)
        assert_within(*split_exact(centred[:, :, None] * centred[:, None, :], covariance))
        np.testing.assert_allclose(covariance, covariance.T, rtol=1e-5)
        assert (np.linalg.eigvalsh(covariance) > 0).all()


@every
def test_base_noise_has_its_other_forms(family: Family, x64: None) -> None:
    """Mirrored noise, and noise made from uniforms, have the distribution of noise.

    Mirroring twice is the identity. Marginals of noise and of draws by two-sample tests.
    """
    num, dim, others = 20_000, 3, []
    noise = family.draw_noise(jax.random.key(2), num, dim)
    if isinstance(family, HasMirror):
        others.append(family.mirror(noise))
        np.testing.assert_array_equal(family.mirror(others[-1]), noise)
        assert not np.array_equal(others[-1], noise)
    if isinstance(family, HasUniform):
        u = np.random.default_rng(3).uniform(size=(num, family.num_uniforms(dim)))
        others.append(family.noise_from_uniform(jnp.asarray(u)))
    fresh = family.draw_noise(jax.random.key(4), num, dim)
    move = jax.jit(jax.vmap(functools.partial(family.transform, somewhere(family, dim))))
    for other in others:
        assert other.shape == fresh.shape
        assert other.dtype == fresh.dtype
        pairs = [*zip(fresh.T, other.T, strict=True)]
        pairs += zip(move(fresh).T, move(other).T, strict=True)
        for first, second in pairs:
            assert stats.ks_2samp(first, second, method="asymp").pvalue > 1e-5


def sinh_grid(
    centre: np.ndarray, factor: np.ndarray, reach: float, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points centre + factor sinh(u) for a grid of u, and log weights of the trapezoid rule."""
    u, dim = np.arange(-reach, reach + step / 2, step), len(centre)
    grid = np.stack(np.meshgrid(*[u] * dim, indexing="ij"), -1).reshape(-1, dim)
    log_weights = np.log(np.cosh(grid)).sum(-1) + dim * math.log(step)
    return centre + np.sinh(grid) @ factor.T, log_weights + np.linalg.slogdet(factor)[1]


@every
@pytest.mark.parametrize("dim", [1, 2])
def test_densities_integrate_to_one(family: Family, dim: int, x64: None) -> None:
    """The integral of exp(log_prob) is 1, by quadrature, to seven digits.

    Densities of splines have kinks, which the trapezoid rule meets with an error of the order of
    the step's square.
    """
    kinks = getattr(family, "transformer", None) == "spline"
    reach, step = (16.0, 0.08) if dim == 2 else (25.0, 0.002 if kinks else 0.02)
    phi = somewhere(family, dim)
    move = jax.jit(jax.vmap(functools.partial(family.transform, phi)))
    outline = rough_shape(np.asarray(move(family.draw_noise(jax.random.key(1), 2000, dim))))
    points, log_weights = sinh_grid(*outline, reach, step)
    log_q = np.asarray(log_probs(family, phi, jnp.asarray(points)))
    assert abs(np.exp(log_q + log_weights).sum() - 1.0) < (step**2 if kinks else 1e-7)


@every
def test_one_dimensional_draws_follow_the_integrated_density(family: Family) -> None:
    """The cumulative distribution by quadrature of `log_prob` makes draws uniform."""
    one = sample(family, 1, "float64")
    points, log_weights = sinh_grid(one.centre, one.factor, 25.0, 0.002)
    with jax.enable_x64(True):
        mass = np.exp(np.asarray(log_probs(family, one.phi, jnp.asarray(points))) + log_weights)
    at_points = np.cumsum(mass) - 0.5 * mass
    uniform = np.interp(one.z[:, 0], points[:, 0], at_points)
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4


class T(NamedTuple):
    """A Student-t in SciPy's terms."""

    df: float
    loc: np.ndarray
    shape: np.ndarray


def scipy_t(family: StudentT, phi: Any) -> T:
    df = float(family.degrees_of_freedom(phi))
    factor = np.diag(np.exp(phi.log_diag))
    if family.structure == "full":
        factor = factor + np.tril(phi.lower, -1)
    return T(df, np.asarray(phi.loc), factor @ factor.T)


@students
@pytest.mark.parametrize("dim", rest_long([1, 2, 3, 4, 5], lambda dim: dim in (1, 3, 5)))
def test_student_t_is_scipys(family: StudentT, dim: int) -> None:
    """Log density, entropy and every marginal agree with SciPy's t and multivariate t."""
    one = sample(family, dim, "float32" if dim == 3 else "float64")
    with one.x64():
        df, loc, shape = scipy_t(family, one.phi)
    entropy = float(one.facts["entropy"])
    scales = np.sqrt(np.diag(shape)).astype(float)
    z, loc = one.z[:200], loc.astype(float)
    if family.structure == "full":
        joint = stats.multivariate_t(loc, shape.astype(float), df=df)
        log_q, expected = joint.logpdf(z), joint.entropy()
    else:
        log_q = stats.t.logpdf(z, df, loc, scales).sum(-1)
        expected = stats.t.entropy(df, loc, scales).sum()
    tolerance = 1e-8 if one.dtype == "float64" else 1e-4
    np.testing.assert_allclose(one.log_q[:200], log_q, rtol=tolerance, atol=5 * tolerance)
    np.testing.assert_allclose(entropy, expected, rtol=tolerance, atol=tolerance)
    for i in range(dim):
        marginal = stats.t(df, loc[i], scales[i])
        assert stats.kstest(one.z[:, i], marginal.cdf).pvalue > 1e-4


@pytest.mark.parametrize("structure", ["diagonal", "full"])
def test_many_degrees_of_freedom_are_a_gaussian(structure: Any, x64: None) -> None:
    """As df grows, draws and density tend to the Gaussian's of the same scale, as 1 / df."""
    family = StudentT(df=1e7, structure=structure)
    phi = somewhere(family, 3)
    covariance = np.asarray(family.covariance(phi))
    z = np.random.default_rng(1).multivariate_normal(phi.loc, covariance, 50)
    found = log_probs(family, phi, jnp.asarray(z))
    np.testing.assert_allclose(
        found, normal_log_prob(z, np.asarray(phi.loc), covariance), atol=1e-5
    )


QUADRATIC = np.array([[1.3, 0.4, -0.2], [0.4, 0.8, 0.3], [-0.2, 0.3, 2.1]])
LINEAR = np.array([-2.0, 0.7, 1.1])


@functools.partial(jax.jit, static_argnums=0)
def gradient_draws(family: Family, phi: Any, key: jax.Array) -> tuple[Any, Any, Any]:
    """Per draw: pathwise gradient of a quadratic, and two gradients of E[log(1 + |z|^2)]."""

    def quadratic(z: jax.Array) -> jax.Array:
        return z @ QUADRATIC @ z + LINEAR @ z

    def slow(z: jax.Array) -> jax.Array:
        return jnp.log1p(z @ z) + jnp.tanh(z[-1])

    leaves = jax.tree.leaves(phi)
    num = 40_000 if sum(leaf.size for leaf in leaves) < 40 else 8_000
    noise = family.draw_noise(key, num, 3, leaves[0].dtype)
    baseline = slow(family.transform(phi, jnp.zeros_like(noise[0])))

    def one(noise: jax.Array) -> tuple[Any, Any, Any]:
        z = family.transform(phi, noise)
        move = functools.partial(family.transform, noise=noise)
        _, pull = jax.vjp(lambda p: move(p), phi)
        score = jax.grad(family.log_prob)(phi, jax.lax.stop_gradient(z))
        weight = slow(z) - baseline
        scored = jax.tree.map(lambda leaf: leaf * weight, score)
        return pull(jax.grad(quadratic)(z))[0], pull(jax.grad(slow)(z))[0], scored

    return jax.vmap(one)(noise)


def flat(tree: Any) -> np.ndarray:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


@every
def test_gradients_through_transform_are_unbiased(family: Family, x64: None) -> None:
    """The mean pathwise gradient is that of the expectation, in every entry of phi.

    For a quadratic the expectation is known from the moments. For log(1 + |z|^2), of which
    every family has the mean, pathwise and score-function gradients estimate the same.
    """
    phi = somewhere(family, 3, start=[0.8, -0.5, 0.3])
    draws = gradient_draws(family, phi, jax.random.key(6))
    if isinstance(family, Mixture):  # which component is drawn has no gradient in the weights
        draws = [found.components for found in draws]
    by_path, slow_path, slow_score = draws
    difference = flat(slow_path) - flat(slow_score)
    assert_within(*split_exact(difference, 0.0))
    if isinstance(family, HasCovariance) and has_moments(family, 4):

        def exact(p: Any) -> jax.Array:
            mean, covariance = family.moments(p).mean, family.covariance(p)
            return jnp.sum(QUADRATIC * covariance) + mean @ QUADRATIC @ mean + LINEAR @ mean

        gradient = jax.jit(jax.grad(exact))(phi)
        gradient = gradient.components if isinstance(family, Mixture) else gradient
        expected = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
        assert_within(*split_exact(flat(by_path), expected))


LEARNED = [f for f in FAMILIES if isinstance(f, StudentT) and f.learn_df]


@pytest.mark.parametrize("family", LEARNED, ids=repr)
def test_gradient_in_learned_degrees_of_freedom(family: StudentT, x64: None) -> None:
    """d/d(raw df) of E[log(1 + z_i^2)] is that of the quadrature of t's density.

    Coordinates of a multivariate t are drawn in a chain: each of them has to be right.
    """
    dim, step = 5, 0.02
    phi = somewhere(family, dim)
    _, loc, shape = scipy_t(family, phi)
    flat_t = StudentT(df=family.df, structure="diagonal", learn_df=True)
    u = jnp.arange(-22.0, 22.0, step)

    def by_quadrature(raw: jax.Array, loc: jax.Array, scale: jax.Array) -> jax.Array:
        one = families.StudentTParams(loc[None], jnp.log(scale)[None], jnp.zeros((0, 1)), raw)
        z = loc + scale * jnp.sinh(u)
        density = jnp.exp(jax.vmap(flat_t.log_prob, (None, 0))(one, z[:, None]))
        return step * scale * jnp.sum(density * jnp.cosh(u) * jnp.log1p(z**2))

    def by_path(raw: jax.Array, row: jax.Array) -> jax.Array:
        return jnp.log1p(family.transform(phi._replace(raw_df=raw), row) ** 2)

    exact = jax.jit(jax.vmap(jax.grad(by_quadrature), (None, 0, 0)))
    noise = family.draw_noise(jax.random.key(7), NUM, dim)
    found = jax.jit(jax.vmap(jax.jacfwd(by_path), (None, 0)))(phi.raw_df, noise)
    expected = exact(phi.raw_df, jnp.asarray(loc), jnp.sqrt(np.diag(shape)))
    assert_within(*split_exact(found, expected))


def leaves_equal(first: Any, second: Any) -> bool:
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@every
def test_init_is_centred_on_the_start(family: Family, dtype: np.dtype) -> None:
    """q starts exactly at `start`, with a small spread; without one, the key decides."""
    start = jnp.asarray([3.7, -12.0, 0.02], dtype)
    keys = jax.random.split(jax.random.key(1), 2)
    phi = family.init(keys[0], 3, start=start)
    noise = family.draw_noise(keys[1], 4001, 3, dtype)
    z = jax.jit(jax.vmap(functools.partial(family.transform, phi)))(noise)
    np.testing.assert_allclose(np.median(z, axis=0), start, atol=0.02)
    assert np.median(np.abs(z - start[None, :])) < 0.5
    if isinstance(family, HasMoments):
        np.testing.assert_array_equal(family.moments(phi).mean, start)
    first, second = (family.init(k, 3) for k in keys)
    assert leaves_equal(first, family.init(keys[0], 3))
    assert not leaves_equal(first, second)
    assert {leaf.dtype for leaf in jax.tree.leaves((phi, first))} == {dtype}


@every
def test_single_precision_start_among_64_bit_types(family: Family, x64: None) -> None:
    """With 64-bit types enabled, a float32 start still makes everything float32."""
    phi = family.init(jax.random.key(0), 2, start=jnp.asarray([1.5, -2.0], jnp.float32))

    def all_of_it(phi: Any, key: jax.Array) -> list[Any]:
        noise = family.draw_noise(key, 3, 2, jnp.dtype("float32"))
        z, log_q = transform_and_log_prob(family, phi, noise[0])
        made = [noise, z, log_q, family.transform(phi, noise[0]), family.log_prob(phi, z)]
        names = [name for name in ("entropy", "moments", "covariance") if hasattr(family, name)]
        made.extend(getattr(family, name)(phi) for name in names)
        if isinstance(family, HasUniform):
            cube = jnp.full((1, family.num_uniforms(2)), 0.3, "float32")
            made.append(family.noise_from_uniform(cube))
        return made

    made = [phi, jax.eval_shape(all_of_it, phi, jax.random.key(1))]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(made)} == {"float32"}
    made = family.init(jax.random.key(0), 2)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(made)} == {"float64"}


@every
def test_families_are_values(family: Family) -> None:
    """Frozen, hashable, equal by value and unequal otherwise: the key of a compiled program."""
    twin = dataclasses.replace(family)
    assert twin is not family
    assert twin == family
    assert hash(twin) == hash(family)
    assert eval(repr(family), vars(families)) == family
    for field in dataclasses.fields(family):
        assert isinstance(
            getattr(family, field.name), bool | int | float | str | tuple | Family | Bijector
        )
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(family, field.name, getattr(family, field.name))
    assert len(set(FAMILIES)) == len(FAMILIES)


@every
def test_a_batch_of_phi_is_a_loop(family: Family, x64: None) -> None:
    """Mapping over stacked phi gives what each phi gives alone."""
    phis = [somewhere(family, 2, start=[shift, -shift]) for shift in (0.3, 5.0, -2.0)]
    noise = family.draw_noise(jax.random.key(3), 3, 2)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *phis)

    def both(phi: Any, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = family.transform(phi, row)
        return z, family.log_prob(phi, z)

    z, log_q = jax.jit(jax.vmap(both))(stacked, noise)
    alone = jax.jit(both)
    for i, phi in enumerate(phis):
        z_alone, log_q_alone = alone(phi, noise[i])
        np.testing.assert_allclose(z[i], z_alone, rtol=1e-10)
        np.testing.assert_allclose(log_q[i], log_q_alone, rtol=1e-9)


def test_student_t_learns_only_what_it_should(x64: None) -> None:
    """Fixed degrees of freedom and a diagonal scale leave nothing to learn in phi."""
    phi = StudentT(df=3.5, structure="diagonal").init(jax.random.key(0), 4)
    assert phi.lower.size == phi.raw_df.size == 0
    for df in (1.001, 4.0, 900.0):
        learned = StudentT(df=df, learn_df=True)
        raw = learned.init(jax.random.key(0), 4)
        np.testing.assert_allclose(learned.degrees_of_freedom(raw), df, rtol=1e-9)
    far_down = raw._replace(raw_df=jnp.full(1, -50.0))
    assert learned.degrees_of_freedom(far_down) >= learned.min_df


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LowRank(0), r"at least 1, below 2\*\*31; got 0; try rank=10"),
        (lambda: LowRank(-3), r"at least 1, below 2\*\*31; got -3"),
        (lambda: StudentT(df=0.0), r"finite number above 0; got 0\.0; try df=5\.0"),
        (lambda: StudentT(df=-2.0), r"above 0; got -2"),
        (lambda: StudentT(df=math.nan), r"above 0; got nan"),
        (lambda: StudentT(df=1.0, learn_df=True), r"above 1; got 1"),
        (lambda: StudentT(df=2.5, min_df=3.0, learn_df=True), r"above 3; got 2.5"),
    ],
)
def test_bad_numbers_are_refused(make: Any, words: str) -> None:
    """A family that cannot be says so when it is made."""
    with pytest.raises(ValueError, match=f"expected .*{words}"):
        make()


def test_an_unknown_structure_is_refused() -> None:
    """The words name the choices, whether the class or the checker of annotations says them."""
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=r"diagonal.*full"):
        StudentT(structure="banded")
