"""Independent base noise, drawn anew at every step."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxvi._arguments import check_field, flag
from jaxvi._types import Noise
from jaxvi.families import Family
from jaxvi.noise._base import NoiseSource


@dataclass(frozen=True)
class Fresh(NoiseSource):
    """New independent base noise at every step.

    Args:
        shared: whether all lanes use the same noise.

    Example:
        >>> family, dtype = jaxvi.MeanField(), target.dtype()
        >>> noise = jaxvi.Fresh().draw(key, 0, family, 8, target.dim, dtype)  # of step 0
        >>> noise.shape
        (8, 4)
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
        """Accepts any family and any positive number of draws."""
