"""The compile clock: its own thread's compiling, waits included, and nothing left behind."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest
from jax._src import monitoring

import jaxvi
from jaxvi._compilation import compile_clock


def test_clocks_around_a_clock_count_its_waits():
    """What a fit waits for counts for whoever times the fit."""
    with compile_clock() as outer, compile_clock() as inner:
        with inner.waiting():
            time.sleep(0.2)
        assert inner.seconds == pytest.approx(outer.seconds)
        assert 0.2 <= inner.seconds < 2.0


def test_an_outer_clock_agrees_with_the_fit():
    """Most of a first fit is compiling, in threads that it waits for."""
    target = jaxvi.Target(lambda z: -jnp.sum((z - 2.5) ** 2), jaxvi.Real(3))
    with compile_clock() as clock:
        fit = jaxvi.fit(jax.random.key(0), target, jaxvi.MeanField(), max_steps=50, progress=False)
    assert fit.timing.compile_seconds > 0.0
    assert 0.5 < fit.timing.compile_seconds / clock.seconds <= 1.0


def test_another_thread_has_its_own():
    """Compiling elsewhere counts nothing here."""
    seen = []

    def other():
        with compile_clock() as clock:
            jax.jit(lambda x: x * 3.25)(jnp.ones(7))
            seen.append(clock.seconds)

    with compile_clock() as clock:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60.0)
    assert seen[0] > 0.0
    assert clock.seconds == 0.0


def test_nothing_is_left_behind():
    """No listener outlasts its clock, even where all of them were cleared meanwhile."""
    before = len(monitoring.get_event_duration_listeners())
    with compile_clock():
        assert len(monitoring.get_event_duration_listeners()) == before + 1
    assert len(monitoring.get_event_duration_listeners()) == before
