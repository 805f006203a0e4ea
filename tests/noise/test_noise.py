"""Noise sources: pure functions of key and step, unbiased, and each as even as it says."""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import (
    FAMILIES,
    GAUSSIAN_3,
    SOURCES,
    Bare,
    assert_within,
    has_moments,
    is_first_of_its_kind,
    mean_and_error,
    somewhere,
)
from programs import rest_long
from scipy import stats

from jaxvi.families import (
    Family,
    FullRank,
    HasCovariance,
    HasMirror,
    HasMoments,
    HasUniform,
    MeanField,
    transform_and_log_prob,
)
from jaxvi.noise._antithetic import Antithetic
from jaxvi.noise._base import NoiseSource
from jaxvi.noise._fresh import Fresh
from jaxvi.noise._frozen import Frozen
from jaxvi.noise._moment_matched import MomentMatched
from jaxvi.noise._sobol import Sobol

pytestmark = pytest.mark.usefixtures("compiled_quickly")
KEY = jax.random.key(17)
F32 = jnp.dtype("float32")
every_family = pytest.mark.parametrize("family", FAMILIES, ids=repr)
ALL = [*SOURCES, Frozen(Antithetic()), Frozen(Sobol())]


@dataclass(frozen=True)
class Cube(Bare):
    """A family whose noise is the unit cube itself: it shows what a source hands out."""

    def num_uniforms(self, dim: int) -> int:
        return dim

    def noise_from_uniform(self, u: Any) -> Any:
        return u


def fits(source: NoiseSource, family: Family, num: int) -> bool:
    try:
        source.check(family, num)
    except TypeError:
        return False
    return True


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4, 5))
def many(source: Any, keys: Any, family: Any, num: int, dim: int, dtype: Any) -> jax.Array:
    return jax.vmap(lambda k: source.draw(k, 0, family, num, dim, dtype))(keys)


def scrambles(num: int, dim: int, count: int) -> np.ndarray:
    """`count` independent scrambles of the first `num` Sobol points."""
    keys = jax.random.split(KEY, count)
    return np.asarray(many(Sobol(), keys, Cube(), num, dim, F32))


def test_the_sources_are_found() -> None:
    """The four sources of the first release are among the members."""
    assert {Fresh, Antithetic, Sobol, Frozen} <= {type(source) for source in SOURCES}


@pytest.mark.parametrize("source", ALL, ids=repr)
def test_noise_is_a_function_of_key_and_step(source: NoiseSource, dtype: np.dtype) -> None:
    """Equal keys and steps give equal noise, compiled or not; others differ, if not frozen."""
    draw = jax.jit(lambda key, step: source.draw(key, step, FullRank(), 8, 3, dtype))
    first = draw(KEY, 2)
    assert first.shape == (8, 3)
    assert first.dtype == dtype
    np.testing.assert_array_equal(first, draw(KEY, 2))
    np.testing.assert_allclose(first, source.draw(KEY, 2, FullRank(), 8, 3, dtype), rtol=1e-5)
    assert not np.any(first == draw(jax.random.fold_in(KEY, 1), 2))
    frozen = isinstance(source, Frozen)
    assert np.array_equal(first, draw(KEY, 3)) == frozen
    assert np.array_equal(first, draw(KEY, 0)) == frozen
    if frozen:
        base = jax.jit(lambda key: source.source.draw(key, 0, FullRank(), 8, 3, dtype))
        np.testing.assert_array_equal(first, base(KEY))


@pytest.mark.parametrize("source", ALL, ids=repr)
def test_a_batch_of_lanes_is_a_loop(source: NoiseSource) -> None:
    """Noise mapped over keys is the noise of each key alone."""
    keys = jax.random.split(KEY, 3)
    together = many(source, keys, MeanField(), 4, 2, F32)
    for i in range(3):
        np.testing.assert_array_equal(
            together[i], many(source, keys[i : i + 1], MeanField(), 4, 2, F32)[0]
        )


def test_sharing_is_stated_by_the_source() -> None:
    """Every source shares its noise among lanes unless told; a frozen one does as its source."""
    for cls in (Fresh, Antithetic, Sobol):
        assert cls().shared
        assert not cls(shared=False).shared
        assert Frozen(cls()).shared
        assert not Frozen(cls(shared=False)).shared
        assert cls(shared=False) != cls()
    assert Frozen() == Frozen(Fresh())
    assert len(set(ALL)) == len(ALL)


