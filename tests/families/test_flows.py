"""Families made of maps and of other families: flows, transformed families, mixtures."""

import copy
import dataclasses
import functools
import math
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    FAMILIES,
    assert_within,
    mean_and_error,
    normal_log_prob,
    somewhere,
)
from scipy import stats

import jaxvi
from jaxvi import families
from jaxvi.families import (
    Affine,
    AutoregressiveFlow,
    Bijector,
    CouplingFlow,
    Family,
    FixedArray,
    FullRank,
    HasCovariance,
    HasEntropy,
    HasGaussianInit,
    HasMirror,
    HasMoments,
    HasUniform,
    LowRank,
    MeanField,
    Mixture,
    StudentT,
    Transformed,
    transform_and_log_prob,
)
from jaxvi.families._spline import spline_forward, spline_inverse, spline_knots
from jaxvi.objectives import ELBO

pytestmark = pytest.mark.usefixtures("compiled_quickly")
FLOWS = [family for family in FAMILIES if isinstance(family, CouplingFlow | AutoregressiveFlow)]
every_flow = pytest.mark.parametrize("flow", FLOWS, ids=repr)


def gaussian(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and Cholesky factor of a Gaussian off-centre, off-scale and correlated."""
    rng = np.random.default_rng(dim)
    loc, scales = rng.normal(size=dim) * 3.0, np.exp(rng.normal(size=dim))
    lower = np.tril(rng.normal(size=(dim, dim)), -1) + np.diag(1.0 + rng.uniform(size=dim))
    return loc, scales[:, None] * lower


# ---- starting at a Gaussian


@pytest.mark.parametrize(("dim", "dtype"), [(1, "float32"), (4, "float64")], indirect=["dtype"])
@pytest.mark.parametrize(
    "family",
    [
        FullRank(),
        LowRank(3),
        CouplingFlow(num_layers=3, hidden=(5,)),
        CouplingFlow(num_layers=2, hidden=(5, 4), transformer="spline"),
        AutoregressiveFlow(hidden=(5,)),
        Transformed(),
        Transformed(CouplingFlow(num_layers=2, hidden=(5,)), Affine(learned=True)),
        Transformed(FullRank(), Affine(structure="diagonal")),
        Mixture(FullRank(), 3),
        Mixture((FullRank(), LowRank(4)), 2),
    ],
    ids=repr,
)
def test_a_family_that_holds_gaussians_starts_at_the_given_one(
    family: Family, dim: int, dtype: np.dtype
) -> None:
    """log q is the Gaussian's log density at every point, and the draws are the Gaussian's too."""
    assert isinstance(family, HasGaussianInit)
    loc, factor = gaussian(dim)
    points = loc + np.random.default_rng(0).normal(size=(20, dim)) @ factor.T
    noise = family.draw_noise(jax.random.key(1), 20, dim, dtype)

    @jax.jit
    def start(loc: Any, factor: Any, z: Any, noise: Any) -> Any:
        phi = family.init_gaussian(jax.random.key(0), loc, factor)
        log_q = jax.vmap(functools.partial(family.log_prob, phi))(z)
        return phi, log_q, jax.vmap(functools.partial(transform_and_log_prob, family, phi))(noise)

    given = (jnp.asarray(value, dtype) for value in (loc, factor, points))
    phi, found, (z, log_q) = start(*given, noise)
    assert {leaf.dtype for leaf in jax.tree.leaves(phi)} == {dtype}
    # LowRank keeps idle columns at a thousandth, which moves the covariance by a millionth
    tolerance = 1e-4 if dtype == "float32" or "LowRank" in repr(family) else 1e-10
    np.testing.assert_allclose(
        found, normal_log_prob(points, loc, factor @ factor.T), rtol=tolerance, atol=tolerance
    )
    exact = normal_log_prob(np.asarray(z, float), loc, factor @ factor.T)
    np.testing.assert_allclose(log_q, exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "family",
    [
        MeanField(),
        LowRank(1),
        LowRank(2),
        StudentT(),
        StudentT(df=1.5),
        StudentT(df=3.0, structure="diagonal"),
        StudentT(df=6.0, learn_df=True),
    ],
    ids=repr,
)
def test_a_family_without_the_gaussian_starts_nearest_to_it(family: Family, x64: None) -> None:
    """KL(p || q) is least there: the mean of log q's gradient under the Gaussian p vanishes.

    The mean is a quadrature of 16 nodes a coordinate; t's density has poles, hence its tolerance.
    """
    dim = 4
    # one factor and a half, so that the best of rank one leaves every coordinate some of its own
    common = np.array([[1.0, 0.0], [1.2, 0.3], [-0.8, 0.4], [0.9, -0.3]])
    scales, loc = np.array([0.5, 2.0, 1.0, 3.0]), np.array([1.0, -2.0, 0.3, 4.0])
    covariance = scales[:, None] * (common @ common.T + np.eye(dim)) * scales[None]
    factor = np.linalg.cholesky(covariance)
    assert isinstance(family, HasGaussianInit)
    phi = family.init_gaussian(jax.random.key(0), jnp.asarray(loc), jnp.asarray(factor))
    nodes, weights = np.polynomial.hermite_e.hermegauss(16)
    grid = np.stack(np.meshgrid(*[nodes] * dim, indexing="ij"), -1).reshape(-1, dim)
    mass = functools.reduce(np.multiply.outer, [weights / weights.sum()] * dim).reshape(-1)

    @jax.jit
    def mean_log_q(p: Any) -> jax.Array:
        z = jnp.asarray(loc + grid @ factor.T)
        return jnp.asarray(mass) @ jax.vmap(functools.partial(family.log_prob, p))(z)

    gradient = jax.jit(jax.grad(mean_log_q))(phi)
    if isinstance(family, StudentT):
        gradient = gradient._replace(raw_df=jnp.zeros(0))  # stays at `df`
    scale = np.exp(np.asarray(getattr(phi, "log_diag", getattr(phi, "log_scale", 0.0))))
    tolerance = (2e-2 if isinstance(family, StudentT) else 1e-5) / scale.min()
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, np.zeros(leaf.shape), atol=tolerance)
    for scaled in (-0.1, 0.1):  # it is a maximum along the scale, and along a shift
        wider = jax.tree.map(
            lambda leaf, s=scaled: leaf * math.exp(s) if leaf.ndim == 2 else leaf, phi
        )
        name = "log_diag" if isinstance(family, StudentT) else "log_scale"
        wider = wider._replace(**{name: getattr(phi, name) + scaled})
        assert mean_log_q(wider) < mean_log_q(phi)
        assert mean_log_q(phi._replace(loc=phi.loc + scaled)) < mean_log_q(phi)


def test_factor_analysis_finds_the_factors_of_a_covariance_that_has_them(dtype: np.dtype) -> None:
    """A covariance F F^T + D of rank 2 in 7 dimensions is found again: KL(q || p) is rounding."""
    rng = np.random.default_rng(4)
    common, own = rng.normal(size=(7, 2)), np.exp(rng.normal(size=7))
    scales = np.exp(2.0 * rng.normal(size=7))
    covariance = scales[:, None] * (common @ common.T + np.diag(own)) * scales[None]
    factor = np.linalg.cholesky(covariance)
    loc = jnp.zeros(7, dtype)
    phi = LowRank(2).init_gaussian(jax.random.key(0), loc, jnp.asarray(factor, dtype))
    found = np.asarray(LowRank(2).covariance(phi), float)
    white = np.linalg.solve(factor, np.linalg.solve(factor, found).T)
    divergence = 0.5 * (np.trace(white) - 7.0 - np.linalg.slogdet(white)[1])
    assert abs(divergence) < (1e-12 if dtype == "float64" else 1e-6)


# ---- flows


@every_flow
@pytest.mark.parametrize(
    ("dim", "dtype"),
    [(1, "float64"), (5, "float32"), pytest.param(5, "float64", marks=pytest.mark.long)],
    indirect=["dtype"],
)
def test_a_flow_and_its_inverse_agree(flow: Any, dim: int, dtype: np.dtype) -> None:
    """The inverse finds the noise, and both ways have the log-determinant of the Jacobian."""
    # about as wide as at the end of a fit, for conditioning such as there
    phi = somewhere(dataclasses.replace(flow, init_scale=1.0), dim)
    phi = jax.tree.map(lambda leaf: leaf.astype(dtype), phi)
    noise = flow.draw_noise(jax.random.key(1), 300, dim, dtype)

    @jax.jit
    def there_and_back(noise: Any) -> Any:
        z, log_q = jax.vmap(functools.partial(flow.transform_and_log_prob, phi))(noise)
        return z, log_q, *jax.vmap(functools.partial(flow.inverse, phi))(z)

    z, log_q, found, log_det = there_and_back(noise)
    assert z.dtype == log_q.dtype == found.dtype == log_det.dtype == dtype
    # rounding, multiplied by how far the layers and the triangular solve stretch
    tolerance = 3e3 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found, noise, atol=tolerance)
    base = -0.5 * np.sum(noise**2, axis=-1) - 0.5 * dim * math.log(2.0 * math.pi)
    np.testing.assert_allclose(base + log_det, log_q, atol=10 * tolerance)
    if dtype == "float64":
        jacobian = jax.jit(jax.vmap(jax.jacfwd(functools.partial(flow.transform, phi))))(noise)
        np.testing.assert_allclose(base - log_q, np.linalg.slogdet(jacobian)[1], atol=1e-10)


@every_flow
@pytest.mark.parametrize(("dim", "dtype"), [(1, "float64"), (4, "float32")], indirect=["dtype"])
def test_the_layers_of_a_flow_start_as_the_identity(flow: Any, dim: int, dtype: np.dtype) -> None:
    """At first z = start + init_scale * noise, in the order of the noise, to the last digits."""
    start = jnp.linspace(-2.0, 3.0, dim, dtype=dtype)
    phi = flow.init(jax.random.key(0), dim, start=start)
    noise = flow.draw_noise(jax.random.key(1), 50, dim, dtype)
    z = jax.jit(jax.vmap(functools.partial(flow.transform, phi)))(noise)
    tolerance = 20 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        z, start[None] + flow.init_scale * noise, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(("dim", "transformer"), [(2, "affine"), (3, "spline"), (9, "affine")])
def test_coupling_layers_reach_every_coordinate(dim: int, transformer: Any, x64: None) -> None:
    """Two layers bend every coordinate; after six, each depends on all the noise.

    The outer map is diagonal, so that the dependence is the layers' own.
    """
    shallow = CouplingFlow(2, (4,), transformer, affine="diagonal")
    deep = CouplingFlow(6, (4,), transformer, affine="diagonal")
    noise = jnp.asarray(np.random.default_rng(0).normal(size=dim))
    phi = somewhere(shallow, dim)
    bend = jax.jit(jax.hessian(functools.partial(shallow.transform, phi)))(noise)
    assert (np.abs(bend).reshape(dim, -1).max(axis=-1) > 1e-6).all()
    jacobian = jax.jit(jax.jacfwd(functools.partial(deep.transform, somewhere(deep, dim))))(noise)
    assert (np.abs(jacobian) > 1e-9).all()


@pytest.mark.parametrize("dim", [1, 5])
def test_an_autoregressive_layer_is_triangular(dim: int, x64: None) -> None:
    """One layer's Jacobian, its order put right, is lower triangular and full below."""
    flow = AutoregressiveFlow(1, (7, 9), affine="diagonal")
    phi = somewhere(flow, dim)
    noise = jnp.asarray(np.random.default_rng(0).normal(size=dim))
    jacobian = np.asarray(jax.jit(jax.jacfwd(functools.partial(flow.transform, phi)))(noise))
    np.testing.assert_array_equal(jacobian, np.tril(jacobian))
    assert (np.abs(jacobian[np.tril_indices(dim)]) > 1e-12).all()


def test_log_prob_of_a_flow_has_the_right_gradient(x64: None) -> None:
    """Through the sequential inverse too: directional differences of log q(z) in phi and z."""
    rng = np.random.default_rng(2)
    for flow in (AutoregressiveFlow(2, (5,)), CouplingFlow(2, (5,), "spline")):
        phi = somewhere(dataclasses.replace(flow, init_scale=1.0), 3)
        z = flow.transform(phi, jnp.asarray(rng.normal(size=3)))
        way = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), (phi, z))

        log_prob = jax.jit(flow.log_prob)
        gradient = jax.jit(jax.grad(flow.log_prob, argnums=(0, 1)))(phi, z)
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True)
        slope = sum(jnp.sum(a * b) for a, b in pairs)
        ahead = jax.tree.map(lambda a, b: a + 1e-5 * b, (phi, z), way)
        behind = jax.tree.map(lambda a, b: a - 1e-5 * b, (phi, z), way)
        difference = (log_prob(*ahead) - log_prob(*behind)) / 2e-5
        np.testing.assert_allclose(slope, difference, rtol=1e-6)


