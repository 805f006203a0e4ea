"""Family of z = f(x), for x from another family and a bijector f."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Key

from jaxvi._arguments import check_field, instance
from jaxvi._types import Noise, Scalar
from jaxvi.families._affine import (
    Affine,
    AffineParams,
    Bijector,
    HasAffineForm,
    affine_forward,
    affine_inverse,
)
from jaxvi.families._base import Family, Moments, start_or_normal, transform_and_log_prob
from jaxvi.families._full_rank import cholesky_factor
from jaxvi.families._mean_field import MeanField
from jaxvi.families._optional_methods import MOMENTS, has_all, offer


class TransformedParams(NamedTuple):
    """Parameters of the inner family, and of the bijector."""

    inner: Any
    bijector: Any


@dataclass(frozen=True)
class Transformed(Family):
    r"""The family of z = f(x) for x from an inner family: log q(z) = log q_x(x) - log |det df/dx|.

    With `Affine()` this whitens: the inner family works in coordinates where the Gaussian given
    to `init_gaussian`, or the given loc and scale_tril, is N(0, I). With `Affine(learned=True)`
    a diagonal family gets a dense map. It has entropy, moments and covariance if the
    bijector is affine and the inner family has them, mirrored noise and uniforms if the inner
    family has them. The cost is that of both.

    Args:
        family: the inner family, of x.
        bijector: the map f, `Affine()` or your own `Bijector`.

    Example:
        >>> whitened = jaxvi.families.Transformed(jaxvi.MeanField())
        >>> phi = whitened.init_gaussian(key, jnp.zeros(2), jnp.array([[1.0, 0.0], [0.9, 0.1]]))
        >>> whitened.entropy(phi).round(3)
        Array(0.535, dtype=float32)
    """

    family: Family = MeanField()
    bijector: Bijector = Affine()

    def __post_init__(self) -> None:
        check_field(self, "family", instance, Family, "a family such as MeanField()")
        check_field(self, "bijector", instance, Bijector, "a bijector such as Affine()")
        inner = (self.family,)
        if has_all(inner, "mirror"):
            offer(self, "mirror")
        if has_all(inner, "num_uniforms", "noise_from_uniform"):
            offer(self, "num_uniforms", "noise_from_uniform")
        if isinstance(self.bijector, HasAffineForm):
            if has_all(inner, "entropy"):
                offer(self, "entropy")
            if has_all(inner, *MOMENTS):
                offer(self, *MOMENTS)
            if has_all(inner, "init_gaussian"):
                offer(self, "init_gaussian")

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> TransformedParams:
        """The bijector at `start`; the inner family at the preimage of `start`."""
        key_start, key_map, key_inner = jax.random.split(key, 3)
        start = start_or_normal(key_start, dim, start)
        params = self.bijector.init(key_map, dim, start=start)
        x, _ = self.bijector.inverse(params, start)
        return TransformedParams(self.family.init(key_inner, dim, start=x), params)

    def draw_noise(
        self, key: Key[Array, ""], num: int, dim: int, dtype: jnp.dtype | None = None
    ) -> Noise:
        """Base noise of the inner family."""
        return self.family.draw_noise(key, num, dim, dtype)

    def transform(
        self, phi: TransformedParams, noise: Float[Array, "noise"]
    ) -> Float[Array, "dim"]:
        """The draw z = f(x), with x the inner family's draw."""
        return self.bijector.forward(phi.bijector, self.family.transform(phi.inner, noise))[0]

    def transform_and_log_prob(
        self, phi: TransformedParams, noise: Float[Array, "noise"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """A draw and its log density, by the inner family's and the forward log-determinant."""
        x, log_q = transform_and_log_prob(self.family, phi.inner, noise)
        z, log_det = self.bijector.forward(phi.bijector, x)
        return z, log_q - log_det

    def log_prob(self, phi: TransformedParams, z: Float[Array, "dim"]) -> Scalar:
        """log q_x at f^-1(z), plus the log-determinant of the inverse."""
        x, log_det = self.bijector.inverse(phi.bijector, z)
        return self.family.log_prob(phi.inner, x) + log_det

    def _mirror(self, noise: Noise) -> Noise:
        """The inner family's mirror images."""
        return self.family.mirror(noise)  # type: ignore[attr-defined]

    def _num_uniforms(self, dim: int) -> int:
        """The inner family's number of uniforms."""
        return self.family.num_uniforms(dim)  # type: ignore[attr-defined]

    def _noise_from_uniform(self, u: Float[Array, "draws cube"]) -> Noise:
        """The inner family's noise from uniforms."""
        return self.family.noise_from_uniform(u)  # type: ignore[attr-defined]

    def _entropy(self, phi: TransformedParams) -> Scalar:
        """The inner family's entropy, plus log det L."""
        inner = self.family.entropy(phi.inner)  # type: ignore[attr-defined]
        return inner + self._affine(phi).log_diag.sum()

    def _moments(self, phi: TransformedParams) -> Moments:
        """m + L times the inner mean, and the diagonal of the covariance."""
        mean = self.family.moments(phi.inner).mean  # type: ignore[attr-defined]
        return Moments(affine_forward(self._affine(phi), mean), jnp.diagonal(self._covariance(phi)))

    def _covariance(self, phi: TransformedParams) -> Float[Array, "dim dim"]:
        """The covariance L C L^T, with C the inner family's."""
        affine = self._affine(phi)
        inner = self.family.covariance(phi.inner)  # type: ignore[attr-defined]
        if affine.lower.shape[0] == 0:
            scale = jnp.exp(affine.log_diag)
            return scale[:, None] * inner * scale[None]
        factor = cholesky_factor(affine.log_diag, affine.lower)
        return factor @ inner @ factor.T

    def _init_gaussian(
        self,
        key: Key[Array, ""],
        loc: Float[Array, "dim"],
        scale_tril: Float[Array, "dim dim"],
    ) -> TransformedParams:
        """The bijector at the Gaussian; the inner family at its pullback, often N(0, I).

        Exact if that pullback is a member of the inner family.
        """
        params = self.bijector.init_gaussian(loc, scale_tril)  # type: ignore[attr-defined]
        affine = self.bijector.affine(params)  # type: ignore[attr-defined]
        rest = jnp.tril(scale_tril)
        if affine.lower.shape[0] == 0:
            rest = rest * jnp.exp(-affine.log_diag)[:, None]
        else:
            factor = cholesky_factor(affine.log_diag, affine.lower)
            rest = solve_triangular(factor, rest, lower=True)
        inner = self.family.init_gaussian(  # type: ignore[attr-defined]
            key, affine_inverse(affine, loc), rest
        )
        return TransformedParams(inner, params)

    def _affine(self, phi: TransformedParams) -> AffineParams:
        return self.bijector.affine(phi.bijector)  # type: ignore[attr-defined]
