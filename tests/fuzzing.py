"""Junk, extreme numbers and odd shapes at every door, drawn by hypothesis.

What comes out must be a right answer, or an error that says what was expected and what came.
`python tests/fuzzing.py GROUP [NUMBER]` draws NUMBER new examples of a group; without the number
those that the tests draw with --long, and with `few` in its place those that they draw without it.
Several groups are joined by commas. It is a program of its own, since annotations are not enforced
here: users have no type checker at run time either.
"""

import inspect
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import jaxvi
from jaxvi import families, models
from jaxvi import supports as s

KEY = jax.random.key(3)
ROWS = np.linspace(-1.0, 1.0, 40, dtype=np.float32).reshape(20, 2)


class Odd:
    """No truth value."""

    def __bool__(self) -> bool:
        raise RuntimeError("neither")


class Elementwise:
    """Compares as arrays do, and has no hash."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        return np.array([True, False])


def log_density(params: Any, data: Any = None) -> jax.Array:
    """A standard normal one."""
    return -0.5 * jnp.sum(params["mu"] ** 2)


def log_prior(params: Any) -> jax.Array:
    """The same as a prior."""
    return -0.5 * jnp.sum(params["mu"] ** 2)


def log_likelihood(params: Any, rows: Any) -> jax.Array:
    """Of each row."""
    return -0.5 * jnp.sum((rows - params["mu"]) ** 2, axis=1)


TARGET = jaxvi.Target(log_density, {"mu": s.Real(2)})
BY_ROWS = jaxvi.Target(
    log_prior=log_prior, log_likelihood=log_likelihood, supports={"mu": s.Real(2)}
)

THINGS: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, -(2**70), 1.5, -2.5, math.nan, math.inf, -math.inf, 1e308,
    "", "auto", "full", b"y", (), [], {}, {"mu": 1.0}, {"mu": jnp.zeros(2)}, {"nu": jnp.zeros(2)},
    {"mu": jnp.full(2, jnp.nan)}, np.zeros(3), np.array(1), np.array(1.5), np.zeros(0),
    jnp.zeros(2),
    jnp.zeros((2, 2)), np.float64(2.0), np.int64(3), np.array(["a"]), np.array([None]), object(),
    Odd(), Elementwise(), lambda: 0, lambda *a: 0, int, jaxvi.FullRank, jaxvi.FullRank(),
    jaxvi.ELBO(), jaxvi.Stochastic(), jaxvi.Fresh(), jaxvi.NaturalGradient(), jaxvi.Minibatch(10),
    jaxvi.Stream(ROWS), TARGET, BY_ROWS, KEY, jax.random.key(1, impl="rbg"), jax.random.PRNGKey(0),
    jax.random.split(KEY), 1 + 2j, np.float16(1), range(3), slice(1), ..., NotImplemented, sys,
    set(), frozenset([1]), np.datetime64("2020"), np.ma.array([1.0], mask=[True]),
    jnp.array(3, jnp.int8), jax.ShapeDtypeStruct((2,), jnp.float32), optax.adam, optax.adam(0.1),
]  # fmt: skip
NUMBERS = st.one_of(st.integers(), st.floats(), st.complex_numbers(), st.booleans())
ARRAYS = hnp.arrays(
    hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
)
JUNK = st.one_of(
    st.sampled_from(THINGS), NUMBERS, ARRAYS, st.text(max_size=5), st.lists(NUMBERS, max_size=3)
)


def says_why(error: Exception) -> bool:
    """Whether a message has what was expected and what came, or what to try."""
    words = str(error)
    return "xpected" in words and ("got" in words or "try" in words)


def tried(call: Callable[[], Any]) -> Any:
    """The answer, or None where an error says what was wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except (TypeError, ValueError, jaxvi.FitError) as error:
            if not says_why(error):
                raise
    return None


# ---- arguments

FIT = {
    "key": KEY, "target": TARGET, "family": None, "objective": None, "solver": jaxvi.Stochastic(),
    "noise": None, "data": None, "num_restarts": 2, "start": None, "start_scale": None,
    "max_steps": 30, "num_eval_draws": 64, "effort": "normal", "max_seconds": None,
    "polish": "auto", "pool": None, "race": False, "minibatch": None, "progress": False,
    "checkpoint": None, "checkpoint_seconds": 60.0, "mesh": None,
}  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(FIT)), JUNK, min_size=1, max_size=3))
def arguments(junk: dict[str, Any]) -> None:
    """`jaxvi.fit` with some arguments replaced."""
    assume(not isinstance(junk.get("checkpoint"), str | bytes))  # a folder may have any name
    found = tried(lambda: jaxvi.fit(**(FIT | junk)))
    assert found is None or np.isfinite(found.bound) or found.verdict != "ok"