@jax.jit
def along_splines(raw: jax.Array, x: jax.Array) -> Any:
    """y, log slopes and slopes of many splines at x; x found again with its log slopes; y again."""
    knots = spline_knots(raw, 6, 3.0)
    many = jnp.tile(x[:, None], (1, len(raw)))
    y, log_slope = jax.vmap(lambda row: spline_forward(knots, row, 3.0))(many)
    slope = jax.vmap(jax.grad(lambda row: spline_forward(knots, row, 3.0)[0].sum()))(many)
    back, log_back = jax.vmap(lambda row: spline_inverse(knots, row, 3.0))(y)
    again, log_again = jax.vmap(lambda row: spline_forward(knots, row, 3.0))(back)
    return many, y, log_slope, slope, back, log_back, again, log_again


def test_splines_are_monotonic_bijections(dtype: np.dtype) -> None:
    """Inverse and slope agree with the spline, whatever its knots; outside it is the identity."""
    eps = float(jnp.finfo(dtype).eps)
    for spread in (0.0, 0.3, 3.0):
        raw = spread * np.random.default_rng(1).uniform(-1.0, 1.0, size=(40, 3 * 6 - 1))
        x = jnp.asarray(np.linspace(-4.0, 4.0, 2000), dtype)
        found = along_splines(jnp.asarray(raw, dtype), x)
        x, y, log_slope, slope, back, log_back, again, log_again = map(np.asarray, found)
        assert y.dtype == log_slope.dtype == back.dtype == dtype
        assert (np.diff(y, axis=0) > -10 * eps).all()
        np.testing.assert_array_equal(y[np.abs(x) > 3.0], x[np.abs(x) > 3.0])
        np.testing.assert_allclose(np.log(slope), log_slope, atol=1e4 * eps)
        # rounding in x is multiplied by the slope, and that in y by a bin's distance from 0 over
        # its size: a thousand for the narrowest ones
        slack = 1e4 * eps * (1.0 + np.exp(np.maximum(log_slope, log_again)))
        assert (np.abs(again - y) < slack).all()
        if spread == 0.0:
            np.testing.assert_allclose(y, x, atol=10 * eps)
        if spread < 1.0:
            np.testing.assert_allclose(back, x, atol=1e3 * eps)
            np.testing.assert_allclose(log_back, -log_slope, atol=1e4 * eps)