@every_family
def test_antithetic_halves_mirror(family: Family) -> None:
    """The second half of the rows is the mirror image of the first, which is fresh."""
    if not isinstance(family, HasMirror):
        pytest.skip("no mirror")
    noise = Antithetic().draw(KEY, 4, family, 10, 3, F32)
    np.testing.assert_array_equal(noise[5:], family.mirror(noise[:5]))
    np.testing.assert_array_equal(noise[:5], Fresh().draw(KEY, 4, family, 5, 3, F32))


def test_antithetic_gradient_in_the_location_is_exact(x64: None) -> None:
    """On a quadratic log density every antithetic draw gives the exact gradient in loc."""
    family, target, data = FullRank(), GAUSSIAN_3.target, GAUSSIAN_3.data_as("float64")
    phi = somewhere(family, 3)

    def bound(loc: jax.Array, noise: jax.Array) -> jax.Array:
        z, log_q = jax.vmap(
            functools.partial(transform_and_log_prob, family, phi._replace(loc=loc))
        )(noise)
        return (jax.vmap(target.log_prob, (0, None))(z, data) - log_q).mean()

    gradient = jax.jit(jax.vmap(jax.grad(bound), (None, 0)))
    keys = jax.random.split(KEY, 200)
    exact = data["precision"] @ (data["mean"] - phi.loc)
    mirrored = gradient(phi.loc, many(Antithetic(), keys, family, 2, 3, jnp.dtype("float64")))
    np.testing.assert_allclose(mirrored, np.tile(exact, (200, 1)), rtol=1e-9)
    fresh = gradient(phi.loc, many(Fresh(), keys, family, 2, 3, jnp.dtype("float64")))
    assert (np.std(fresh, axis=0) > 1e-2).all()


@pytest.mark.parametrize("family", rest_long(FAMILIES, is_first_of_its_kind), ids=repr)
def test_estimates_are_unbiased(family: Family, x64: None) -> None:
    """The mean over 2000 seeds of a mean over 8 draws is the expectation under q, by any source.

    The expectation of a quadratic comes from q's moments; where those do not exist, that of a
    bounded function from far more fresh draws.
    """
    phi, double = somewhere(family, 3), jnp.dtype("float64")
    quadratic = isinstance(family, HasCovariance) and has_moments(family, 4)

    def integrand(z: jax.Array) -> jax.Array:
        if quadratic:
            return (z[0] - 0.7) * (z[1] + 2.0) + z[2] ** 2 + z[1]
        return jnp.tanh(z[0] * z[1]) + jnp.log1p(z[2] ** 2)

    @jax.jit
    def estimates(noise: jax.Array) -> jax.Array:
        z = jax.vmap(jax.vmap(functools.partial(family.transform, phi)))(noise)
        return jax.vmap(jax.vmap(integrand))(z).mean(axis=1)

    exact, exact_error = 0.0, 0.0
    if quadratic:
        assert isinstance(family, HasMoments)
        m, cov = np.asarray(family.moments(phi).mean), np.asarray(family.covariance(phi))
        exact = (m[0] - 0.7) * (m[1] + 2.0) + cov[0, 1] + m[2] ** 2 + cov[2, 2] + m[1]
    else:
        noise = family.draw_noise(jax.random.key(99), 200_000, 3, double)
        exact, exact_error = mean_and_error(estimates(noise.reshape(2000, 100, -1)))
    keys = jax.random.split(KEY, 2000)
    for source in SOURCES:
        # matched moments are biased by O(1 / num) and say so: tests/solvers/test_frozen_noise.py
        if fits(source, family, 8) and not isinstance(source, MomentMatched):
            mean, error = mean_and_error(estimates(many(source, keys, family, 8, 3, double)))
            assert_within(mean, exact, math.hypot(error, exact_error))


@pytest.mark.parametrize("num", [1, 2, 16, 64])
def test_sobol_keeps_the_net_in_every_coordinate(num: int) -> None:
    """Each of `num` equal cells of every coordinate holds exactly one point, in every scramble."""
    cells = np.floor(scrambles(num, 7, 300) * num).astype(int)
    np.testing.assert_array_equal(
        np.sort(cells, axis=1), np.broadcast_to(np.arange(num)[:, None], cells.shape)
    )


def test_sobol_keeps_the_net_of_its_first_two_coordinates() -> None:
    """Every elementary box of area 1/64 in the first two coordinates holds exactly one point."""
    points = scrambles(64, 2, 200)
    for power in range(7):
        rows, columns = 2**power, 2 ** (6 - power)
        box = np.floor(points[..., 0] * rows) * columns + np.floor(points[..., 1] * columns)
        assert (np.sort(box, axis=1) == np.arange(64)).all()


