"""Where the base noise of a bound comes from.

A source gives the noise of step `t` as a pure function of the run's key and `t`, so that a run
resumes exactly and a lane sees what it would see alone. With `shared=True` (the default) all
lanes of a batch see the same noise: common random numbers, which cost nothing a lane and rank
the lanes fairly.
"""

import abc
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

from jaxvi._arguments import check_field, flag, instance
from jaxvi._types import Noise
from jaxvi.families import Family, HasMirror, HasUniform, NormalNoiseFamily


class NoiseSource(abc.ABC):
    """A rule for the base noise of step `t`; a frozen dataclass."""

    shared: bool

    @abc.abstractmethod
    def draw(
        self,
        key: Key[Array, ""],
        step: int | Int[Array, ""],
        family: Family,
        num: int,
        dim: int,
        dtype: jnp.dtype,
    ) -> Noise:
        """`num` rows of `family`'s base noise for step `step`."""

    @abc.abstractmethod
    def check(self, family: Family, num: int) -> None:
        """Raise before tracing where the family or the number of draws doesn't fit."""


@dataclass(frozen=True)
class Fresh(NoiseSource):
    """New independent noise at every step.

    Args:
        shared: the same noise for all lanes.
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
        """Independent rows under the key folded with the step."""
        return family.draw_noise(jax.random.fold_in(key, step), num, dim, dtype)

    def check(self, family: Family, num: int) -> None:
        """Any family and any positive number of draws will do."""


@dataclass(frozen=True)
class Antithetic(NoiseSource):
    """New noise at every step, in mirrored pairs.

    The second half of the rows mirrors the first: odd moments of the noise are exact, which
    makes the gradient in a location free of noise on a quadratic log density.

    Args:
        shared: the same noise for all lanes.
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
        """num / 2 independent rows, then their mirror images."""
        assert isinstance(family, HasMirror)  # `check` said so
        half = family.draw_noise(jax.random.fold_in(key, step), num // 2, dim, dtype)
        return jnp.concatenate([half, family.mirror(half)])

    def check(self, family: Family, num: int) -> None:
        """The family must offer `mirror`, and the draws must pair up."""
        if not isinstance(family, HasMirror):
            raise TypeError(
                f"Antithetic: expected a family with a mirror(noise) method; got {family!r}; try "
                "noise=Fresh()."
            )
        if num % 2:
            raise ValueError(
                f"Antithetic: expected an even num_draws; got {num}; try num_draws={num + 1}."
            )


@dataclass(frozen=True)
class Sobol(NoiseSource):
    """Scrambled Sobol points, scrambled anew at every step (randomised quasi-Monte Carlo).

    Owen's nested uniform scrambling by hashing (Laine and Karras 2011, Burley 2020) of the
    unscrambled points: every point is uniform in the cube, so that the bound is unbiased, and
    together they fill it evenly. The variance of smooth integrands falls faster than 1 / num.

    Args:
        shared: the same noise for all lanes.
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
        assert isinstance(family, HasUniform)  # `check` said so
        size = family.num_uniforms(dim)
        seeds = jax.random.bits(jax.random.fold_in(key, step), (1, size), jnp.uint32)
        bits = _owen_scramble(jnp.asarray(_sobol_points(num, size)), seeds)
        # 23 bits and a half: the largest number of cells whose centres float32 holds exactly,
        # so that no point is ever 0 or 1
        centres = (jnp.right_shift(bits, jnp.uint32(9)).astype(dtype) + 0.5) * 2.0**-23
        return family.noise_from_uniform(centres.astype(dtype))

    def check(self, family: Family, num: int) -> None:
        """The family must take uniforms, and the number of draws must be a power of two."""
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


@dataclass(frozen=True)
class MomentMatched(NoiseSource):
    r"""Normal noise in mirrored pairs whose second moments are matched too; for `Frozen`.

    Half of the rows, E of shape (num / 2, size), become $E (2 E^T E / \mathrm{num})^{-1/2}$, by
    a triangular root, and the other half mirrors them. First and second moments are then those
    of the normal distribution, so that a quadratic log density is integrated without error: for
    a Gaussian posterior the frozen optimum of a Gaussian family is the exact one. With fewer
    rows in the half than columns that is out of reach, and every column is given its second
    moment by itself.

    A single row is not quite normal any more: integrals that are not quadratic have a bias of
    O(1 / num), no larger than that of a frozen optimum. Fresh noise at every step would turn it
    into a bias of the fit.

    Args:
        source: `Fresh()` or `Sobol()`, by which the half is drawn. It decides what is shared.

    Example:
        >>> noise = jaxvi.Frozen(jaxvi.noise.MomentMatched())
    """

    source: NoiseSource = field(default_factory=Fresh)

    def __post_init__(self) -> None:
        if not isinstance(self.source, Fresh | Sobol):
            raise TypeError(
                f"MomentMatched: expected Fresh() or Sobol() to match; got {self.source!r}; try "
                "MomentMatched(Fresh())."
            )

    @property
    def shared(self) -> bool:  # type: ignore[override]
        """As the source says."""
        return self.source.shared

    def draw(
        self,
        key: Key[Array, ""],
        step: int | Int[Array, ""],
        family: Family,
        num: int,
        dim: int,
        dtype: jnp.dtype,
    ) -> Noise:
        """num / 2 rows of matched second moments, then their mirror images."""
        half = match_moments(self.source.draw(key, step, family, num // 2, dim, dtype))
        return jnp.concatenate([half, -half])

    def check(self, family: Family, num: int) -> None:
        """The family's noise must be standard normals, and the draws must pair up."""
        if not isinstance(family, NormalNoiseFamily):
            raise TypeError(
                "MomentMatched: expected a family whose noise is standard normals "
                f"(jaxvi.families.NormalNoiseFamily); got {family!r}; try noise=Frozen(Fresh())."
            )
        if num < 2 or num % 2:
            raise ValueError(
                f"MomentMatched: expected an even num_draws; got {num}; try "
                f"num_draws={num + num % 2}."
            )
        self.source.check(family, num // 2)


def match_moments(half: Float[Array, "rows size"]) -> Float[Array, "rows size"]:
    """Rows whose second moments are the identity, or only on the diagonal where rows are few."""
    rows, size = half.shape
    if rows < size:
        return half / jnp.sqrt(jnp.mean(half * half, axis=0, keepdims=True))
    # E = Q R with R R^T's root the Cholesky factor of E^T E, without squaring its condition
    orthogonal, triangle = jnp.linalg.qr(half)
    return orthogonal * (jnp.sign(jnp.diagonal(triangle))[None] * rows**0.5)


@dataclass(frozen=True)
class Frozen(NoiseSource):
    """The noise of step 0 at every step: a deterministic bound (sample average approximation).

    The maximum is that of the frozen bound, which misses the true one by O(1 / num_draws). A
    full-rank family needs more draws than coordinates, or the frozen bound has no maximum.

    Args:
        source: what the noise is drawn by, once. It decides what is shared.
    """

    source: NoiseSource = field(default_factory=Fresh)

    def __post_init__(self) -> None:
        check_field(self, "source", instance, NoiseSource, "a noise source such as jaxvi.Fresh()")

    @property
    def shared(self) -> bool:  # type: ignore[override]
        """As the source says."""
        return self.source.shared

    def draw(
        self,
        key: Key[Array, ""],
        step: int | Int[Array, ""],
        family: Family,
        num: int,
        dim: int,
        dtype: jnp.dtype,
    ) -> Noise:
        """The source's noise of step 0, whatever the step."""
        return self.source.draw(key, 0, family, num, dim, dtype)

    def check(self, family: Family, num: int) -> None:
        """As the source's."""
        self.source.check(family, num)


def _sobol_points(num: int, size: int) -> np.ndarray:
    """The first `num` unscrambled Sobol points as 32-bit integers, on the host."""
    from scipy.stats import qmc  # half a second to import: only where it is used

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