def banana(z: Any) -> Any:
    """z_0 of standard deviation 1.5, z_1 about a parabola of it; log evidence 2.3."""
    a, b = (z[0] - 1.0) / 1.5, (z[1] + 2.0 - 1.2 * ((z[0] - 1.0) / 1.5) ** 2) / 0.4
    return 2.3 - math.log(2.0 * math.pi) - math.log(1.5 * 0.4) - 0.5 * (a * a + b * b)


FALLING = jaxvi.Stochastic(
    learning_rate=optax.cosine_decay_schedule(0.01, 2_000), tolerance=None, average=False
)


@functools.cache
def fit_banana(family: Family) -> jaxvi.Fit:
    return jaxvi.fit(
        jax.random.key(3),
        jaxvi.Target(banana, jaxvi.Real(2)),
        family,
        solver=FALLING,
        objective=ELBO(num_draws=32, stick_the_landing=True),
        num_restarts=1,
        max_steps=2_000,
    )


@pytest.mark.parametrize(
    "flow",
    [CouplingFlow(4, (16,)), CouplingFlow(2, (16,), "spline"), AutoregressiveFlow(2, (16,))],
    ids=lambda flow: f"{type(flow).__name__}-{getattr(flow, 'transformer', '')}",
)
def test_a_flow_bends_where_a_gaussian_cannot(flow: Family) -> None:
    """On a banana a trained flow comes close to the evidence; the best Gaussian stays below."""
    bent, straight = fit_banana(flow), fit_banana(FullRank())
    assert straight.bound < 2.3 - 0.6
    assert 2.3 - 0.2 < bent.bound < 2.3 + 5.0 * bent.bound_mcse


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: CouplingFlow(0),
            r"CouplingFlow\.num_layers: expected a whole number of at least 1.*got 0",
        ),
        (
            lambda: CouplingFlow(hidden=()),
            r"hidden: expected a tuple of widths.*got \(\); try \(32, 32\)",
        ),
        (
            lambda: AutoregressiveFlow(hidden=(4, 0)),
            r"hidden\[1\]: expected a whole number of at least 1.*got 0",
        ),
        (
            lambda: CouplingFlow(num_bins=1),
            "num_bins: expected a whole number from 2 to 500; got 1; try num_bins=10",
        ),
        (
            lambda: CouplingFlow(tail_bound=0.0),
            "tail_bound: expected a finite number above 0; got 0.0; try tail_bound=5.0",
        ),
        (
            lambda: CouplingFlow(init_scale=-1.0),
            "init_scale: expected a finite number above 0; got -1.0; try init_scale=0.1",
        ),
        (lambda: Mixture(MeanField(), 0), "num: expected a whole number of at least 1"),
        (lambda: Mixture((MeanField(), FullRank()), 3), "num=3 and .*try num=2"),
        (lambda: Affine(loc=[[1.0]]), r"loc of shape \(dim,\)"),
        (lambda: Affine(loc=[1.0], scale_tril=np.eye(2)), r"got \(1,\) and \(2, 2\)"),
        (lambda: Affine(scale_tril=[[1.0, 0.0], [2.0, -1.0]]), "positive diagonal"),
        (lambda: Affine(loc=[math.nan]), "finite numbers"),
        (lambda: Mixture.of(MeanField(), phis(), [1.0]), r"shape \(2,\) or \(2, draws\)"),
        (
            lambda: Transformed(bijector=Affine(loc=[1.0])).init(jax.random.key(0), 2),
            "dimension 2, the target's; got 1",
        ),
    ],
)
def test_bad_specifications_are_refused(make: Any, words: str) -> None:
    """A family that cannot be says so at the door."""
    with pytest.raises(ValueError, match=words):
        make()


