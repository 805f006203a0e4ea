"""Pareto smoothed weights: the known tail is found, and what can't be told is not told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvi.diagnostics import ParetoSmoothed, khat_threshold, pareto_smooth
from jaxvi.diagnostics._pareto import smooth_on_host

INF, NAN = np.inf, np.nan
SIZE = 1_000
TAIL = 94  # of 1,000 weights: 3 sqrt(1000), downwards

smooth_rows = jax.jit(jax.vmap(pareto_smooth))
smooth_one = jax.jit(pareto_smooth)


def tail_of(shape: float, size: int) -> np.ndarray:
    """Log weights at the midpoints' quantiles of a Pareto distribution, in a scrambled order."""
    u = (np.arange(size) * 7919 % size + 0.5) / size
    return -shape * np.log(u) + 0.3


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.8, 1.5])
def test_the_shape_of_a_known_tail_is_found(
    shape: float, dtype: np.dtype, rng: np.random.Generator
) -> None:
    """Weights u^-k have a tail of shape k exactly; the prior pulls it towards 1/2."""
    rows = 400
    weights = -shape * np.log(rng.uniform(size=(rows, SIZE)))
    khat = np.asarray(smooth_rows(jnp.asarray(weights, dtype)).khat, float)
    expected = (TAIL * shape + 10 * 0.5) / (TAIL + 10)
    # the fit itself is biased by some hundredths at this size (Zhang and Stephens 2009)
    assert abs(khat.mean() - expected) < 0.02 + 4.0 * khat.std() / rows**0.5
    # the asymptotic standard deviation of the maximum likelihood estimate
    assert 0.6 < khat.std() / ((1.0 + shape) / TAIL**0.5) < 1.3


# khat, effective size and largest normalised weight of tail_of(shape, size) by ArviZ 1.3
BY_ARVIZ = {
    (0.7, 100): (0.6062891118970055, 33.26911996214491, -2.106546930011002),
    (1.3, 1000): (1.1898590274738197, 5.879636596922859, -0.9443784247098407),
}


@pytest.mark.parametrize(("shape", "size"), BY_ARVIZ)
def test_stored_numbers_of_arviz(shape: float, size: int, dtype: np.dtype) -> None:
    """The same numbers, up to the rounding of some hundreds of logarithms."""
    log_weights = jnp.asarray(tail_of(shape, size), dtype)
    found = smooth_one(log_weights)
    khat, ess, largest = BY_ARVIZ[shape, size]
    close = {"rel": 1e-9 if dtype == jnp.float64 else 3e-4}
    assert float(found.khat) == pytest.approx(khat, **close)
    assert float(found.ess) == pytest.approx(ess, **close)
    total = np.logaddexp.reduce(np.asarray(found.log_weights, float))
    assert float(found.log_weights.max()) - total == pytest.approx(largest, **close)
    assert float(found.log_mean) == pytest.approx(total - np.log(size), **close, abs=1e-5)


@pytest.mark.parametrize("shape", [0.2, 0.7, 1.3])
@pytest.mark.parametrize("size", [100, 1_000])
def test_as_in_arviz(shape: float, size: int, x64: None) -> None:
    """ArviZ's `psislw`, which takes minus log weights and normalises, up to rounding."""
    base = pytest.importorskip("arviz_stats.base.array")
    log_weights = tail_of(shape, size)
    expected, khat = base.array_stats.psislw(-log_weights)
    found = smooth_one(jnp.asarray(log_weights))
    assert float(found.khat) == pytest.approx(float(khat), rel=1e-9)
    normalised = np.asarray(found.log_weights) - np.logaddexp.reduce(found.log_weights)
    np.testing.assert_allclose(normalised, expected, atol=1e-9)


