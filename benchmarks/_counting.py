"""Counts evaluations of a log density, by the density itself.

A value without its gradient, a gradient (with its value) and a Hessian-vector product (with the
gradient that it is the derivative of) at one point count 1 each, whatever they are mapped over,
in compiled programs too. What a program traces but the compiler drops isn't counted: the counters
lie in the path of the numbers.
"""

import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxvi

_lock = threading.Lock()
_totals: Counter[str] = Counter()


@dataclass
class Counts:
    """Evaluations so far: points without gradients, gradients, Hessian-vector products."""

    values: int = 0
    gradients: int = 0
    products: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.values + self.gradients + self.products


@contextmanager
def counting() -> Iterator[Counts]:
    """Counts what counted densities do meanwhile; read it after the block."""
    counts = Counts()
    jax.effects_barrier()
    before = Counter(_totals)
    yield counts
    jax.effects_barrier()
    for field in dataclasses.fields(Counts):
        setattr(counts, field.name, _totals[field.name] - before[field.name])


@dataclass(frozen=True)
class Counted:
    """A log density that counts; equal by value, so that equal targets share programs."""

    log_density: Any

    def __call__(self, *args: Any) -> Float[Array, ""]:
        """The log density of the same arguments."""
        return _tick(jnp.asarray(self.log_density(*args)))


def counted(target: jaxvi.Target) -> jaxvi.Target:
    """The same target with a density that counts."""
    return jaxvi.Target(Counted(target.log_density), target.supports, target.start)


def _host(kind: str, fill: int, x: Array) -> Array:
    """`fill` in the shape of x, from the host, which counts the entries of x."""

    def tell(x: Any) -> np.ndarray:
        # only the shape is read: to wait for the numbers here could wait for ever
        with _lock:
            _totals[kind] += int(np.prod(x.shape, dtype=np.int64))
        return np.full(x.shape, fill, np.int8)

    # One argument: under vmap it comes with the axes that it is mapped over, and no others.
    # A byte each way: the host's thread may not know of 64-bit types.
    found = jax.pure_callback(
        tell, jax.ShapeDtypeStruct(x.shape, np.int8), jnp.isnan(x), vmap_method="broadcast_all"
    )
    return found.astype(x.dtype)


@jax.custom_jvp
def _tick(value: Array) -> Array:
    """The value itself; it counts as a value, or as a gradient where it is differentiated."""
    return value + _host("values", 0, value)


@_tick.defjvp
def _tick_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return primals[0], tangents[0] * _one(primals[0])


@jax.custom_jvp
def _one(value: Array) -> Array:
    """1, counted as a gradient; differentiated, its tangent counts as a product instead."""
    return _host("gradients", 1, value)


@_one.defjvp
def _one_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return jnp.ones_like(primals[0]), _none(tangents[0])


@jax.custom_jvp
def _none(x: Array) -> Array:
    """0, counted as a product; what third derivatives take from there on counts no more."""
    return _host("products", 0, x)


@_none.defjvp
def _none_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _none(primals[0]), jnp.zeros_like(primals[0])