def _specs() -> list[tuple[Any, dict[str, Any]]]:
    """All that is built of plain values, and arguments that serve."""
    plain = [
        getattr(jaxvi, name)
        for name in jaxvi.__all__
        if inspect.isclass(getattr(jaxvi, name))
        and issubclass(
            getattr(jaxvi, name),
            families.Family | jaxvi.solvers.Solver | jaxvi.objectives.Objective
            | jaxvi.noise.NoiseSource,
        )
    ]  # fmt: skip
    return [(spec, {}) for spec in [*plain, families.Affine, jaxvi.Real, jaxvi.Positive]] + [
        (jaxvi.Interval, {"lower": 0.0, "upper": 1.0}),
        (jaxvi.GreaterThan, {"lower": 0.0}),
        (jaxvi.LessThan, {"upper": 0.0}),
        (jaxvi.CholeskyCorrelation, {"n": 3}),
        (jaxvi.PositiveDefinite, {"n": 2}),
        (jaxvi.Ordered, {"shape": 3}),
        (jaxvi.PositiveOrdered, {"shape": 3}),
        (jaxvi.Simplex, {"shape": 3}),
        (jaxvi.Minibatch, {"size": 5}),
        (jaxvi.Target, {"log_density": log_density, "supports": {"mu": s.Real(2)}}),
        (models.gaussian_mixture, {"num_components": 2, "num_features": 2}),
    ]


@given(st.data())
def specs(data: st.DataObject) -> None:
    """Families, solvers, objectives, noise, supports, targets: built of junk, or refused."""
    make, good = data.draw(st.sampled_from(_specs()))
    known = [
        name
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.kind != parameter.VAR_KEYWORD
    ]
    junk = data.draw(st.dictionaries(st.sampled_from(known or ["shape"]), JUNK, max_size=2))
    assume(known or not junk)
    made = tried(lambda: make(**(good | junk)))
    if made is not None:
        assert hash(made) == hash(make(**(good | junk)))


_FITTED: list[Any] = []


def _calls() -> list[tuple[Any, dict[str, Any]]]:
    """What is done with a fit, and other functions."""
    if not _FITTED:
        _FITTED.append(
            jaxvi.fit(
                KEY, TARGET, jaxvi.FullRank(), solver=jaxvi.FrozenNoise(), num_restarts=2,
                progress=False,
            )
        )  # fmt: skip
    (fit,) = _FITTED
    return [
        (fit.sample, {"key": KEY, "num": 5}),
        (fit.sample_unconstrained, {"key": KEY, "num": 5}),
        (fit.q.sample, {"key": KEY, "num": 5}),
        (fit.lane, {"index": 1}),
        (jaxvi.linear_response, {"fit": fit}),
        (jaxvi.diagnostics.frozen_error, {"fit": fit}),
        (jaxvi.importance_resample, {"key": KEY, "fit": fit, "num": 5, "num_proposals": 50}),
        (jaxvi.find_modes, {"key": KEY, "target": TARGET, "num_starts": 2}),
        (jaxvi.make_mesh, {}),
        (jaxvi.resume, {"folder": "/nowhere", "target": TARGET}),
        (jaxvi.Stream, {"source": ROWS}),
    ]


@given(st.data())
def calls(data: st.DataObject) -> None:
    """Draws, diagnostics, modes, meshes, streams, resumed runs."""
    call, good = data.draw(st.sampled_from(_calls()))
    names = [name for name in inspect.signature(call).parameters if name != "function"]
    junk = data.draw(st.dictionaries(st.sampled_from(names), JUNK, min_size=1, max_size=2))
    tried(lambda: call(**(good | junk)))


# ---- supports, targets, data

SHAPES = hnp.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=3)
BOUNDS = st.floats(-1e6, 1e6)


