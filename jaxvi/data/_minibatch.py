"""Minibatches: which rows of the data each step sees, by shuffles on the device."""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Key, UInt32

from jaxvi._arguments import check_field, integer

_FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class Minibatch:
    """Steps on some rows of the data at a time, for `jaxvi.fit(..., minibatch=Minibatch(256))`.

    The log likelihood of a step's rows is multiplied by the number of all rows over `size`, so
    that bound and gradient are unbiased; neither the log likelihood nor the user scales anything.
    Rows are shuffled anew in each epoch, and each is seen once an epoch; a batch that goes over
    the end of an epoch takes its last rows from the next. Which rows a step sees depends on key
    and step alone, and all lanes see the same.

    The target must have its log likelihood apart, `Target(log_prior=..., log_likelihood=...)`,
    and the solver must be `Stochastic`: others need the exact density. In memory, rows are picked
    on the device, in any order; those of a `jaxvi.Stream` are shuffled within its window.

    Args:
        size: rows a step, at most as many as there are.

    Example:
        >>> def log_prior(mu):
        ...     return -0.5 * jnp.sum(mu**2)
        >>> def log_likelihood(mu, rows):
        ...     return -0.5 * jnp.sum((rows - mu) ** 2, axis=1)
        >>> target = jaxvi.Target(
        ...     log_prior=log_prior, log_likelihood=log_likelihood, supports=jaxvi.Real(4)
        ... )
        >>> fit = jaxvi.fit(key, target, data=X, minibatch=jaxvi.Minibatch(4))
    """

    size: int

    def __post_init__(self) -> None:
        check_field(self, "size", integer)


def shuffle_seeds(key: Key[Array, ""]) -> UInt32[Array, "rounds"]:
    """Seeds of a key's shuffles, so that the loop compiles no random generator."""
    return jax.random.bits(key, (_FEISTEL_ROUNDS,), jnp.uint32)


@partial(jax.jit, static_argnums=(2, 3))
def shuffled_rows(
    seeds: UInt32[Array, "rounds"], steps: Int[Array, "steps"], num_rows: int, size: int
) -> Int[Array, "steps size"]:
    """Indices of the rows that `steps` see; every row is seen once in each epoch.

    Step t takes places t * size, t * size + 1, ...; a place's epoch, and its number within the
    epoch, give the row. Cost: a few integer operations a row, and no array as long as the data.
    """
    epoch, place = _divide(steps.astype(jnp.uint32), size, num_rows)
    places = place[:, None] + jnp.arange(size, dtype=jnp.uint32)[None]
    beyond = places >= num_rows  # no further than the next epoch, as size <= num_rows
    epochs = epoch[:, None] + beyond.astype(jnp.uint32)
    within = jnp.where(beyond, places - jnp.uint32(num_rows), places)
    own = _mixed(epochs[None] * jnp.uint32(0x9E3779B9) + seeds[:, None, None])
    return _permuted(within, own, num_rows).astype(jnp.int32)


def _permuted(
    places: UInt32[Array, "steps size"], seeds: UInt32[Array, "rounds steps size"], num_rows: int
) -> UInt32[Array, "steps size"]:
    """The row at each place, by a permutation of 0 to num_rows - 1 for each set of seeds.

    A Feistel network on pairs of digits, in two bases whose product is little more than
    `num_rows`; numbers beyond `num_rows` are permuted again (Black and Rogaway 2002).
    """
    base = math.isqrt(num_rows - 1) + 1 if num_rows > 1 else 1
    other = -(-num_rows // base)  # base * other < num_rows + base

    def add(digit: Array, by: Array, seed: Array, modulus: int) -> Array:
        moved = digit + _mixed(by ^ seed) % jnp.uint32(modulus)
        return jnp.where(moved >= modulus, moved - jnp.uint32(modulus), moved)

    def once(x: Array) -> Array:
        high, low = x // jnp.uint32(other), x % jnp.uint32(other)
        for turn, seed in enumerate(seeds):
            if turn % 2:
                low = add(low, high, seed, other)
            else:
                high = add(high, low, seed, base)
        return high * jnp.uint32(other) + low

    def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, begun = carry
        return jnp.where(begun & (x < num_rows), x, once(x)), jnp.ones((), bool)

    def unfinished(carry: tuple[Array, Array]) -> Array:
        return ~carry[1] | jnp.any(carry[0] >= num_rows)

    return lax.while_loop(unfinished, again, (places, jnp.zeros((), bool)))[0]


def shifted(rows: Int[Array, "size"], turn: Int[Array, ""], num_rows: int) -> Int[Array, "size"]:
    """Rows shifted cyclically, by another distance each turn: as random, without a shuffle.

    Distances are multiples of the golden ratio of the number of rows.
    """
    share = (turn.astype(jnp.uint32) + jnp.uint32(1)) * jnp.uint32(0x9E3779B9)
    way = jnp.floor(share.astype(jnp.float32) * 2.0**-32 * num_rows).astype(jnp.uint32)
    moved = rows.astype(jnp.uint32) + jnp.minimum(way, jnp.uint32(num_rows - 1))
    return jnp.where(moved >= num_rows, moved - jnp.uint32(num_rows), moved).astype(jnp.int32)


def _mixed(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A bijection of 32-bit integers that mixes all bits (MurmurHash3's last step)."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> jnp.uint32(16))


def _divide(
    steps: UInt32[Array, "steps"], size: int, num_rows: int
) -> tuple[UInt32[Array, "steps"], UInt32[Array, "steps"]]:
    """Quotient and remainder of steps * size by num_rows, bit by bit: the product has 62 bits."""

    def reduce(quotient: Array, rest: Array) -> tuple[Array, Array]:
        over = rest >= num_rows
        rest = jnp.where(over, rest - jnp.uint32(num_rows), rest)
        return quotient + over.astype(jnp.uint32), rest

    def bit(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        quotient, rest = carry
        quotient, rest = reduce(2 * quotient, 2 * rest)
        one = (steps >> (31 - i).astype(jnp.uint32)) & jnp.uint32(1)
        return reduce(quotient, rest + one * jnp.uint32(size))

    zeros = jnp.zeros_like(steps)
    return lax.fori_loop(0, 32, bit, (zeros, zeros))
