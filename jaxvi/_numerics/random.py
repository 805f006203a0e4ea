"""Random numbers and keys with little to compile."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

_WORD_VALUES = 2**32
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_FIRST_STREAM_NUMBER = 2**31


def normals(
    key: Key[Array, ""], shape: tuple[int, ...], dtype: jnp.dtype | type
) -> Float[Array, "..."]:
    """Standard normal draws, equal to those of `jax.random.normal`, drawn flat and reshaped.

    Drawn along three axes in float64, they take XLA on a CPU six times as long to compile (0.85 s
    against 0.13 s) and twice as long to run.
    """
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def fold_in(key: Key[Array, ""], number: int) -> Key[Array, ""]:
    """`jax.random.fold_in` of a whole number below 2^32, computed on the host where possible.

    JAX's own takes 0.11 s to compile, of a first fit's 2.5 s. Its generator is Threefry with 20
    rounds (Salmon, Moraes, Dror and Shaw 2011). Keys of other generators, traced keys, and keys on
    one of several devices are left to JAX.
    """
    words = jax.random.key_data(key)  # a tracer inside a traced program
    left_to_jax = isinstance(words, jax.core.Tracer) or jax.device_count() > 1
    if left_to_jax or jax.random.key_impl(key) != "threefry2x32":
        return jax.random.fold_in(key, number)
    folded = np.array(_threefry(np.asarray(words).tolist(), [0, number]), np.uint32)
    return jax.random.wrap_key_data(jax.device_put(folded), impl="threefry2x32")


def generator_of(key: Key[Array, ""]) -> np.random.Generator:
    """A NumPy generator seeded by a key: it runs on the host, and nothing is compiled."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _threefry(key: list[int], words: list[int]) -> list[int]:
    """Threefry-2x32 with 20 rounds: the two words encrypted with the key."""
    schedule = [*key, key[0] ^ key[1] ^ _PARITY]
    left, right = ((word + part) % _WORD_VALUES for word, part in zip(words, key, strict=True))
    for round_ in range(5):
        for turn in _ROTATIONS[round_ % 2]:
            left = (left + right) % _WORD_VALUES
            right = ((right << turn | right >> (32 - turn)) % _WORD_VALUES) ^ left
        left = (left + schedule[(round_ + 1) % 3]) % _WORD_VALUES
        right = (right + schedule[(round_ + 2) % 3] + round_ + 1) % _WORD_VALUES
    return [left, right]


class Keys(NamedTuple):
    """Independent random streams split off the user's key."""

    start: Key[Array, ""]
    noise: Key[Array, ""]
    ranking: Key[Array, ""]


def split_key(key: Key[Array, ""]) -> Keys:
    """Streams for the starts, the noise and the ranking, by numbers that callers do not fold in."""
    return Keys(*(fold_in(key, _FIRST_STREAM_NUMBER + i) for i in range(3)))
