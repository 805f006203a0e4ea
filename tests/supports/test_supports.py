"""Supports: bijections whose log-determinants are those of their Jacobians.

The members come from `supports.__all__` and their instances from each class's `examples()`: a new
support is tested here without a new line.
"""

import dataclasses
import functools
import inspect
import math
import subprocess
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvi import supports
from jaxvi.supports import (
    CholeskyCorrelation,
    GreaterThan,
    Interval,
    LessThan,
    NumPyro,
    Ordered,
    Positive,
    PositiveDefinite,
    PositiveOrdered,
    Real,
    Simplex,
    Support,
)

CLASSES = [getattr(supports, name) for name in supports.__all__ if name != "Support"]


def _has(package: str) -> bool:
    try:
        __import__(package)
    except ImportError:
        return False
    return True


HAS_NUMPYRO = _has("numpyro")
needs_numpyro = pytest.mark.skipif(not HAS_NUMPYRO, reason="needs numpyro")
pytestmark = pytest.mark.usefixtures("compiled_quickly")
CATALOGUE = [
    support for cls in CLASSES if HAS_NUMPYRO or cls is not NumPyro for support in cls.examples()
]
every = pytest.mark.parametrize("support", CATALOGUE, ids=repr)


@pytest.fixture(autouse=True)
def strict_ranks() -> Iterator[None]:
    with jax.numpy_rank_promotion("raise"):
        yield


def free_point(support: Support, dtype: str, seed: int = 0) -> np.ndarray:
    # Off-centre and off-scale, as nothing holds at zero alone.
    noise = np.random.default_rng(seed).normal(size=support.unconstrained_shape)
    return np.asarray(0.4 + 1.3 * noise, dtype)


def independent(support: Support, x: jax.Array) -> jax.Array:
    return getattr(support, "independent", jnp.ravel)(x)


