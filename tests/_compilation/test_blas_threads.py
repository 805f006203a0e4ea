"""LAPACK's threads: one while a fit runs, afterwards what they were."""

import threading

import jax
import jax.numpy as jnp
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import jaxvi
from jaxvi._compilation.blas_threads import one_thread


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def _two(monkeypatch):
    """Two threads, and an environment that asks for none, on any machine."""
    for name in ("OPENBLAS", "MKL", "BLIS", "OMP"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    with threadpool_limits(2, user_api="blas"):
        yield


def test_one_inside_and_two_again():
    """Once more within, and where the inside raises."""
    assert blas_threads() == {2}
    with one_thread():
        with one_thread():
            pass
        assert blas_threads() == {1}
    with pytest.raises(KeyError, match="1"), one_thread():
        {}[blas_threads().pop()]
    assert blas_threads() == {2}


def test_what_the_environment_asks_for_is_left(monkeypatch):
    """The user knows better."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    with one_thread():
        assert blas_threads() == {2}


def test_a_second_thread_neither_waits_nor_ends_it():
    """The first one's limit lasts as long as the first one does."""
    seen = []

    def other():
        with one_thread():
            seen.append(blas_threads())
        seen.append(blas_threads())

    with one_thread():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(timeout=60.0)
    assert seen == [{1}, {1}]
    assert blas_threads() == {2}


def test_a_fit_runs_so():
    """Seen from the log density's own trace, with a solver and without."""
    for solver in (None, jaxvi.NaturalGradient()):
        seen = []

        def density(z, seen=seen):
            seen.append(blas_threads())
            return -0.5 * jnp.sum(z**2)

        target = jaxvi.Target(density, jaxvi.Real((2,)))
        seen.clear()  # making a target may look at the density
        jaxvi.fit(jax.random.key(0), target, solver=solver, progress=False)
        assert {1} in seen
    assert blas_threads() == {2}
