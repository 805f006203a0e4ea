"""Limiting LAPACK to one thread during a fit, whose matrices are small."""

import contextlib
import functools
import importlib
import os
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController

_THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "OMP_NUM_THREADS",
)
_limited = threading.Lock()  # taken while some context limits the threads


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit LAPACK to the calling thread, in this process, until the context ends.

    XLA calls the LAPACK that SciPy brings. Its threads wait for each other by spinning, so that
    with one of two cores busy an eigendecomposition of dimension 303 took 1,400 ms in place of 14,
    and a Cholesky factor of 144 took 212 ms in place of 0.2: matrices of a fit are small, and its
    lanes are many. The number of threads belongs to the process: the first context sets it and
    restores it, and contexts inside or beside it change nothing. A number set by the environment
    (`OPENBLAS_NUM_THREADS` and its like) is kept. Also usable as a decorator.
    """
    if any(os.environ.get(name) for name in _THREAD_VARIABLES) or not _limited.acquire(
        blocking=False
    ):
        yield
        return
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        _limited.release()


@functools.cache
def _controller() -> ThreadpoolController:
    """Thread controller of the loaded BLAS libraries, SciPy's included, which JAX loads late."""
    importlib.import_module("scipy.linalg")
    return ThreadpoolController()