# ---- transformed families


@dataclasses.dataclass(frozen=True)
class Sinh(Bijector):
    """z = b sinh(x) + start, b learned: a user's own bijector, not affine."""

    def init(self, key: Any, dim: int, *, start: Any = None) -> Any:
        return (jnp.zeros(dim) if start is None else start, jnp.full_like(start, 0.2))

    def forward(self, params: Any, x: Any) -> Any:
        shift, log_b = params
        return shift + jnp.exp(log_b) * jnp.sinh(x), jnp.sum(log_b + jnp.log(jnp.cosh(x)))

    def inverse(self, params: Any, z: Any) -> Any:
        shift, log_b = params
        u = (z - shift) * jnp.exp(-log_b)
        return jnp.arcsinh(u), -jnp.sum(log_b + 0.5 * jnp.log1p(u * u))


OFFERS = {
    HasEntropy: "entropy",
    HasMoments: "moments",
    HasCovariance: "covariance",
    HasGaussianInit: "init_gaussian",
    HasMirror: "mirror",
    HasUniform: "num_uniforms",
}


@dataclasses.dataclass(frozen=True)
class Bare(Family):
    """The four required methods, on noise that has no other form."""

    def init(self, key: Any, dim: int, *, start: Any = None) -> Any:
        return (jnp.zeros(dim) if start is None else start,)

    def draw_noise(self, key: Any, num: int, dim: int, dtype: Any = None) -> Any:
        return jax.random.laplace(key, (num, 2 * dim), dtype or float)

    def transform(self, phi: Any, noise: Any) -> Any:
        return phi[0] + noise[: phi[0].size]

    def log_prob(self, phi: Any, z: Any) -> Any:
        return -jnp.sum(jnp.abs(z - phi[0]) + math.log(2.0))