def test_only_the_tail_changes_and_nothing_rises_above_the_largest(dtype: np.dtype) -> None:
    """Order is kept, the largest raw weight is never passed, what is below the tail stays."""
    log_weights = jnp.asarray(tail_of(0.7, SIZE), dtype)
    found = smooth_one(log_weights)
    assert isinstance(found, ParetoSmoothed)
    assert found.log_weights.dtype == found.khat.dtype == dtype
    assert found.tail_size == TAIL
    raw, new = np.asarray(log_weights), np.asarray(found.log_weights)
    order = np.argsort(raw)
    np.testing.assert_array_equal(new[order[:-TAIL]], raw[order[:-TAIL]])
    assert (np.diff(new[order]) >= 0).all()
    assert new.max() <= raw.max()
    assert (new[order[-TAIL:]] != raw[order[-TAIL:]]).any()
    weights = np.exp(new.astype(float))
    assert float(found.ess) == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-4)
    assert float(found.log_mean) == pytest.approx(np.log(weights.mean()), abs=1e-5)


def test_smoothing_lowers_the_error_of_the_mean(x64: None, rng: np.random.Generator) -> None:
    """Weights u^-k have the mean 1 / (1 - k); at k = 0.8 their variance is infinite."""
    raw = -0.8 * np.log(rng.uniform(size=(2_000, SIZE)))
    smoothed = np.asarray(smooth_rows(jnp.asarray(raw)).log_mean)
    plain = np.log(np.exp(raw).mean(-1))
    truth = np.log(1.0 / 0.2)
    assert np.square(smoothed - truth).mean() < 0.8 * np.square(plain - truth).mean()


def test_a_constant_changes_nothing_and_draws_have_no_order(
    x64: None, rng: np.random.Generator
) -> None:
    log_weights = rng.normal(size=SIZE)
    order = rng.permutation(SIZE)
    first = smooth_one(jnp.asarray(log_weights))
    shifted = smooth_one(jnp.asarray(log_weights + 700.0))  # exp(700) nearly overflows
    mixed = smooth_one(jnp.asarray(log_weights[order]))
    for other, places, shift in ((shifted, slice(None), 700.0), (mixed, order, 0.0)):
        assert float(other.khat) == pytest.approx(float(first.khat), abs=1e-9)
        assert float(other.ess) == pytest.approx(float(first.ess), rel=1e-9)
        assert float(other.log_mean) == pytest.approx(float(first.log_mean) + shift, abs=1e-9)
        np.testing.assert_allclose(
            other.log_weights, np.asarray(first.log_weights)[places] + shift, atol=1e-9
        )


def test_weights_of_zero_change_neither_tail_nor_ess(x64: None, rng: np.random.Generator) -> None:
    """They only lower the mean, by their share."""
    log_weights = 1.5 * rng.normal(size=SIZE)
    padded = np.concatenate([np.full(700, -INF), log_weights, np.full(300, -INF)])
    alone, among = smooth_one(jnp.asarray(log_weights)), smooth_one(jnp.asarray(padded))
    assert float(among.khat) == pytest.approx(float(alone.khat), abs=1e-9)
    assert float(among.ess) == pytest.approx(float(alone.ess), rel=1e-9)
    assert float(among.log_mean) == pytest.approx(float(alone.log_mean) - np.log(2.0), abs=1e-9)
    np.testing.assert_allclose(among.log_weights[700:1_700], alone.log_weights, atol=1e-9)
    assert (among.log_weights[:700] == -INF).all()


@pytest.mark.parametrize("constant", [0.0, 3.7, -2_000.0])
def test_equal_weights_have_no_tail(constant: float, dtype: np.dtype) -> None:
    """khat is 0, not NaN, the weights stay as they are, and each draw counts."""
    found = smooth_one(jnp.full(SIZE, constant, dtype))
    assert float(found.khat) == 0.0
    assert (found.log_weights == jnp.asarray(constant, dtype)).all()
    assert float(found.ess) == pytest.approx(SIZE, rel=1e-4)


def test_light_tails_have_a_low_khat(dtype: np.dtype, rng: np.random.Generator) -> None:
    """Bounded weights, weights of nearly one, and weights that differ by rounding only."""
    uniform = np.log(rng.uniform(size=SIZE))
    nearly = 1e-3 * rng.normal(size=SIZE)
    rounded = np.where(rng.uniform(size=SIZE) < 0.1, 1e-7, 0.0)
    for log_weights in (uniform, nearly, rounded):
        assert float(smooth_one(jnp.asarray(log_weights, dtype)).khat) < 0.3
    assert float(smooth_one(jnp.asarray(uniform, dtype)).khat) < -0.5  # exactly: -1, pulled to 1/2


