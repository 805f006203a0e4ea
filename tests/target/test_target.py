"""Targets: the change of variables, equality by value, and every check at the door."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvi.supports import Interval, Ordered, Positive, Real, Simplex
from jaxvi.target._target import Target


@pytest.fixture(autouse=True)
def strict_ranks() -> Iterator[None]:
    with jax.numpy_rank_promotion("raise"):
        yield


def normal(params: dict[str, Any], data: Any) -> jax.Array:
    scaled = (data - params["mu"]) / params["scale"]
    return -0.5 * jnp.sum(scaled**2) - data.size * jnp.log(params["scale"])


def prior_only(params: dict[str, Any]) -> jax.Array:
    return -0.5 * params["mu"] ** 2 - params["scale"]


def start(key: jax.Array, data: Any = None) -> dict[str, Any]:
    noise = jax.random.normal(key, (), jnp.float32 if data is None else data.dtype)
    return {"mu": noise, "scale": jnp.exp(noise)}


SUPPORTS = {"scale": Positive(), "mu": Real()}
TARGET = Target(normal, SUPPORTS)
DATA = np.array([4.0, 7.0, 5.5], np.float32)


class Layer(NamedTuple):
    weights: Any
    bounds: Any


NESTED = Target(
    lambda p: jnp.sum(p["b"][0].weights) + p["a"],
    {"b": (Layer(Simplex((3,)), Interval(-1.0, 4.0, (2, 1))), Ordered((2,))), "a": Real()},
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_prob_is_the_density_with_its_jacobian(dtype: str) -> None:
    with jax.enable_x64(True):
        data = jnp.asarray(DATA, dtype)
        z = jnp.asarray([3.7, 0.4], dtype)  # mu, then log scale: keys are sorted
        # sum of log N(x | mu, e^s) without its constant, plus s for the Jacobian
        quadratic = ((np.array([4.0, 7.0, 5.5]) - 3.7) ** 2).sum() / math.exp(0.8)
        expected = -0.5 * quadratic - 3 * 0.4 + 0.4
        found = TARGET.log_prob(z, data)
        assert found.dtype == dtype
        assert found.shape == ()
        np.testing.assert_allclose(found, expected, rtol=1e-6 if dtype == "float32" else 1e-12)
        alone = Target(prior_only, SUPPORTS).log_prob(z)
        np.testing.assert_allclose(alone, -0.5 * 3.7**2 - math.exp(0.4) + 0.4, rtol=1e-6)


def test_nested_parameters_go_there_and_back() -> None:
    assert NESTED.dim == 1 + 2 + 2 + 2
    z = jnp.linspace(-1.0, 1.5, 7)
    params, log_det = jax.jit(NESTED.constrain_and_log_det)(z)
    layer, cuts = params["b"]
    assert isinstance(layer, Layer)
    assert (layer.weights.shape, layer.bounds.shape, cuts.shape) == ((3,), (2, 1), (2,))
    np.testing.assert_allclose(params["a"], -1.0)
    np.testing.assert_allclose(jax.jit(NESTED.unconstrain)(params), z, rtol=1e-4, atol=1e-6)
    parts = [
        Simplex((3,)).constrain(z[1:3])[1],
        Interval(-1.0, 4.0, (2, 1)).constrain(z[3:5].reshape(2, 1))[1],
        z[6],
    ]
    np.testing.assert_allclose(log_det, sum(parts), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(NESTED.log_prob)(z), 1.0 + z[0] + log_det, rtol=1e-6)
    batch = jax.jit(jax.vmap(NESTED.constrain))(jnp.stack([z, -z]))
    np.testing.assert_allclose(batch["b"][1][0], cuts, rtol=1e-6)


def test_names_say_which_coordinate_is_which() -> None:
    names = NESTED.coordinate_names()
    assert names == (
        "a",
        "b.0.weights[0]",
        "b.0.weights[1]",
        "b.0.bounds[0, 0]",
        "b.0.bounds[1, 0]",
        "b.1[0]",
        "b.1[1]",
    )
    assert "b.0.weights[2]" in NESTED.parameter_names()
    assert Target(jnp.sum, Real((2,))).coordinate_names() == ("params[0]", "params[1]")


def test_a_lone_support_makes_params_an_array() -> None:
    target = Target(lambda x: -jnp.sum(x**2), Real((3,)))
    z = jnp.array([1.0, 2.0, -1.0])
    np.testing.assert_array_equal(target.constrain(z), z)
    np.testing.assert_allclose(target.log_prob(z), -6.0)
    assert target.check() == np.dtype("float32")


def test_equal_by_value_and_hashable() -> None:
    twin = Target(normal, {"mu": Real(()), "scale": Positive(())})
    assert twin == TARGET
    assert hash(twin) == hash(TARGET)
    assert Target(prior_only, SUPPORTS) != TARGET
    assert Target(normal, {"mu": Real(), "scale": Real()}) != TARGET
    assert Target(normal, {"mu": Real(), "sigma": Positive()}) != TARGET
    assert Target(normal, SUPPORTS, start=start) != TARGET


def test_a_target_does_not_change_with_the_callers_dictionary() -> None:
    given = dict(SUPPORTS)
    target = Target(normal, given)
    given["extra"] = Real()
    assert target == TARGET
    assert target.supports == SUPPORTS
    assert target.dim == 2


def test_new_data_and_equal_targets_do_not_trace_again() -> None:
    traces = []

    def counted(params: dict[str, Any], data: Any) -> jax.Array:
        traces.append(1)
        return normal(params, data)

    value_and_grad = jax.jit(
        lambda target, z, data: jax.value_and_grad(target.log_prob)(z, data), static_argnums=0
    )
    z = jnp.array([0.3, -0.2])
    first, _ = value_and_grad(Target(counted, SUPPORTS), z, DATA)
    assert len(traces) == 1
    second, _ = value_and_grad(Target(counted, dict(SUPPORTS)), z + 1, DATA + 1)
    assert len(traces) == 1
    assert first != second
    value_and_grad(Target(counted, SUPPORTS), z, np.zeros(4, np.float32))
    assert len(traces) == 2


def test_start_draws_inside_the_supports() -> None:
    key = jax.random.key(3)
    target = Target(normal, SUPPORTS, start=start)
    target.check(DATA)
    z = target.draw_start(key, DATA)
    np.testing.assert_allclose(z[0], z[1], rtol=1e-4)  # mu and log scale are the same noise
    np.testing.assert_allclose(jax.jit(target.draw_start)(key, DATA), z, rtol=1e-5)
    np.testing.assert_allclose(target.draw_start(key), z, rtol=1e-5)
    with pytest.raises(ValueError, match="start"):
        TARGET.draw_start(key, DATA)


def test_unconstrain_takes_plain_numbers_and_a_dtype() -> None:
    np.testing.assert_allclose(TARGET.unconstrain({"mu": 2.0, "scale": 1.0}), [2.0, 0.0])
    lists = Target(jnp.sum, Real((2,))).unconstrain([0.5, 1.5])
    np.testing.assert_allclose(lists, [0.5, 1.5])
    with jax.enable_x64(True):
        params = {"mu": 2.0, "scale": 1.0}
        assert TARGET.unconstrain(params).dtype == "float64"
        assert TARGET.unconstrain(params, dtype="float32").dtype == "float32"
        params["mu"] = np.float32(2.0)
        assert TARGET.unconstrain(params).dtype == "float32"
    traced = jax.jit(lambda s: TARGET.unconstrain({"mu": [s][0], "scale": s**2}))
    np.testing.assert_allclose(traced(2.0), [2.0, math.log(4.0)], rtol=1e-6)


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"mu": 0.0}, ValueError, r"without \['scale'\]"),
        ({"mu": 0.0, "scale": 1.0, "tau": 1.0}, ValueError, r"unexpected \['tau'\]"),
        ({"mu": 0.0, "scale": None}, TypeError, r"params\['scale'\]"),
        ([0.0, 1.0], ValueError, "structure"),
        ({"mu": 1, "scale": 1.0}, TypeError, r"params\['mu'\].*integers"),
        ({"mu": np.int32(1), "scale": 1.0}, TypeError, "integers"),
        ({"mu": jnp.array(True), "scale": 1.0}, TypeError, "bool"),
        ({"mu": 1j, "scale": 1.0}, TypeError, "complex"),
        ({"mu": "1.0", "scale": 1.0}, TypeError, "floating-point"),
        ({"mu": jnp.zeros(3), "scale": 1.0}, ValueError, r"params\['mu'\].*\(3,\)"),
        ({"mu": [0.0], "scale": 1.0}, ValueError, r"\(1,\)"),
        ({"mu": 0.0, "scale": -1.0}, ValueError, r"params\['scale'\].*outside"),
        ({"mu": 0.0, "scale": 0.0}, ValueError, "outside"),
        ({"mu": jnp.nan, "scale": 1.0}, ValueError, "NaN"),
        ({"mu": jnp.inf, "scale": 1.0}, ValueError, "outside"),
    ],
)
def test_bad_params_are_refused(params: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        TARGET.unconstrain(params)
    assert_sentence(caught.value)


def test_more_bad_params() -> None:
    with pytest.raises(ValueError, match="edge"):
        Target(jnp.sum, Ordered((2,))).unconstrain(np.array([1.0, 1.0]))
    with jax.enable_x64(True), pytest.raises(TypeError, match="one floating dtype"):
        TARGET.unconstrain({"mu": np.float32(0.0), "scale": np.float64(1.0)})
    # Where annotations are enforced, the checker's TypeError comes first.
    with pytest.raises((ValueError, TypeError), match=r"vmap|'dim'"):
        TARGET.log_prob(jnp.zeros((5, 2)), DATA)


def assert_sentence(error: BaseException) -> None:
    for word in ("expected", "got", "try"):
        assert word in str(error)


def test_the_engines_dtype_follows_the_data() -> None:
    f32, f64 = np.zeros(2, np.float32), np.zeros(2, np.float64)
    counts = np.arange(2)
    assert TARGET.dtype() == TARGET.dtype(f64) == TARGET.dtype({"n": counts}) == "float32"
    with jax.enable_x64(True):
        assert TARGET.dtype() == TARGET.dtype(f64) == TARGET.dtype({"n": counts}) == "float64"
        assert TARGET.dtype({"x": f32, "n": counts, "scale": 2.0}) == "float32"
        with pytest.raises(TypeError, match=r"float32 at data\['x'\] and float64 at data\['y'\]"):
            TARGET.dtype({"x": f32, "y": f64})
    with pytest.raises(TypeError, match="float16"):
        TARGET.dtype(f32.astype("float16"))


class Frame:
    """Something array-like that JAX can't trace."""