@pytest.mark.parametrize(
    ("family", "offered"),
    [
        (Transformed(), set(OFFERS)),
        (Transformed(StudentT()), set(OFFERS)),
        (Transformed(CouplingFlow()), {HasGaussianInit, HasMirror, HasUniform}),
        (Transformed(MeanField(), Sinh()), {HasMirror, HasUniform}),
        (Transformed(Bare()), set()),
        (Transformed(Transformed(Bare())), set()),
        (Mixture(), set(OFFERS) - {HasEntropy}),
        (Mixture(Bare(), 3), set()),
        (Mixture((FullRank(), Bare()), 2), set()),
        (
            Mixture((FullRank(), AutoregressiveFlow()), 2),
            {HasGaussianInit, HasMirror, HasUniform},
        ),
    ],
    # a set is written in another order in every process, and workers must agree on names
    ids=lambda value: repr(value) if isinstance(value, Family) else "",
)
def test_a_family_made_of_others_offers_what_they_do(family: Family, offered: set[type]) -> None:
    """The protocols hold exactly where the parts allow, for copies and pickled ones as well."""
    again = [family, copy.deepcopy(family), dataclasses.replace(family)]
    if "Sinh" not in repr(family) and "Bare" not in repr(family):
        again.append(pickle.loads(pickle.dumps(family)))
    for twin in again:
        assert twin == family
        assert hash(twin) == hash(family)
        assert {protocol for protocol in OFFERS if isinstance(twin, protocol)} == offered
        for protocol, name in OFFERS.items():
            assert hasattr(twin, name) == (protocol in offered)
            if protocol in offered:  # the copy's own method
                assert getattr(twin, name).__self__ is twin


