"""Interface of noise sources: the base noise of step t, a pure function of the run's key and t."""

import abc

import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxvi._types import Noise
from jaxvi.families import Family


class NoiseSource(abc.ABC):
    """How the base noise of a step is generated from the run's key; a frozen dataclass.

    `draw` is a pure function of key and step: map it over steps to have the noise of many.

    Example:
        >>> def draw(step):
        ...     return jaxvi.Fresh().draw(key, step, jaxvi.MeanField(), 8, 4, target.dtype())
        >>> jax.vmap(draw)(jnp.arange(100)).shape
        (100, 8, 4)
    """

    shared: bool
    """Whether all lanes use the same noise."""

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
        """Raises before tracing if the family or the number of draws does not suit the source."""
