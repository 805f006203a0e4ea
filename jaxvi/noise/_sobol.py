"""Scrambled Sobol points as base noise (randomised quasi-Monte Carlo)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt32

from jaxvi._arguments import check_field, flag
from jaxvi._types import Noise
from jaxvi.families import Family, HasUniform
from jaxvi.noise._base import NoiseSource


@dataclass(frozen=True)
class Sobol(NoiseSource):
    """Scrambled Sobol points, scrambled anew at every step (randomised quasi-Monte Carlo).

    Owen's nested uniform scrambling by hashing (Laine and Karras 2011, Burley 2020) of the
    unscrambled points: every point is uniform in the cube, so that the bound is unbiased, and
    together they fill it evenly. The variance of smooth integrands falls faster than 1 / num.

    Args:
        shared: whether all lanes use the same noise.

    Example:
        >>> noise = jaxvi.Sobol().draw(key, 0, jaxvi.MeanField(), 8, 4, target.dtype())
        >>> (noise > 0).sum(axis=0)  # half of the points on either side, in every coordinate
        Array([4, 4, 4, 4], dtype=int32)
    """

    shared: bool = True

    def __post_init__(self) -> None:
        check_field(self, "shared", flag)

    def draw(
        self,
        key: Key[Array, ""],
        step: int | Int[Array, ""],
        family: Family,
        num: int,
        dim: int,
        dtype: jnp.dtype,
    ) -> Noise:
        """`num` points of the cube, scrambled under the key folded with the step."""
        assert isinstance(family, HasUniform)  # `check` ensures it
        size = family.num_uniforms(dim)
        seeds = jax.random.bits(jax.random.fold_in(key, step), (1, size), jnp.uint32)
        bits = _owen_scramble(jnp.asarray(_sobol_points(num, size)), seeds)
        # 23 bits, then a half: the largest number of cells whose centres float32 holds exactly,
        # so that no point is ever 0 or 1
        centres = (jnp.right_shift(bits, jnp.uint32(9)).astype(dtype) + 0.5) * 2.0**-23
        return family.noise_from_uniform(centres.astype(dtype))

    def check(self, family: Family, num: int) -> None:
        """The family must accept uniforms, and the number of draws must be a power of two."""
        if not isinstance(family, HasUniform):
            raise TypeError(
                "Sobol: expected a family with a noise_from_uniform(u) method; got "
                f"{family!r}; try noise=Fresh()."
            )
        if num & (num - 1):
            lower = 1 << (num.bit_length() - 1)
            raise ValueError(
                f"Sobol: expected num_draws a power of two, which keeps the points balanced; got "
                f"{num}; try {lower} or {2 * lower}."
            )


def _sobol_points(num: int, size: int) -> np.ndarray:
    """The first `num` unscrambled Sobol points as 32-bit integers, on the host."""
    from scipy.stats import qmc  # imported on use: it takes half a second

    unit = qmc.Sobol(size, scramble=False, bits=32).random(num)
    return np.asarray(np.round(unit * 2.0**32), np.uint64).astype(np.uint32)


def _reverse_bits(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """The 32 bits of every entry in reverse order."""
    for mask, shift in (
        (0x55555555, 1),
        (0x33333333, 2),
        (0x0F0F0F0F, 4),
        (0x00FF00FF, 8),
        (0x0000FFFF, 16),
    ):
        low, amount = jnp.uint32(mask), jnp.uint32(shift)
        x = jnp.left_shift(x & low, amount) | (jnp.right_shift(x, amount) & low)
    return x


def _owen_scramble(
    points: UInt32[Array, "num size"], seeds: UInt32[Array, "1 size"]
) -> UInt32[Array, "num size"]:
    """Nested uniform scramble: each bit is flipped by a hash of the bits above it and the seed.

    On reversed bits, an even multiplier or a xor with an even multiple of itself lets a bit
    depend only on lower ones: that is the nesting. The constants are Vegdahl's (2021).
    """
    x = _reverse_bits(points)
    x = x ^ (x * jnp.uint32(0x3D20ADEA))
    x = x + seeds
    x = x * (jnp.right_shift(seeds, jnp.uint32(16)) | jnp.uint32(1))
    x = x ^ (x * jnp.uint32(0x05526C56))
    x = x ^ (x * jnp.uint32(0x53A22864))
    return _reverse_bits(x)
