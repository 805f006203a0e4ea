"""How many matrices may share a call of LAPACK, where many keep a program from ending.

Before jaxlib 0.11.1 a batch of factorisations or triangular systems is spread over XLA's threads
by one of these threads, which waits. Where as many calls wait as there are threads, none is left
to do what they wait for (with two threads: two systems of a density that don't depend on each
other). Small batches are not spread.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jaxlib.version
from jax.custom_batching import sequential_vmap

from jaxvi._compilation.jaxprs import equations

_SPREADS = jaxlib.version.__version_info__ < (0, 11, 1)
_WORK = 30_000  # cubes of sizes: a batch of so much stays on its thread (40,000 doesn't)
_CALLS = {
    *("cholesky", "cholesky_update", "triangular_solve", "lu", "qr", "geqrf", "geqp3", "ormqr"),
    *("householder_product", "eig", "eigh", "svd", "schur", "hessenberg"),
    *("tridiagonal", "tridiagonal_solve"),
}


def matrices_at_once(size: int) -> int:
    """Matrices of `size` rows."""
    return _at_once(size**3)


def points_at_once(jaxpr: Any) -> int:
    """Points at which the program may be run in a batch."""
    return _at_once(_work(jaxpr))


def one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, of which a `vmap` is a loop where batches are spread."""
    return sequential_vmap(function) if _spreads() else function


def _at_once(work: int) -> int:
    return max(_WORK // work, 1) if work > 0 and _spreads() else 2**31


def _spreads() -> bool:
    return _SPREADS and jax.default_backend() == "cpu"


def _work(jaxpr: Any) -> int:
    """Of the largest call in a program."""
    calls = [equation for equation in equations(jaxpr) if equation.primitive.name in _CALLS]
    shapes = [variable.aval.shape for call in calls for variable in call.invars]
    return max([math.prod(s) * min(s[-2:]) for s in shapes if len(s) > 1], default=0)
