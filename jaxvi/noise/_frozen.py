"""Frozen noise: base noise that is drawn once and used at every step."""

from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxvi._arguments import check_field, instance
from jaxvi._types import Noise
from jaxvi.families import Family
from jaxvi.noise._base import NoiseSource
from jaxvi.noise._fresh import Fresh


@dataclass(frozen=True)
class Frozen(NoiseSource):
    """The noise of step 0 at every step: a deterministic bound (sample average approximation).

    The maximum is that of the frozen bound: it differs from the true one by O(1 / num_draws). A
    full-rank family needs more draws than coordinates, or the frozen bound has no maximum.

    Args:
        source: the noise source that is drawn from once; its `shared` applies.

    Example:
        >>> frozen, q = jaxvi.Frozen(jaxvi.Antithetic()), jaxvi.MeanField()
        >>> early, late = (frozen.draw(key, t, q, 8, 4, target.dtype()) for t in (0, 1000))
        >>> bool((early == late).all())
        True
    """

    source: NoiseSource = field(default_factory=Fresh)

    def __post_init__(self) -> None:
        check_field(self, "source", instance, NoiseSource, "a noise source such as jaxvi.Fresh()")

    @property
    def shared(self) -> bool:  # type: ignore[override]
        """Whether all lanes use the same noise, as in `source`."""
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
        """Checks the family and the number of draws as `source` does."""
        self.source.check(family, num)
