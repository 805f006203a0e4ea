"""Limits on batches of LAPACK calls, against a deadlock in XLA on CPUs.

Before jaxlib 0.11.1, one of XLA's threads spreads a batch of factorisations or triangular systems
over the others and waits for them. If as many calls wait as there are threads, none is left to do
the work (with two threads, two independent systems in a density are enough). Small batches are not
spread.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jaxlib.version
from jax.custom_batching import sequential_vmap

from jaxvi._compilation.jaxprs import equations

_XLA_SPREADS_BATCHES = jaxlib.version.__version_info__ < (0, 11, 1)
_MAX_BATCH_WORK = 30_000  # sum of cubed sizes up to which a batch is not spread (40,000 is)
_LAPACK_CALLS = {
    *("cholesky", "cholesky_update", "triangular_solve", "lu", "qr", "geqrf", "geqp3", "ormqr"),
    *("householder_product", "eig", "eigh", "svd", "schur", "hessenberg"),
    *("tridiagonal", "tridiagonal_solve"),
}


def matrices_at_once(size: int) -> int:
    """Largest safe number of matrices with `size` rows in one batch."""
    return _at_once(size**3)


def points_at_once(jaxpr: Any) -> int:
    """Largest safe number of points in one batch of the program."""
    return _at_once(_work(jaxpr))


def one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with a `vmap` that loops, where XLA would spread batches over threads."""
    return sequential_vmap(function) if _spreads() else function


def _at_once(work: int) -> int:
    return max(_MAX_BATCH_WORK // work, 1) if work > 0 and _spreads() else 2**31


def _spreads() -> bool:
    return _XLA_SPREADS_BATCHES and jax.default_backend() == "cpu"


def _work(jaxpr: Any) -> int:
    """Cubed size of the largest LAPACK call in a program."""
    calls = [equation for equation in equations(jaxpr) if equation.primitive.name in _LAPACK_CALLS]
    shapes = [variable.aval.shape for call in calls for variable in call.invars]
    return max([math.prod(s) * min(s[-2:]) for s in shapes if len(s) > 1], default=0)
