"""Antithetic normal noise whose sample covariance is the identity."""

from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxvi._types import Noise
from jaxvi.families import Family, NormalNoiseFamily
from jaxvi.noise._base import NoiseSource
from jaxvi.noise._fresh import Fresh
from jaxvi.noise._sobol import Sobol


@dataclass(frozen=True)
class MomentMatched(NoiseSource):
    r"""Normal noise in mirrored pairs whose sample covariance is the identity; for `Frozen`.

    Half of the rows, E of shape (num / 2, size), become $E (2 E^T E / \mathrm{num})^{-1/2}$, by
    a triangular root, and the other half mirrors them. First and second moments are then those
    of the normal distribution, so that a quadratic log density is integrated without error: for
    a Gaussian posterior the frozen optimum of a Gaussian family is the exact one. If the half has
    fewer rows than columns, the covariance cannot be matched, and each column is scaled to unit
    second moment.

    A single row is then not exactly normal: integrals that are not quadratic have a bias of
    O(1 / num), no larger than that of a frozen optimum. With new noise at every step it would be
    a bias of the fit.

    Args:
        source: `Fresh()` or `Sobol()`, from which the half is drawn; its `shared` applies.

    Example:
        >>> source = jaxvi.Frozen(jaxvi.noise.MomentMatched())
        >>> noise = source.draw(key, 0, jaxvi.MeanField(), 16, 4, target.dtype())
        >>> bool(jnp.allclose(noise.T @ noise / 16, jnp.eye(4), atol=1e-5))
        True
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
        """num / 2 rows of matched second moments, then their mirror images."""
        half = match_moments(self.source.draw(key, step, family, num // 2, dim, dtype))
        return jnp.concatenate([half, -half])

    def check(self, family: Family, num: int) -> None:
        """The family's noise must be standard normals, and the number of draws must be even."""
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
    """Rows scaled so that their second moments are the identity; its diagonal if rows are few."""
    rows, size = half.shape
    if rows < size:
        return half / jnp.sqrt(jnp.mean(half * half, axis=0, keepdims=True))
    # R of E = Q R is the Cholesky factor of E^T E, without squaring E's condition number
    orthogonal, triangle = jnp.linalg.qr(half)
    return orthogonal * (jnp.sign(jnp.diagonal(triangle))[None] * rows**0.5)
