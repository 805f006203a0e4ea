"""Random arrays and keys, of which little has to be compiled."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

_WORD = 2**32
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_STREAMS = 2**31


def normals(
    key: Key[Array, ""], shape: tuple[int, ...], dtype: jnp.dtype | type
) -> Float[Array, "..."]:
    """The numbers of `jax.random.normal`, drawn flat and then given their shape.

    Drawn in three axes of float64, compiling takes XLA on the CPU six times as long (0.85 s
    against 0.13 s), running twice.
    """
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def fold_in(key: Key[Array, ""], number: int) -> Key[Array, ""]:
    """`jax.random.fold_in` of a whole number below 2^32: the same key, by the host where it can.

    The first of JAX's own by itself takes 0.11 s, of a fit of 2.5 s, to compile. Its generator is
    Threefry with 20 rounds (Salmon, Moraes, Dror and Shaw 2011). Keys of other generators, those
    in a program that is traced, and those that may live on one of several devices are JAX's affair.
    """
    words = jax.random.key_data(key)  # traced, too, where a program is that this is part of
    elsewhere = isinstance(words, jax.core.Tracer) or jax.device_count() > 1
    if elsewhere or jax.random.key_impl(key) != "threefry2x32":
        return jax.random.fold_in(key, number)
    folded = np.array(_threefry(np.asarray(words).tolist(), [0, number]), np.uint32)
    return jax.random.wrap_key_data(jax.device_put(folded), impl="threefry2x32")


def generator_of(key: Key[Array, ""]) -> np.random.Generator:
    """NumPy's generator for a key: on the host, so that nothing is compiled."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _threefry(key: list[int], words: list[int]) -> list[int]:
    """The two words, encrypted."""
    schedule = [*key, key[0] ^ key[1] ^ _PARITY]
    left, right = ((word + part) % _WORD for word, part in zip(words, key, strict=True))
    for round_ in range(5):
        for turn in _ROTATIONS[round_ % 2]:
            left = (left + right) % _WORD
            right = ((right << turn | right >> (32 - turn)) % _WORD) ^ left
        left = (left + schedule[(round_ + 1) % 3]) % _WORD
        right = (right + schedule[(round_ + 2) % 3] + round_ + 1) % _WORD
    return [left, right]


class Keys(NamedTuple):
    """The independent streams that one key of the user's stands for."""

    start: Key[Array, ""]
    noise: Key[Array, ""]
    ranking: Key[Array, ""]


def split_key(key: Key[Array, ""]) -> Keys:
    """Streams for the starts, the noise and the ranking, far from numbers that callers fold in."""
    return Keys(*(fold_in(key, _STREAMS + i) for i in range(3)))