@st.composite
def some_support(draw: st.DrawFn) -> s.Support:
    """Any of them."""
    shape = draw(SHAPES)
    vector = (*shape[:1], draw(st.integers(2, 4)))
    lower = draw(BOUNDS)
    upper = lower + draw(st.floats(1e-3, 1e6)) + abs(lower) * 1e-5
    makes: list[Callable[[], s.Support]] = [
        lambda: s.Real(shape),
        lambda: s.Positive(shape),
        lambda: s.Interval(lower, upper, shape),
        lambda: s.GreaterThan(lower, shape),
        lambda: s.LessThan(upper, shape),
        lambda: s.Simplex(vector),
        lambda: s.Ordered(vector),
        lambda: s.PositiveOrdered(vector),
        lambda: s.CholeskyCorrelation(draw(st.integers(2, 4)), shape[:1]),
        lambda: s.PositiveDefinite(draw(st.integers(1, 3)), shape[:1]),
    ]
    return draw(st.sampled_from(makes))()


DTYPES = st.sampled_from([np.float32, np.float64])
EXTREMES = st.one_of(
    st.floats(-5, 5), st.floats(-100, 100), st.sampled_from([0.0, 1e-30, -1e-30, 1e4, -1e4])
)


@given(some_support(), DTYPES, st.data())
def supports(support: s.Support, dtype: Any, data: st.DataObject) -> None:
    """Values are inside, far out at most on the edge; y comes back where it is moderate."""
    y = np.array(data.draw(st.lists(EXTREMES, min_size=support.size, max_size=support.size)), dtype)
    y = jnp.asarray(y.reshape(support.unconstrained_shape))
    x, log_det = support.constrain(y)
    assert x.shape == support.shape
    assert x.dtype == y.dtype == log_det.dtype == dtype
    assert log_det.shape == ()
    largest = float(jnp.max(jnp.abs(y)))
    if largest <= 20:
        assert bool(support.contains(x)), (support, y, x)
        assert np.isfinite(log_det)
    if largest <= 40:  # beyond, squares of exponentials overflow in float32
        assert not bool(jnp.isnan(x).any())
    assert not bool(jnp.isnan(log_det)), (support, y, x)
    bounded = isinstance(support, s.Interval | s.GreaterThan | s.LessThan)
    if largest <= 5 and not bounded:  # next to a far bound x has no digits left for y
        back = support.unconstrain(x)
        tolerance = 1e-2 if dtype == np.float32 else 1e-7
        assert np.allclose(back, y, atol=tolerance, rtol=tolerance), (support, y, back)


TREES = st.recursive(
    some_support(),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=2).map(tuple),
    ),
    max_leaves=4,
)


def _sum_of_squares(params: Any) -> jax.Array:
    return -0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


@given(TREES, st.data())
def targets(tree: Any, data: st.DataObject) -> None:
    """Any containers: there and back; and what doesn't fit them is refused."""
    target = jaxvi.Target(_sum_of_squares, tree)
    z = jax.random.normal(KEY, (target.dim,), np.float64)
    params = target.constrain(z)
    assert len(target.coordinate_names()) == len(set(target.coordinate_names())) == target.dim
    leaves = jax.tree.leaves(params)
    assert len(target.parameter_names()) == sum(leaf.size for leaf in leaves)
    assert np.isfinite(target.log_prob(z))
    assert target.check() == np.float64
    assert np.allclose(target.unconstrain(params), z, atol=1e-4)
    place = data.draw(st.integers(0, len(leaves) - 1))
    leaves[place] = data.draw(JUNK)
    wrong = jax.tree.unflatten(jax.tree.structure(params), leaves)
    found = tried(lambda: target.unconstrain(wrong))
    assert found is None or np.isfinite(found).all()
    tried(lambda: jaxvi.Target(_sum_of_squares, wrong))


DATA = st.recursive(
    JUNK,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("xyz"), inner, max_size=2), st.lists(inner, max_size=2)
    ),
    max_leaves=3,
)


@given(DATA, st.booleans())
def data(tree: Any, by_rows: bool) -> None:
    """Any data: a dtype that all floating arrays have, or why not; and as rows."""
    assume(not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree)))
    target = BY_ROWS if by_rows else TARGET
    dtype = tried(lambda: target.check(tree))
    if dtype is not None:
        assert dtype in (np.float32, np.float64)
        assert tree is None or tried(lambda: target.log_prob(jnp.zeros(2, dtype), tree)) is not None


# ---- densities and answers

