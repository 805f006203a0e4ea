"""Antithetic noise: base noise in mirrored pairs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxvi._arguments import check_field, flag
from jaxvi._types import Noise
from jaxvi.families import Family, HasMirror
from jaxvi.noise._base import NoiseSource


@dataclass(frozen=True)
class Antithetic(NoiseSource):
    """Antithetic noise: new base noise at every step, in mirrored pairs.

    The second half of the rows mirrors the first. Odd sample moments of the noise are then exact,
    so that on a quadratic log density the gradient in a location has no Monte Carlo error.

    Args:
        shared: whether all lanes use the same noise.

    Example:
        >>> noise = jaxvi.Antithetic().draw(key, 0, jaxvi.MeanField(), 8, 4, target.dtype())
        >>> bool((noise[:4] == -noise[4:]).all())
        True
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
        assert isinstance(family, HasMirror)  # `check` ensures it
        half = family.draw_noise(jax.random.fold_in(key, step), num // 2, dim, dtype)
        return jnp.concatenate([half, family.mirror(half)])

    def check(self, family: Family, num: int) -> None:
        """The family must offer `mirror`, and the number of draws must be even."""
        if not isinstance(family, HasMirror):
            raise TypeError(
                f"Antithetic: expected a family with a mirror(noise) method; got {family!r}; try "
                "noise=Fresh()."
            )
        if num % 2:
            raise ValueError(
                f"Antithetic: expected an even num_draws; got {num}; try num_draws={num + 1}."
            )