# Compiled once per support, shape and dtype for all the tests.
@functools.partial(jax.jit, static_argnums=0)
def constrain(support: Support, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return support.constrain(y)


@functools.partial(jax.jit, static_argnums=0)
def unconstrain(support: Support, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return support.unconstrain(x), support.contains(x)


@functools.partial(jax.jit, static_argnums=0)
def derivatives(support: Support, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.jacobian(support.constrain)(y)


def log_det_by_autodiff(support: Support, slope: jax.Array) -> float:
    columns = np.moveaxis(np.reshape(slope, (*support.shape, support.size)), -1, 0)
    jacobian = jax.jit(jax.vmap(functools.partial(independent, support)))(columns)
    return np.linalg.slogdet(np.reshape(jacobian, (support.size, support.size)))[1]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_public_support_gives_examples(cls: type[Support]) -> None:
    assert issubclass(cls, Support)
    assert dataclasses.is_dataclass(cls)
    if cls is not NumPyro or HAS_NUMPYRO:
        assert len(cls.examples()) >= 2
    assert inspect.getdoc(cls)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every
def test_round_trip_both_ways_in_the_dtype_given(support: Support, dtype: str) -> None:
    with jax.enable_x64(True):
        y = free_point(support, dtype)
        x, log_det = constrain(support, y)
        again, inside = unconstrain(support, x)
        assert x.shape == support.shape
        assert again.shape == y.shape == support.unconstrained_shape
        assert math.prod(y.shape) == support.size
        assert inside.shape == log_det.shape == ()
        assert {x.dtype.name, log_det.dtype.name, again.dtype.name} == {dtype}
        assert not x.weak_type
        assert not log_det.weak_type
        assert inside.dtype == bool
        assert inside
        assert not unconstrain(support, np.full_like(x, np.nan))[1]
        tolerance = 2e-4 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(again, y, rtol=tolerance, atol=tolerance)
        x_again, _ = constrain(support, again)
        np.testing.assert_allclose(x_again, x, rtol=tolerance, atol=tolerance)


@every
def test_log_det_is_that_of_the_jacobian(support: Support) -> None:
    with jax.enable_x64(True):
        for seed in (1, 2):
            y = free_point(support, "float64", seed)
            exact = log_det_by_autodiff(support, derivatives(support, y)[0])
            np.testing.assert_allclose(constrain(support, y)[1], exact, rtol=1e-10, atol=1e-10)
            single = constrain(support, np.float32(y))[1]
            np.testing.assert_allclose(single, exact, rtol=3e-6, atol=3e-6)


@every
def test_second_derivatives_have_no_kink_at_zero(support: Support) -> None:
    """A stable formula with |y| in it can have a kink at zero that only Newton's method sees:
    slopes right on both sides, and a curvature of zero in between."""
    step = 1e-4
    weights = np.random.default_rng(5).normal(size=support.shape)

    @jax.jit
    def slopes(y: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        def both(v: jax.Array) -> jax.Array:
            x, log_det = support.constrain(v)
            return log_det + jnp.sum(weights * x)

        return jax.jvp(jax.grad(both), (y,), (direction,))

    with jax.enable_x64(True):
        direction = jnp.asarray(free_point(support, "float64"))
        _, found = slopes(jnp.zeros_like(direction), direction)
        above, _ = slopes(step * direction, direction)
        below, _ = slopes(-step * direction, direction)
        np.testing.assert_allclose(found, (above - below) / (2 * step), atol=3e-6)


@every
def test_far_out_in_float32_values_stay_inside_and_log_dets_exact(support: Support) -> None:
    signs = np.random.default_rng(3).choice([-1.0, 1.0], size=support.unconstrained_shape)
    ones = np.ones(support.unconstrained_shape)
    with jax.enable_x64(True):
        for way in (ones, -ones, signs, -signs):
            y = np.float32(30 * way)
            x, log_det = constrain(support, y)
            assert unconstrain(support, x)[1], (y, x)
            slope_x, slope_log_det = derivatives(support, y)
            assert np.all(np.isfinite(slope_x))
            _, exact = constrain(support, np.float64(y))
            _, exact_slope = derivatives(support, np.float64(y))
            np.testing.assert_allclose(log_det, exact, rtol=1e-6, atol=1e-4)
            np.testing.assert_allclose(slope_log_det, exact_slope, atol=1e-5)


@every
def test_vmap_equals_a_loop(support: Support) -> None:
    points = np.stack([free_point(support, "float32", seed) for seed in range(3)])
    with jax.enable_x64(True):
        x, log_det = jax.jit(jax.vmap(support.constrain))(points)
        for i in range(3):
            x_i, log_det_i = constrain(support, points[i])
            np.testing.assert_allclose(x[i], x_i, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(log_det[i], log_det_i, rtol=1e-5, atol=1e-5)


@every
def test_equal_by_value_and_hashable(support: Support) -> None:
    kept = {f.name: getattr(support, f.name) for f in dataclasses.fields(support) if f.init}
    twin = type(support)(**kept)
    assert twin == support
    assert hash(twin) == hash(support)
    assert [other for other in CATALOGUE if other == support] == [support]
    assert str(support.shape) in support.description


def test_bounds_of_any_kind_are_equal_by_value() -> None:
    as_numpy = Interval(np.zeros(2), np.array([1.0, 2.0], np.float32), (2,))
    as_jax = Interval(jnp.zeros(2), jnp.array([1, 2]), [2])
    assert as_numpy == as_jax == Interval((0, 0), (1, 2), 2)
    assert hash(as_numpy) == hash(as_jax)
    assert as_numpy.lower == (0.0, 0.0)
    assert as_numpy != Interval(np.zeros(2), np.array([1.0, 2.5]), (2,))
    assert GreaterThan(1) == GreaterThan(np.float32(1.0))
    assert type(GreaterThan(1).lower) is float
    assert Real(3) == Real((3,)) == Real(np.array([3]))


@needs_numpyro
def test_numpyro_constraints_are_equal_by_value() -> None:
    from numpyro.distributions import constraints

    one = NumPyro(constraints.independent(constraints.interval(np.zeros(2), 1.0), 1), (2,))
    two = NumPyro(constraints.independent(constraints.interval(jnp.zeros(2), 1.0), 1), (2,))
    assert one == two
    assert hash(one) == hash(two)
    assert one != NumPyro(constraints.independent(constraints.interval(np.ones(2), 2.0), 1), (2,))
    assert NumPyro(constraints.positive) != NumPyro(constraints.softplus_positive)


def integrate(
    support: Support, log_density: object, ranges: list[tuple[float, float, int]], moment: object
) -> tuple[float, np.ndarray]:
    """The density's mass and mean moment by the trapezoid rule over y, which is exact here to
    rounding: everything is smooth and dies off exponentially."""
    axes = [np.linspace(low, high, num) for low, high, num in ranges]
    cell = math.prod((high - low) / (num - 1) for low, high, num in ranges)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))

    def weigh(y: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, log_det = support.constrain(y.reshape(support.unconstrained_shape))
        weight = jnp.exp(log_density(x) + log_det)
        return weight, weight * moment(x)

    mass, moments = jax.jit(jax.vmap(weigh))(grid)
    return float(mass.sum() * cell), np.asarray(moments.sum(0) * cell)


def dirichlet(x: jax.Array) -> jax.Array:
    log_beta = sum(map(math.lgamma, (2, 3, 4))) - math.lgamma(9)
    return jnp.sum(jnp.array([1.0, 2.0, 3.0]) * jnp.log(x)) - log_beta


SCALE = np.array([[2.0, 0.7], [0.7, 0.5]])


def wishart(x: jax.Array) -> jax.Array:
    log_gamma = math.log(math.pi) / 2 + math.lgamma(2.5) + math.lgamma(2.0)
    log_normaliser = 5 * math.log(2) + 2.5 * math.log(np.linalg.det(SCALE)) + log_gamma
    return jnp.linalg.slogdet(x)[1] - jnp.trace(jnp.linalg.inv(SCALE) @ x) / 2 - log_normaliser


def normals(x: jax.Array) -> jax.Array:
    scaled = (x - 3.0) / 2.0
    return math.log(2) - jnp.sum(scaled**2) / 2 - math.log(2 * math.pi) - 2 * math.log(2.0)


KNOWN = {
    "Dirichlet(2, 3, 4)": (
        Simplex((3,)),
        dirichlet,
        [(-30, 30, 241)] * 2,
        lambda x: x,
        np.array([2, 3, 4]) / 9,
    ),
    # Correlation matrices of size 3 have volume pi^2 / 2; each entry's square has mean 1/4 under
    # the uniform distribution (Lewandowski, Kurowicka and Joe 2009). d Omega = L_22 dL.
    "LKJ(1), n = 3": (
        CholeskyCorrelation(3),
        lambda x: jnp.log(x[1, 1]) - math.log(math.pi**2 / 2),
        [(-11, 11, 61)] * 3,
        lambda x: (x @ x.T)[jnp.array([1, 2, 2]), jnp.array([0, 0, 1])] ** 2,
        np.full(3, 0.25),
    ),
    "Wishart(5), n = 2": (
        PositiveDefinite(2),
        wishart,
        [(-6, 2.5, 43), (-6, 2.5, 43), (-9, 9, 91)],
        lambda x: x,
        5 * SCALE,
    ),
    "order statistics of two normals": (
        Ordered((2,)),
        normals,
        [(-15, 21, 145), (-36, 5, 329)],
        lambda x: x,
        3 + 2 * np.array([-1, 1]) / math.sqrt(math.pi),
    ),
    "order statistics of two exponentials": (
        PositiveOrdered((2,)),
        lambda x: math.log(2) - jnp.sum(x),
        [(-34, 5, 235)] * 2,
        lambda x: x,
        np.array([0.5, 1.5]),
    ),
    "shifted exponential": (
        GreaterThan(2.0),
        lambda x: -(x - 2.0),
        [(-36, 5, 401)],
        lambda x: x,
        np.array(3.0),
    ),
    "mirrored exponential": (
        LessThan(-1.0),
        lambda x: x + 1.0,
        [(-36, 5, 401)],
        lambda x: x,
        np.array(-2.0),
    ),
    "Beta(2, 5) on (-3, 4)": (
        Interval(-3.0, 4.0),
        lambda x: jnp.log(x + 3) + 4 * jnp.log(4 - x) + math.log(30) - 6 * math.log(7),
        [(-20, 20, 201)],
        lambda x: x,
        np.array(-3 + 7 * 2 / 7),
    ),
    "Gamma(3)": (
        Positive(),
        lambda x: 2 * jnp.log(x) - x - math.log(2),
        [(-14, 6, 201)],
        lambda x: x,
        np.array(3.0),
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_densities_have_mass_one_and_their_means(name: str) -> None:
    support, log_density, ranges, moment, mean = KNOWN[name]
    with jax.enable_x64(True):
        mass, found = integrate(support, log_density, ranges, moment)
    np.testing.assert_allclose(mass, 1.0, rtol=1e-6)
    np.testing.assert_allclose(found, mean, rtol=1e-6)


@needs_numpyro
@pytest.mark.parametrize(
    ("support", "name", "arguments"),
    [
        (Real((2, 3)), "real", ()),
        (Positive((2, 3)), "positive", ()),
        (GreaterThan(1.5, (3,)), "greater_than", (1.5,)),
        (LessThan(1.5, (3,)), "less_than", (1.5,)),
        (Interval(-3.0, 0.5, (3,)), "interval", (-3.0, 0.5)),
        (Simplex((4,)), "simplex", ()),
        (Ordered((4,)), "ordered_vector", ()),
        (CholeskyCorrelation(4), "corr_cholesky", ()),
    ],
    ids=repr,
)
def test_agrees_with_numpyro(support: Support, name: str, arguments: tuple[float, ...]) -> None:
    from numpyro.distributions import biject_to, constraints

    constraint = getattr(constraints, name)
    transform = biject_to(constraint(*arguments) if arguments else constraint)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        y = free_point(support, "float64")
        x, log_det = constrain(support, y)
        np.testing.assert_allclose(x, transform(y), rtol=1e-10, atol=1e-12)
        theirs = jnp.sum(transform.log_abs_det_jacobian(y, transform(y)))
        np.testing.assert_allclose(log_det, theirs, rtol=1e-10, atol=1e-12)


def test_zero_is_the_centre() -> None:
    np.testing.assert_allclose(Simplex((5,)).constrain(jnp.zeros(4))[0], np.full(5, 0.2), rtol=1e-6)
    np.testing.assert_allclose(CholeskyCorrelation(3).constrain(jnp.zeros(3))[0], np.eye(3))
    np.testing.assert_allclose(Interval(-1.0, 5.0).constrain(jnp.zeros(()))[0], 2.0)


@pytest.mark.parametrize(
    ("support", "outside"),
    [
        (Real(), np.inf),
        (Positive(2), [1.0, 0.0]),
        (GreaterThan(1.0), 1.0),
        (LessThan(1.0), 1.5),
        (Interval(0.0, 1.0), 1.0),
        (Simplex((2,)), [0.5, 0.51]),
        (Simplex((2,)), [1.5, -0.5]),
        (Ordered((3,)), [1.0, 3.0, 2.0]),
        (PositiveOrdered((2,)), [-1.0, 2.0]),
        (CholeskyCorrelation(2), [[1.0, 0.0], [0.6, 0.9]]),
        (CholeskyCorrelation(2), [[1.0, 0.0], [0.6, -0.8]]),
        (CholeskyCorrelation(2), [[0.8, 0.6], [0.6, 0.8]]),
        (PositiveDefinite(2), [[1.0, 2.0], [2.0, 1.0]]),
        (PositiveDefinite(2), [[1.0, 0.1], [0.2, 1.0]]),
        (PositiveDefinite(2), [[0.0, 0.0], [0.0, 0.0]]),
    ],
    ids=repr,
)
def test_contains_refuses_what_is_outside(support: Support, outside: object) -> None:
    assert not support.contains(jnp.asarray(outside, "float32"))


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: Real(2.0), TypeError, "tuple of integers"),
        (lambda: Positive((2, 0.5)), TypeError, "tuple of integers"),
        (lambda: Positive("3"), TypeError, "tuple of integers"),
        (lambda: Real((True,)), TypeError, "tuple of integers"),
        (lambda: Real((2, -1)), ValueError, "0 or more"),
        (lambda: Interval(1.0, 1.0), ValueError, "lower < upper"),
        (lambda: Interval((0.0, 3.0), (1.0, 2.0), 2), ValueError, "lower < upper"),
        (lambda: Interval(0.0, np.inf), ValueError, "GreaterThan"),
        (lambda: GreaterThan(np.nan), ValueError, "finite lower"),
        (lambda: LessThan(np.zeros(3)), ValueError, "broadcast"),
        (lambda: GreaterThan(np.zeros(3), (2,)), ValueError, "broadcast"),
        (lambda: GreaterThan("zero"), TypeError, "real numbers"),
        (lambda: jax.jit(lambda b: GreaterThan(b).shape)(1.0), TypeError, "before tracing"),
        (lambda: Simplex((1,)), ValueError, "length 2 or more"),
        (lambda: Simplex(()), ValueError, "length 2 or more"),
        (lambda: Ordered(()), ValueError, "length 1 or more"),
        (lambda: CholeskyCorrelation(1), ValueError, "2 or more"),
        (lambda: CholeskyCorrelation((3, 3)), TypeError, "n as an integer"),
        (lambda: PositiveDefinite(0), ValueError, "1 or more"),
        (lambda: PositiveDefinite(2.0), TypeError, "integer"),
    ],
)
def test_bad_specifications_are_refused(build: object, error: type, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        build()
    for word in ("expected", "got", "try"):
        assert word in str(caught.value)


def test_an_interval_that_float32_cannot_hold_is_refused() -> None:
    narrow = Interval(1.0, 1.0 + 1e-9)
    with jax.enable_x64(True):
        assert narrow.contains(narrow.constrain(jnp.zeros((), "float64"))[0])
    with pytest.raises(ValueError, match="room between them in float32"):
        narrow.constrain(jnp.zeros((), "float32"))


@needs_numpyro
def test_bad_numpyro_constraints_are_refused() -> None:
    from numpyro.distributions import constraints

    cases = [
        (lambda: NumPyro("positive"), TypeError, "numpyro.distributions.constraints"),
        (lambda: NumPyro(constraints.simplex), ValueError, r"supports.NumPyro\(constraint, shape"),
        (lambda: NumPyro(constraints.boolean), ValueError, "discrete|biject_to"),
        (lambda: NumPyro(constraints.dependent), ValueError, "biject_to"),
        (lambda: NumPyro(constraints.interval(np.zeros(3), 1.0)), ValueError, r"\(3,\)"),
    ]
    for build, error, words in cases:
        with pytest.raises(error, match=words):
            build()


def test_without_numpyro_the_wrapper_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpyro.distributions", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxvi\[numpyro\]'"):
        NumPyro("anything")


def test_importing_the_supports_does_not_import_numpyro() -> None:
    code = "import sys, jaxvi.supports, jaxvi.target; sys.exit('numpyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