RETURNS: list[Callable[[jax.Array], Any]] = [
    lambda x: x[None], lambda x: (x, x), lambda x: None, lambda x: {"a": x},
    lambda x: "no", lambda x: jnp.int32(1), lambda x: 0.0, lambda x: x + 1j, lambda x: x > 0,
    lambda x: x * jnp.nan, lambda x: x + jnp.inf, lambda x: x - jnp.inf, lambda x: float(x),
    lambda x: jnp.where(x < -1.0, jnp.nan, x), lambda x: jnp.where(x > -0.1, jnp.nan, x),
    lambda x: x[0], lambda x: x.reshape(3), lambda x: 1 / 0, lambda x: x.astype(jnp.float16),
    lambda x: -x, lambda x: jnp.abs(x), lambda x: -jnp.log1p(-x), lambda x: jnp.round(x),
    np.asarray, bool,
]  # fmt: skip
PROPER: dict[Callable[[jax.Array], Any], float] = {  # and their log evidence
    (lambda x: x): math.log(2 * math.pi),
    (lambda x: 1e30 * x): math.log(2 * math.pi) - 30 * math.log(10),
    (lambda x: 1e-30 * x): math.log(2 * math.pi) + 30 * math.log(10),
    (lambda x: x - 1e8): math.log(2 * math.pi) - 1e8,
    (lambda x: -jnp.sqrt(-x)): math.log(4 * math.pi),
}
SOLVERS = [
    None, jaxvi.NaturalGradient(), jaxvi.FrozenNoise(), jaxvi.BatchAndMatch(), jaxvi.Laplace(),
    jaxvi.Pathfinder(), jaxvi.Stochastic(),
]  # fmt: skip


@given(st.sampled_from([*RETURNS, *PROPER]), st.sampled_from(SOLVERS))
def densities(mangle: Callable[[jax.Array], Any], solver: Any) -> None:
    """What a log density may wrongly give: refused, or a fit that doesn't call itself good."""

    def density(params: Any) -> Any:
        return mangle(-0.5 * jnp.sum(params["mu"] ** 2))

    target = jaxvi.Target(density, {"mu": s.Real(2)})
    fit = tried(
        lambda: jaxvi.fit(KEY, target, solver=solver, num_restarts=2, max_steps=200, progress=False)
    )
    if fit is not None and fit.verdict == "ok":
        assert mangle in PROPER, repr(fit)
        assert abs(fit.bound - PROPER[mangle]) < 0.2, repr(fit)


def normal(params: Any, data: Any) -> jax.Array:
    """Correlated normals at any place and on any scale."""
    z = (params - data["loc"]) / data["scale"]
    return -0.5 * (z[0] ** 2 + (z[1] - data["slope"] * z[0]) ** 2)


NORMAL = jaxvi.Target(normal, s.Real(2))
POWERS = st.one_of(st.floats(-2, 2), st.floats(-12, 12))


@given(st.tuples(POWERS, POWERS), st.tuples(POWERS, POWERS), st.floats(-3, 3), DTYPES)
def gaussians(places: Any, scales: Any, slope: float, dtype: Any) -> None:
    """Never "ok" over a wrong answer, and right wherever the numbers are of common size."""
    loc, scale = np.sign(places) * 10.0 ** np.abs(places), 10.0 ** np.array(scales)
    numbers = {"loc": loc, "scale": scale, "slope": np.asarray(slope)}
    given_ = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), numbers)
    fit = tried(lambda: jaxvi.fit(KEY, NORMAL, data=given_, progress=False))
    common = max(np.abs(places).max(), np.abs(scales).max()) <= 2
    assert fit is not None or not common
    if fit is None:
        return
    draws = np.asarray(fit.sample(jax.random.key(9), 20_000), np.float64)
    sd = scale * np.sqrt([1.0, 1.0 + slope**2])
    with np.errstate(all="ignore"):
        off = np.abs(draws.mean(0) - given_["loc"]) / sd
        ratio = draws.std(0) / sd
        good = off.max() < 0.25 and 0.75 < ratio.min() <= ratio.max() < 1.25
    assert good or fit.verdict != "ok", (fit.verdict, off, ratio)
    if common and dtype == np.float64:
        assert fit.verdict == "ok", (repr(fit), off, ratio)


GROUPS: dict[str, tuple[Callable[[], None], int]] = {
    "arguments": (arguments, 300),
    "specs": (specs, 1_500),
    "calls": (calls, 400),
    "supports": (supports, 200),
    "targets": (targets, 60),
    "data": (data, 500),
    "densities": (densities, 25),
    "gaussians": (gaussians, 40),
}


def main(groups: str, number: str = "all") -> None:
    """Some groups, the same examples each time where no number is given."""
    for group in groups.split(","):
        test, usual = GROUPS[group]
        known = {"all": usual, "few": usual // 5}
        settings(
            max_examples=known[number] if number in known else int(number),
            derandomize=number in known,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(test)()


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(*sys.argv[1:3])
