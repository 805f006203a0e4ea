"""One program ranks lanes and weighs the best; programs are compiled side by side."""

from concurrent.futures import wait
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvi
from jaxvi._compilation import ONCE, STEPS, compiling_ahead, light_jit
from jaxvi._numerics import fold_in, normals
from jaxvi._sampling import weighted_draws
from jaxvi._sampling.weighted_draws import draw_with_log_weights, draws_each, tiled
from jaxvi.diagnostics import importance_weights
from jaxvi.families import MeanField

TARGET = jaxvi.Target(
    lambda p: -0.5 * p["a"] ** 2 - p["b"] + 0.0, {"a": jaxvi.Real(), "b": jaxvi.supports.Positive()}
)


def phis(num):
    start = MeanField().init(jax.random.key(0), 2, start=jnp.zeros(2))
    shift = jnp.arange(num, dtype=float)[:, None]
    return tiled(start, num)._replace(loc=shift + jnp.zeros((num, 2)))


def drawn(common, num=64):
    return draw_with_log_weights(
        jax.random.key(3), phis(4), None, target=TARGET, family=MeanField(), num=num, common=common
    )


def test_common_draws_are_made_of_one_noise():
    """Lanes that differ in location only draw the same, shifted; otherwise they don't."""
    common, own = drawn(True), drawn(False)
    np.testing.assert_allclose(common.z[2] - common.z[0], 2.0, atol=1e-5)
    assert not np.allclose(own.z[2] - own.z[0], 2.0, atol=1e-2)


def test_weights_and_parameters_are_those_of_the_draws():
    """log p - log q and the constrained values, one by one."""
    found = drawn(False)
    z, phi = found.z[1, 5], jax.tree.map(lambda leaf: leaf[1], phis(4))
    expected = TARGET.log_prob(z) - MeanField().log_prob(phi, z)
    np.testing.assert_allclose(found.log_weights[1, 5], expected, rtol=1e-5)
    params = TARGET.constrain(z)
    np.testing.assert_allclose(found.params[1, 5], [params["a"], params["b"]], rtol=1e-6)


def test_as_many_draws_whatever_the_number_of_lanes():
    """Together 8,192, fewer where they would not fit, never less than 32 each."""
    assert draws_each(1, 10) == 8_192
    assert draws_each(16, 10) == 512
    assert draws_each(10_000, 10) == 32
    assert draws_each(1, 100_000) < 200


def test_ranking_and_weighing_share_a_program():
    """The winner of four lanes is weighed by what has ranked them."""
    fit = jaxvi.fit(
        jax.random.key(0),
        TARGET,
        solver=jaxvi.NaturalGradient(),
        num_restarts=4,
        num_eval_draws=2_048,
        progress=False,
    )
    before = weighted_draws._weigh_draws.num_programs()
    importance_weights(jax.random.key(1), TARGET, fit.q.family, fit.q.phi, num_batches=4)
    assert weighted_draws._weigh_draws.num_programs() == before


def test_flat_draws_are_the_same_numbers():
    """Drawn flat for the compiler's sake, the numbers are those of jax.random.normal."""
    key = jax.random.key(5)
    expected = jax.random.normal(key, (3, 4, 5))  # but for the last bit
    np.testing.assert_allclose(normals(key, (3, 4, 5), float), expected, rtol=1e-6)


def test_what_was_compiled_ahead_is_found_made():
    """Lowered in turn, in the caller's precision; the calls compile nothing."""
    seen = []
    note = partial(_note_compiled, seen)
    functions = [light_jit(level)(function) for level, function in ((STEPS, _wave), (ONCE, _tide))]
    x = jnp.linspace(0.0, 1.0, 7)
    lowerings = [partial(function.lower, x) for function in functions]
    with compiling_ahead("found made", x, lowerings) as coming:
        assert len(coming) == 2
        wait(coming)
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        values = [function(x) for function in functions]
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert not [name for name in seen if name in ("jit(_wave)", "jit(_tide)")]
    np.testing.assert_allclose(values[0], np.sin(3.0 * np.asarray(x)), rtol=1e-6)


def _wave(x):
    return jnp.sin(3.0 * x)


def _tide(x):
    return jnp.cos(3.0 * x)


def _note_compiled(seen, name, seconds, **about):
    if "backend_compile" in name:
        seen.append(about.get("fun_name"))


def test_a_program_is_compiled_ahead_once():
    """In the caller's precision; errors are left to the caller's own call."""
    seen = []

    def program():
        seen.append(jnp.zeros(()).dtype)
        raise RuntimeError("told where the program is called")

    with jax.enable_x64(True):
        for _ in range(2):
            with compiling_ahead("test", jnp.zeros(3), [program]) as coming:
                assert not coming
    assert seen == [np.float64]
    with compiling_ahead("test", jnp.zeros(4), [program]) as coming:
        assert coming == []
    assert len(seen) == 2


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_are_folded_as_by_jax(impl):
    """On the host, and where a program is traced."""
    key = jax.random.key(7, impl=impl)
    for number in (0, 1, 12_345, 2**31 + 2, 2**32 - 1):
        expected = jax.random.key_data(jax.random.fold_in(key, np.uint32(number)))
        folded = fold_in(key, number)
        np.testing.assert_array_equal(jax.random.key_data(folded), expected)
        assert folded.dtype == key.dtype
        inside = jax.jit(lambda key, number=number: fold_in(key, number))(key)
        np.testing.assert_array_equal(jax.random.key_data(inside), expected)
        closed = jax.jit(lambda number=number: fold_in(key, number))()
        np.testing.assert_array_equal(jax.random.key_data(closed), expected)