def test_weights_over_hundreds_of_nats_are_as_heavy_as_they_are(
    dtype: np.dtype, rng: np.random.Generator
) -> None:
    """Though in float32 all but a few of their exponentials vanish."""
    log_weights = 300.0 * rng.normal(size=SIZE)
    found = smooth_one(jnp.asarray(log_weights, dtype))
    assert float(found.khat) > 1.5
    assert float(found.ess) < 3.0


BAD = {
    "a NaN": np.r_[NAN, np.zeros(999)],
    "NaN only": np.full(1_000, NAN),
    "an infinite weight": np.r_[np.zeros(999), INF],
    "no weight above zero": np.full(1_000, -INF),
    "few weights above zero": np.r_[np.full(980, -INF), np.linspace(0.0, 1.0, 20)],
    "few draws": np.linspace(0.0, 1.0, 20),
    "one draw": np.zeros(1),
    "one that outweighs equal others": np.r_[np.zeros(999), 50.0],
}


@pytest.mark.parametrize("name", BAD)
def test_where_nothing_honest_can_be_said_khat_is_infinite(name: str, dtype: np.dtype) -> None:
    """And the weights are left as they are."""
    log_weights = jnp.asarray(BAD[name], dtype)
    found = smooth_one(log_weights)
    assert float(found.khat) == INF
    assert found.tail_size == 0
    np.testing.assert_array_equal(found.log_weights, log_weights)
    broken = bool(jnp.isnan(log_weights).any() | (log_weights == INF).any())
    assert bool(jnp.isnan(found.ess)) == bool(jnp.isnan(found.log_mean)) == broken
    if name == "no weight above zero":
        assert float(found.ess) == 0.0
        assert float(found.log_mean) == -INF


def test_rows_do_not_disturb_each_other(x64: None) -> None:
    """A row under vmap is what it is alone, whatever the others hold."""
    rows = np.stack([tail_of(0.7, SIZE), BAD["a NaN"], np.zeros(SIZE), tail_of(1.5, SIZE)])
    together = smooth_rows(jnp.asarray(rows))
    for i, row in enumerate(rows):
        for left, right in zip(together, smooth_one(jnp.asarray(row)), strict=True):
            np.testing.assert_allclose(left[i], right, rtol=1e-9)


def test_without_smoothing_khat_is_the_same(x64: None) -> None:
    log_weights = jnp.asarray(tail_of(0.7, SIZE))
    plain = jax.jit(functools.partial(pareto_smooth, smooth=False))(log_weights)
    np.testing.assert_array_equal(plain.log_weights, log_weights)
    assert float(plain.khat) == pytest.approx(float(smooth_one(log_weights).khat), rel=1e-12)
    assert plain.tail_size == 0


def test_thresholds() -> None:
    """1 - 1 / log10(S), and never above 0.7, which it reaches at 10^(10/3) draws."""
    assert khat_threshold(100) == pytest.approx(0.5)
    assert khat_threshold(1_000) == pytest.approx(2.0 / 3.0)
    assert khat_threshold(2_154) < 0.7
    assert khat_threshold(2_155) == khat_threshold(10**6) == 0.7
    with pytest.raises(ValueError, match="at least 2; got 1"):
        khat_threshold(1)


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
def test_smoothing_on_the_host_is_the_same(spread, dtype):
    """Of NumPy's numbers and of JAX's."""
    log_weights = spread * jax.random.normal(jax.random.key(1), (2_000,), dtype) ** 3
    expected = pareto_smooth(log_weights)
    smoothed, khat = smooth_on_host(np.asarray(log_weights))
    np.testing.assert_allclose(khat, expected.khat, rtol=2e-3 if dtype == "float32" else 1e-9)
    np.testing.assert_allclose(smoothed, expected.log_weights, rtol=1e-4, atol=1e-4)
    assert smoothed.dtype == log_weights.dtype