def test_a_bijector_of_ones_own(x64: None) -> None:
    """Draws and densities agree through a nonlinear map, and the density integrates to one."""
    family = Transformed(MeanField(init_scale=0.5), Sinh())
    phi = somewhere(family, 1)
    noise = family.draw_noise(jax.random.key(0), 100, 1)
    z, log_q = jax.vmap(functools.partial(transform_and_log_prob, family, phi))(noise)
    np.testing.assert_allclose(log_q, jax.vmap(lambda v: family.log_prob(phi, v))(z), atol=1e-10)
    u = np.arange(-20.0, 20.0, 0.01)
    points = jnp.asarray(np.sinh(u))[:, None]
    density = np.exp(jax.vmap(functools.partial(family.log_prob, phi))(points))
    assert abs(0.01 * np.sum(density * np.cosh(u)) - 1.0) < 1e-9


def test_what_is_not_learned_has_no_gradient(x64: None) -> None:
    """With learned=False the map is a constant of the bound; with True the gradients are there."""

    def bound(phi: Any, family: Any, noise: Any) -> Any:
        z, log_q = transform_and_log_prob(family, phi, noise)
        return jnp.sum(jnp.sin(z)) - log_q + family.entropy(phi) + family.moments(phi).mean[0]

    for learned in (False, True):
        family = Transformed(FullRank(), Affine(learned=learned))
        phi = somewhere(family, 3)
        noise = family.draw_noise(jax.random.key(0), 1, 3)[0]
        gradient = jax.grad(bound)(phi, family, noise)
        assert all(bool(leaf.any()) for leaf in gradient.inner)
        assert all(bool(leaf.any()) == learned for leaf in gradient.bijector)