@pytest.mark.parametrize(
    "data",
    [
        {"x": DATA, "name": "iris"},
        np.array(["a", "b"]),
        np.array([1.0, None]),
        Frame(),
        {"when": np.array(["2020-01-01"], "datetime64[D]")},
    ],
    ids=lambda data: type(data).__name__,
)
def test_data_that_are_not_numbers_are_refused(data: Any) -> None:
    with pytest.raises(TypeError, match="arrays of numbers in data") as caught:
        TARGET.check(data)
    assert_sentence(caught.value)


@pytest.mark.parametrize(
    ("log_density", "supports", "error", "words"),
    [
        ("normal", SUPPORTS, TypeError, "function"),
        (None, SUPPORTS, TypeError, "function"),
        (normal, {}, ValueError, "at least one parameter"),
        (normal, (), ValueError, "at least one parameter"),
        (normal, Real((0,)), ValueError, "at least one parameter"),
        (normal, {"mu": (3,)}, TypeError, r"supports\['mu'\]\[0\]"),
        (normal, {"mu": None}, TypeError, r"supports\['mu'\]"),
        (normal, {"mu": Positive}, TypeError, r"Positive\(shape\)"),
        (normal, None, TypeError, "Support"),
    ],
)
def test_bad_targets_are_refused(log_density: Any, supports: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        Target(log_density, supports)
    assert_sentence(caught.value)


def test_unhashable_functions_are_refused() -> None:
    class Density:
        __hash__ = None

        def __call__(self, params: Any) -> Any:
            return 0.0

    with pytest.raises(TypeError, match="hashable"):
        Target(Density(), Real())


VECTORS = {"mu": Real((4,)), "scale": Positive()}


@pytest.mark.parametrize(
    ("log_density", "error", "words"),
    [
        (lambda p, x: x - p["mu"], ValueError, r"jnp.sum"),
        (lambda p, x: (jnp.sum(x), 1.0), TypeError, "tuple"),
        (lambda p, x: {"log_prob": jnp.sum(x)}, TypeError, "dict"),
        (lambda p, x: None, TypeError, "return"),
        (lambda p, x: jnp.argmax(x), TypeError, "int32"),
        (lambda p, x: jnp.all(x > 0), TypeError, "bool"),
        (lambda p, x: jnp.sum(x) * 1j, TypeError, "complex64"),
        (lambda p, x: jnp.sum(x.astype("float16")), TypeError, "dtype of z"),
        (lambda p: p["mu"], TypeError, r"with data.*\(p\)"),
        (lambda p, x, y: p["mu"], TypeError, r"\(p, x, y\)"),
        (lambda p, x: jnp.sum(x @ jnp.ones((7, 7))), ValueError, r"wrong axis"),
        (lambda p, x: 1.0 if p["mu"] > 0 else 0.0, ValueError, r"jnp.where"),
        (lambda p, x: np.sum(np.asarray(p["mu"])), ValueError, r"jax.numpy"),
        (lambda p, x: jnp.sum(x[x > p["mu"]]), ValueError, r"jnp.where"),
        (lambda p, x: p["tau"], ValueError, r"KeyError.*\['mu'\] float32\[\]"),
    ],
)
def test_bad_log_densities_are_refused(log_density: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        Target(log_density, SUPPORTS).check(DATA)
    assert_sentence(caught.value)


def test_data_on_the_wrong_axis_are_named_with_their_shapes() -> None:
    def regression(params: dict[str, Any], data: dict[str, Any]) -> jax.Array:
        return -jnp.sum((data["y"] - data["x"] @ params["mu"]) ** 2) - params["scale"]

    target = Target(regression, VECTORS)
    data = {"x": np.zeros((10, 4), np.float32), "y": np.zeros(10, np.float32)}
    assert target.check(data) == np.dtype("float32")
    data["x"] = data["x"].T
    with pytest.raises(ValueError, match="wrong axis") as caught:
        target.check(data)
    for shape in ("['mu'] float32[4]", "['x'] float32[4, 10]", "['y'] float32[10]"):
        assert shape in str(caught.value)
    assert caught.value.__cause__ is not None


def test_missing_data_are_noticed() -> None:
    with pytest.raises(TypeError, match=r"without data.*passing data="):
        TARGET.check()
    Target(lambda p, x=None: p["mu"], SUPPORTS).check()
    Target(functools.partial(normal, data=DATA), SUPPORTS).check()


def test_one_dtype_throughout_under_x64() -> None:
    constants = np.array([1.0, 2.0, 3.0])  # float64

    def mixed(params: dict[str, Any], data: Any) -> jax.Array:
        return jnp.sum(constants * data) + params["mu"]

    with jax.enable_x64(True):
        with pytest.raises(TypeError, match="closes over"):
            Target(mixed, SUPPORTS).check(DATA)
        assert Target(mixed, SUPPORTS).check(DATA.astype("float64")) == np.dtype("float64")
        assert TARGET.check(DATA) == np.dtype("float32")
        assert Target(lambda p: 0.0, SUPPORTS).check(dtype="float32") == np.dtype("float32")
        assert Target(prior_only, SUPPORTS).check(dtype="float64") == np.dtype("float64")
    assert Target(mixed, SUPPORTS).check(DATA) == np.dtype("float32")
    with pytest.raises(TypeError, match="enable_x64"):
        TARGET.check(DATA, dtype="float64")
    with pytest.raises(TypeError, match="float32 or float64"):
        TARGET.check(DATA, dtype="int32")


@pytest.mark.parametrize(
    ("bad_start", "error", "words"),
    [
        (lambda key, data: {"mu": 0.0}, ValueError, "without"),
        (lambda key, data: {"mu": jnp.zeros(2), "scale": 1.0}, ValueError, r"\(2,\)"),
        (lambda key, data: {"mu": 0, "scale": 1.0}, TypeError, "integers"),
        (lambda: {"mu": 0.0, "scale": 1.0}, TypeError, r"start\(key, data\)"),
        (3, TypeError, "start as a function"),
    ],
)
def test_bad_starts_are_refused(bad_start: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        Target(normal, SUPPORTS, start=bad_start).check(DATA)
    assert_sentence(caught.value)


def test_the_check_computes_nothing_and_takes_abstract_data() -> None:
    def careful(params: dict[str, Any], data: Any) -> jax.Array:
        assert isinstance(params["mu"], jax.core.Tracer)
        return normal(params, data)

    assert Target(careful, SUPPORTS).check(jax.ShapeDtypeStruct((3,), jnp.float32)) == "float32"


def test_numpyro_constraints_serve_as_leaves() -> None:
    constraints = pytest.importorskip("numpyro.distributions.constraints")
    target = Target(prior_only, {"mu": constraints.real, "scale": constraints.positive})
    assert target == Target(prior_only, {"mu": constraints.real, "scale": constraints.positive})
    z = jnp.array([0.7, -0.3])
    np.testing.assert_allclose(
        target.log_prob(z), Target(prior_only, SUPPORTS).log_prob(z), rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"supports\['w'\].*supports.NumPyro\(constraint, shape"):
        Target(prior_only, {"w": constraints.simplex})


def test_a_check_traces_once_for_data_of_one_shape():
    """New values trace nothing, new shapes and another default precision do; errors come again."""
    seen = []

    def density(x, data):
        seen.append(data.shape)
        return -0.5 * jnp.sum((x - data.mean()) ** 2)

    target = Target(density, Real(2))
    for data in (np.zeros(3, np.float32), np.ones(3, np.float32), np.zeros(4, np.float32)):
        assert target.check(data) == np.float32
    assert seen == [(3,), (4,)]
    with jax.enable_x64(True):
        target.check(np.zeros(4, np.float32))
    assert len(seen) == 3
    wrong = Target(lambda x: x, Real(2))
    for _ in range(2):
        with pytest.raises(ValueError, match="scalar"):
            wrong.check()
