"""LAPACK on one thread while a fit runs: its own threads cost more than they give there."""

import contextlib
import functools
import importlib
import os
import threading
from collections.abc import Iterator

from threadpoolctl import ThreadpoolController

_ASKED = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS")
_held = threading.Lock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Factorisations run on the thread that calls them, in this process, until this ends.

    XLA calls the LAPACK that SciPy brings. Its threads wait for each other by spinning, so that
    with one of two cores busy an eigendecomposition of dimension 303 took 1,400 ms in place of 14,
    and a Cholesky factor of 144 took 212 ms in place of 0.2: matrices of a fit are small, and its
    lanes are many. The number of threads belongs to the process: the first to come here sets it and
    sets it back, others within or beside it change nothing. A number that the environment asks for
    (`OPENBLAS_NUM_THREADS` and its like) is left alone. Serves as a decorator, too.
    """
    if any(os.environ.get(name) for name in _ASKED) or not _held.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        _held.release()


@functools.cache
def _controller() -> ThreadpoolController:
    """Of the libraries that are loaded, among them the one that JAX loads when it needs it."""
    importlib.import_module("scipy.linalg")
    return ThreadpoolController()