def test_whitening_makes_a_correlated_gaussian_easy() -> None:
    """A mean field seen through a Gaussian's factor holds that Gaussian: the bound is exact.

    The same affine values may be given with the specification, and then need no `init_gaussian`.
    """
    loc, factor = np.array([3.0, -1.0]), np.array([[2.0, 0.0], [1.5, 0.1]])
    covariance = factor @ factor.T
    precision = np.linalg.inv(covariance)

    def log_density(z: Any) -> Any:
        white = z - jnp.asarray(loc, z.dtype)
        return 1.7 - 0.5 * white @ jnp.asarray(precision, z.dtype) @ white

    target = jaxvi.Target(log_density, jaxvi.Real(2))
    evidence = 1.7 + math.log(2.0 * math.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
    family = Transformed(MeanField(), Affine(loc=loc, scale_tril=factor))
    fit = jaxvi.fit(jax.random.key(0), target, family, num_restarts=2).check()
    assert abs(fit.bound - evidence) < 1e-2
    plain = jaxvi.fit(jax.random.key(0), target, MeanField(), num_restarts=2)
    assert plain.bound < evidence - 1.0


def test_given_values_stay_and_the_rest_is_what_is_left(x64: None) -> None:
    """A given L is kept by `init_gaussian`, and the family within takes up the difference."""
    loc, factor = gaussian(3)
    other = np.diag([0.5, 2.0, 3.0]) + np.tril(np.full((3, 3), 0.3), -1)
    for structure in ("full", "diagonal"):
        family = Transformed(FullRank(), Affine(scale_tril=other, structure=structure))
        phi = family.init_gaussian(jax.random.key(0), jnp.asarray(loc), jnp.asarray(factor))
        kept = family.bijector.affine(phi.bijector)
        given = np.sqrt(np.diag(other @ other.T)) if structure == "diagonal" else np.diag(other)
        np.testing.assert_allclose(np.exp(kept.log_diag), given, rtol=1e-12)
        np.testing.assert_allclose(family.moments(phi).mean, loc, rtol=1e-10)
        np.testing.assert_allclose(family.covariance(phi), factor @ factor.T, rtol=1e-9)
        start = jnp.asarray([1.0, -4.0, 2.0])
        first = family.init(jax.random.key(0), 3, start=start)
        np.testing.assert_allclose(family.moments(first).mean, start, rtol=1e-12)


def test_fixed_arrays_are_values() -> None:
    """Equal by value, whatever they were made from; hashable, read-only, pickled and printed."""
    one = FixedArray([[1.0, -0.0], [0.5, 2.0]])
    same = [
        FixedArray(np.array([[1.0, 0.0], [0.5, 2.0]], np.float32)),
        FixedArray(jnp.array([[1.0, 0.0], [0.5, 2.0]], jnp.bfloat16)),
        FixedArray(one),
        pickle.loads(pickle.dumps(one)),
        eval(repr(one), vars(families)),
    ]
    for other in same:
        assert other == one
        assert hash(other) == hash(one)
    different = [FixedArray([[1.0, 0.0]]), FixedArray([[1, 0], [0, 2]]), [[1.0, 0.0], [0.5, 2.0]]]
    assert all(other != one for other in different)
    with pytest.raises(ValueError, match="read-only"):
        one.as_numpy()[0, 0] = 3.0
    assert Affine(loc=[1.0, 2.0]) == Affine(loc=jnp.array([1.0, 2.0])) != Affine(loc=[1.0, 3.0])


# ---- mixtures


def phis() -> families.MeanFieldParams:
    """Two mean fields, as lanes have them."""
    return families.MeanFieldParams(
        jnp.asarray([[-4.0, 1.0], [5.0, -2.0]]), jnp.log(jnp.asarray([[0.5, 1.5], [2.0, 0.3]]))
    )


def two_bumps(z: Any) -> Any:
    """log(0.3 N_1 + 0.7 N_2) + 4.1 for the two Gaussians of `phis`."""
    log_q = jax.vmap(MeanField().log_prob, (0, None))(phis(), z)
    return 4.1 + jax.scipy.special.logsumexp(log_q, b=jnp.asarray([0.3, 0.7], z.dtype))


def test_modes_fitted_apart_make_the_posterior(x64: None) -> None:
    """Weighted by their bounds, the exact qs of two modes are the posterior of both."""
    bounds = 4.1 + np.log([0.3, 0.7])
    log_weights = np.tile(bounds[:, None], (1, 5)) + np.log([0.5, 1.5, 1.0, 0.25, 1.75])
    points = jnp.asarray(np.random.default_rng(0).normal(size=(50, 2)) * 4.0)
    expected = jax.vmap(two_bumps)(points) - 4.1
    for weights in (bounds, log_weights):
        mixture, phi = Mixture.of(MeanField(), phis(), weights)
        assert mixture == Mixture(MeanField(), 2)
        found = jax.vmap(functools.partial(mixture.log_prob, phi))(points)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    apart = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], phis()) for i in range(2))
    mixture, phi = Mixture.of((MeanField(), MeanField()), apart, bounds)
    found = jax.vmap(functools.partial(mixture.log_prob, phi))(points)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    _, even = Mixture.of(MeanField(), phis())
    np.testing.assert_allclose(np.exp(even.log_weights), [0.5, 0.5])
    _, one = Mixture.of(MeanField(), phis(), [0.0, -math.inf])
    alone = jax.vmap(functools.partial(MeanField().log_prob, jax.tree.map(lambda a: a[0], phis())))
    found = jax.vmap(functools.partial(mixture.log_prob, one._replace(components=apart)))(points)
    np.testing.assert_allclose(found, alone(points), rtol=1e-12)


def test_components_are_drawn_by_their_weights() -> None:
    """The choice is the inverse CDF of the weights: shares of draws, by fresh and even uniforms."""
    mixture, phi = Mixture.of(MeanField(), phis(), np.log([0.3, 0.7]))
    u = (np.arange(1000) + 0.5) / 1000
    cube = jnp.asarray(np.stack([u, np.full(1000, 0.5), np.full(1000, 0.5)], 1), jnp.float32)
    transform = jax.jit(jax.vmap(functools.partial(mixture.transform, phi)))
    z = transform(mixture.noise_from_uniform(cube))
    assert np.sum(z[:, 0] < 0.5) == 300
    np.testing.assert_allclose(z[:300], np.tile(phis().loc[0], (300, 1)), atol=1e-5)
    noise = mixture.draw_noise(jax.random.key(0), 20_000, 2)
    z = transform(noise)
    share = 0.3 * stats.norm.cdf(0.5, -4.0, 0.5) + 0.7 * stats.norm.cdf(0.5, 5.0, 2.0)
    assert_within(*_split(np.asarray(z[:, 0] < 0.5), share))