def test_every_sobol_point_is_uniform() -> None:
    """Over scrambles, each point of the set is uniform in the cube, its coordinates independent.

    Margins by Kolmogorov-Smirnov; pairs of coordinates, and the fine bits below the net's
    cells, by chi-square over 8 x 8 and 16 boxes.
    """
    num, count = 8, 4000
    points = scrambles(num, 3, count)
    assert points.min() > 0.0
    assert points.max() < 1.0
    for i in range(num):
        for j in range(3):
            assert stats.kstest(points[:, i, j], "uniform").pvalue > 1e-5
            fine = np.bincount(np.floor(points[:, i, j] * 2**12).astype(int) % 16, minlength=16)
            assert stats.chisquare(fine).pvalue > 1e-5
        for first, second in itertools.combinations(range(3), 2):
            box = np.floor(points[:, i, first] * 8) * 8 + np.floor(points[:, i, second] * 8)
            assert stats.chisquare(np.bincount(box.astype(int), minlength=64)).pvalue > 1e-5


def smooth(u: np.ndarray) -> np.ndarray:
    """exp(v z) of normals z, whose mean is exp(|v|^2 / 2), averaged over the points."""
    return np.exp(stats.norm.ppf(u.astype(float)) @ np.array([0.5, -0.3, 0.2])).mean(axis=1)


def test_sobol_is_unbiased_with_far_less_variance() -> None:
    """At 64 points a smooth integral in 3 dimensions is unbiased, at a tenth of the variance."""
    found = smooth(scrambles(64, 3, 3000))
    mean, error = mean_and_error(found)
    assert_within(mean, math.exp(0.5 * (0.25 + 0.09 + 0.04)), error)
    fresh = smooth(np.random.default_rng(0).uniform(size=(3000, 64, 3)))
    assert found.var() < 0.1 * fresh.var()


def test_sobol_variance_falls_faster_than_one_over_num() -> None:
    """Sixteen times the points bring far more than sixteen times less variance."""
    few, more = (smooth(scrambles(num, 3, 500)).var() for num in (16, 256))
    assert more < few / 60


def test_sobol_never_leaves_the_open_cube(dtype: np.dtype) -> None:
    """Every point is strictly inside the cube, so that its normal quantile is finite."""
    keys = jax.random.split(KEY, 4000)
    u = np.asarray(many(Sobol(), keys, Cube(), 64, 8, dtype))
    assert u.dtype == dtype
    assert 0.0 < u.min() < 1e-5
    assert 1.0 - 1e-5 < u.max() < 1.0
    assert np.isfinite(many(Sobol(), keys[:50], MeanField(), 64, 8, dtype)).all()


@pytest.mark.parametrize(
    ("source", "family", "num", "error", "words"),
    [
        (Antithetic(), MeanField(), 7, ValueError, "even num_draws; got 7; try num_draws=8"),
        (Antithetic(), MeanField(), 1, ValueError, "even num_draws; got 1; try num_draws=2"),
        (Antithetic(), Bare(), 8, TypeError, r"mirror\(noise\) method; got Bare.*try noise=Fresh"),
        (Sobol(), MeanField(), 12, ValueError, "power of two.*got 12; try 8 or 16"),
        (Sobol(), MeanField(), 3, ValueError, "got 3; try 2 or 4"),
        (Sobol(), Bare(), 8, TypeError, r"noise_from_uniform.*got Bare.*try noise=Fresh"),
        (Frozen(Sobol()), MeanField(), 12, ValueError, "got 12; try 8 or 16"),
        (Frozen(Antithetic()), Bare(), 8, TypeError, r"mirror\(noise\)"),
    ],
)
def test_misfits_are_refused(
    source: NoiseSource, family: Family, num: int, error: type, words: str
) -> None:
    """What a source needs of the family and the number of draws is said before tracing."""
    with pytest.raises(
        error, match=f"{type(getattr(source, 'source', source)).__name__}: expected .*{words}"
    ):
        source.check(family, num)


@pytest.mark.parametrize("source", ALL, ids=repr)
def test_fits_are_let_through(source: NoiseSource) -> None:
    """A family with every protocol fits every source at any power of two from 2."""
    assert isinstance(MeanField(), HasMirror)
    assert isinstance(MeanField(), HasUniform)
    for num in (2, 64, 1024):
        source.check(MeanField(), num)
    Fresh().check(Bare(), 1)