def _split(values: np.ndarray, exact: Any) -> tuple[np.ndarray, Any, np.ndarray]:
    mean, error = mean_and_error(values)
    return mean, exact, error


def test_stratified_draws_have_gradients_in_the_weights(x64: None) -> None:
    """The weighted sum over components is unbiased, and so is its gradient in all of phi."""
    mixture, phi = Mixture.of(MeanField(), phis(), np.log([0.3, 0.7]))
    linear = jnp.asarray([0.4, -1.1])

    def estimate(p: Any, noise: Any) -> Any:
        draws, weights = mixture.stratified(p, noise)
        return jnp.sum(weights * (draws @ linear + jnp.sum(draws**2, axis=-1)))

    def exact(p: Any) -> Any:
        mean, variance = mixture.moments(p)
        return mean @ linear + jnp.sum(variance + mean**2)

    noise = mixture.draw_noise(jax.random.key(1), 20_000, 2)
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(estimate), (None, 0)))(phi, noise)
    expected = jax.grad(exact)(phi)
    assert_within(*_split(value, exact(phi)))
    for found, right in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert_within(*_split(found, right))
    assert np.abs(expected.log_weights).min() > 1.0


MIXED = Mixture((MeanField(), LowRank(2), StudentT(df=9.0), Bare()), 4)


@pytest.mark.parametrize(
    ("family", "dim"), [(MIXED, 1), (MIXED, 3), (Mixture(MIXED.family[:3], 3), 3)], ids=repr
)
def test_a_mixture_of_different_families(family: Mixture, dim: int, x64: None) -> None:
    """Draws of families with noise of different sizes: importance weights have mean one.

    The first moment of draws is the weighted one of the parts.
    """
    phi = somewhere(family, dim)
    noise = family.draw_noise(jax.random.key(2), 20_000, dim)
    assert noise.shape[1] == 1 + dim + (2 + dim) + 2 * -(-dim // 2) + 2 * dim * (family.num == 4)
    draws = jax.jit(jax.vmap(functools.partial(transform_and_log_prob, family, phi)))(noise)
    z, log_q = (np.asarray(part) for part in draws)
    centre, covariance = z.mean(axis=0), np.atleast_2d(np.cov(z.T))
    weights = np.exp(normal_log_prob(z, centre, 0.02 * covariance) - log_q)
    assert_within(*_split(weights, 1.0))
    share = jax.nn.softmax(phi.log_weights)
    means = [part[0] for part in phi.components]
    assert_within(*_split(z, sum(w * m for w, m in zip(share, means, strict=True))))
    if isinstance(family, HasMirror):
        np.testing.assert_array_equal(family.mirror(family.mirror(noise)), noise)
        u = np.random.default_rng(0).uniform(size=(4, family.num_uniforms(dim)))
        assert family.noise_from_uniform(jnp.asarray(u)).shape == (4, noise.shape[1])


def test_a_safe_component_bounds_the_weights(x64: None) -> None:
    """Beside a t of weight 1 / 10, log p - log q stays bounded for a target with t's tails."""
    narrow = MeanField().init(jax.random.key(0), 1, start=jnp.zeros(1))
    heavy = StudentT(df=3.0, init_scale=1.0).init(jax.random.key(0), 1, start=jnp.zeros(1))
    parts = (MeanField(), StudentT(df=3.0))
    mixture, phi = Mixture.of(parts, (narrow, heavy), np.log([0.9, 0.1]))
    z = jnp.asarray(np.sinh(np.linspace(-12.0, 12.0, 500)))[:, None]
    log_p = jax.vmap(functools.partial(StudentT(df=3.0).log_prob, heavy))(z)
    log_q = jax.vmap(functools.partial(mixture.log_prob, phi))(z)
    assert np.max(log_p - log_q) <= math.log(10.0) + 1e-9
