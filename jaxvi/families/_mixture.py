"""Mixture family: several fitted q's as one distribution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import nn
from jax.scipy.special import logsumexp, ndtr, ndtri
from jaxtyping import Array, Float, Key

from jaxvi._arguments import check_field, instance, integer
from jaxvi._types import Noise, Phi, Scalar
from jaxvi.families._base import Family, Moments, NormalNoiseFamily
from jaxvi.families._mean_field import MeanField
from jaxvi.families._optional_methods import MOMENTS, has_all, offer


class MixtureParams(NamedTuple):
    """Unnormalised log weights, and the parameters of the components.

    For one family, `components` is its phi with an axis of components in front of every leaf; for
    several, a tuple of phis.
    """

    log_weights: Float[Array, "components"]
    components: Any


@dataclass(frozen=True)
class Mixture(Family):
    r"""$q(z) = \sum_k w_k q_k(z)$: several fitted q's as one, or a q and a defensive component.

    For combining fitted q's with `Mixture.of`, and for densities, draws and importance weights of
    the mixture. A draw is that of the component which the noise's first normal picks by the
    inverse CDF of the weights. Gradients in the components are unbiased, but those in the weights
    through a draw are zero: to learn weights, use `stratified`. Moments and covariance are
    offered if all components have them; there is no closed-form entropy. A draw costs a draw of
    every component, a density all their densities.

    Args:
        family: the components' family, or a tuple with one for each component.
        num: number of components; the length of the tuple if `family` is one.

    Raises:
        ValueError: no component, or a `num` that is not the tuple's length.

    Example:
        >>> fit = jaxvi.fit(key, target, jaxvi.MeanField(), num_restarts=2)
        >>> mixture, phi = jaxvi.families.Mixture.of(jaxvi.MeanField(), fit.phi, fit.bounds)
        >>> log_q = mixture.log_prob(phi, jnp.zeros(4))
    """

    family: Family | tuple[Family, ...] = MeanField()
    num: int = 2

    def __post_init__(self) -> None:
        check_field(self, "num", integer)
        given = len(self.family) if isinstance(self.family, tuple) else self.num
        if given != self.num:
            raise ValueError(
                f"Mixture: expected num as many as families; got num={self.num} and "
                f"{self.family!r}; try num={max(given, 1)}."
            )
        for part in self._parts:
            instance("Mixture.family", part, Family, "families such as jaxvi.MeanField()")
        if has_all(self._parts, "mirror"):
            offer(self, "mirror")
        if has_all(self._parts, "num_uniforms", "noise_from_uniform"):
            offer(self, "num_uniforms", "noise_from_uniform")
        if has_all(self._parts, *MOMENTS):
            offer(self, *MOMENTS)
        if has_all(self._parts, "init_gaussian"):
            offer(self, "init_gaussian")

    @classmethod
    def of(
        cls, family: Family | tuple[Family, ...], phis: Phi, log_weights: Any = None
    ) -> tuple["Mixture", MixtureParams]:
        """The mixture of fitted components, and its parameters.

        Args:
            family: the family of all components, or a tuple with one for each.
            phis: for one family, its phi with an axis of components in front of every leaf, as
                `Fit.phi` has one of lanes; for several, a tuple of phis.
            log_weights: one number for each component, as the bounds: weights are their softmax.
                Or, of shape (components, draws), log importance weights under each component: its
                weight is their mean, an estimate of the evidence that it covers. None gives
                equal weights.

        Returns:
            `(mixture, phi)`. Weights of components at the same mode add up, although they cover
            it only once: leave duplicates out. Leave failed lanes out too: one NaN spreads to the
            mixture.

        Raises:
            ValueError: log_weights not of these shapes.
        """
        leaves = jax.tree.leaves(phis)
        num = len(family) if isinstance(family, tuple) else leaves[0].shape[0]
        given = jnp.zeros(num) if log_weights is None else jnp.asarray(log_weights)
        if given.ndim not in (1, 2) or given.shape[0] != num:
            raise ValueError(
                f"Mixture.of: expected log_weights of shape ({num},) or ({num}, draws), one row a "
                f"component; got {given.shape}."
            )
        given = given.astype(leaves[0].dtype)
        if given.ndim == 2:
            given = logsumexp(given, axis=1) - jnp.log(jnp.asarray(given.shape[1], given.dtype))
        phis = jax.tree.map(jnp.asarray, phis)
        return cls(family, num), MixtureParams(nn.log_softmax(given), phis)

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> MixtureParams:
        """Equal weights, and every component at its own start."""
        components = self._map_keys(
            lambda part, key: part.init(key, dim, start=start), jax.random.split(key, self.num)
        )
        dtype = jax.tree.leaves(components)[0].dtype
        return MixtureParams(jnp.zeros(self.num, dtype), components)

    def draw_noise(
        self, key: Key[Array, ""], num: int, dim: int, dtype: jnp.dtype | None = None
    ) -> Noise:
        """A standard normal that picks the component, then the components' noise.

        Components of one family share their noise, since a draw uses only one of them.
        """
        key_pick, key_parts = jax.random.split(key)
        pick = jax.random.normal(key_pick, (num, 1), dtype or float)
        noises = [
            part.draw_noise(jax.random.fold_in(key_parts, i), num, dim, dtype)
            for i, part in enumerate(self._parts)
        ]
        return jnp.concatenate([pick, *noises], axis=1)

    def transform(self, phi: MixtureParams, noise: Float[Array, "noise"]) -> Float[Array, "dim"]:
        """The draw of the component that the first normal of the noise picks."""
        below = jnp.cumsum(nn.softmax(phi.log_weights))[:-1]
        picked = jnp.sum(ndtr(noise[0]) >= below)
        draws = self._draws(phi, noise)
        mask = jnp.arange(self.num) == picked
        return jnp.sum(jnp.where(mask[:, None], draws, jnp.zeros((), draws.dtype)), axis=0)

    def stratified(
        self, phi: MixtureParams, noise: Float[Array, "noise"]
    ) -> tuple[Float[Array, "components dim"], Float[Array, "components"]]:
        """`(draws, weights)`: a draw of every component, whose weighted sum has q's expectation.

        The sum of `weights * f(draws)` is unbiased for E_q[f], with unbiased gradients in the
        weights as well; its variance is never above that of one draw's f in the mean over picks.
        """
        return self._draws(phi, noise), nn.softmax(phi.log_weights)

    def log_prob(self, phi: MixtureParams, z: Float[Array, "dim"]) -> Scalar:
        """log of the weighted sum of the components' densities."""
        log_q = self._map_components(lambda part, params: part.log_prob(params, z), phi.components)
        return logsumexp(nn.log_softmax(phi.log_weights) + log_q)

    @property
    def _parts(self) -> tuple[Family, ...]:
        return self.family if isinstance(self.family, tuple) else (self.family,)

    def _map_keys(self, function: Callable[[Family, Any], Any], keys: Array) -> Any:
        """`function(family, key)` for every component, stacked or as a tuple like `components`."""
        if isinstance(self.family, tuple):
            return tuple(function(part, key) for part, key in zip(self.family, keys, strict=True))
        family = self.family
        return jax.vmap(lambda key: function(family, key))(keys)

    def _map_components(self, function: Callable[..., Any], components: Any, *rest: Any) -> Any:
        """`function(family, phi)` for every component, stacked."""
        if isinstance(self.family, tuple):
            found = [function(*pair) for pair in zip(self.family, components, *rest, strict=True)]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
        family = self.family
        shared = [row[0] for row in rest]
        return jax.vmap(lambda params: function(family, params, *shared))(components)

    def _draws(
        self, phi: MixtureParams, noise: Float[Array, "noise"]
    ) -> Float[Array, "components dim"]:
        rows = self._split(noise[1:], _noise_size)

        def draw(part: Family, params: Phi, row: Array) -> Array:
            return part.transform(params, row)

        return self._map_components(draw, phi.components, rows)

    def _split(self, columns: Array, size: Callable[[Family, int], int]) -> list[Array]:
        """Columns split by component. dim is found: that at which sizes add up to all columns."""
        if not isinstance(self.family, tuple):
            return [columns]
        total, dim, sizes = columns.shape[-1], 0, [-1]
        while sum(sizes) < total:
            dim += 1
            sizes = [size(part, dim) for part in self.family]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        return jnp.split(columns, ends, axis=-1)

    def _mirror(self, noise: Noise) -> Noise:
        """The picking normal with its sign changed, and the components' mirror images."""
        rows = self._split(noise[:, 1:], _noise_size)
        images = [
            part.mirror(row)  # type: ignore[attr-defined]
            for part, row in zip(self._parts, rows, strict=True)
        ]
        return jnp.concatenate([-noise[:, :1], *images], axis=1)

    def _num_uniforms(self, dim: int) -> int:
        """One uniform that picks the component, and those of the components."""
        return 1 + sum(_uniform_size(part, dim) for part in self._parts)

    def _noise_from_uniform(self, u: Float[Array, "draws cube"]) -> Noise:
        """The normal quantile that picks the component, and the components' noise."""
        rows = self._split(u[:, 1:], _uniform_size)
        noises = [
            part.noise_from_uniform(row)  # type: ignore[attr-defined]
            for part, row in zip(self._parts, rows, strict=True)
        ]
        return jnp.concatenate([ndtri(u[:, :1]), *noises], axis=1)

    def _moments(self, phi: MixtureParams) -> Moments:
        """The weighted mean, and the components' variances plus that of their means."""
        means, variances = self._map_components(
            lambda part, params: part.moments(params), phi.components
        )
        weights = nn.softmax(phi.log_weights)[:, None]
        mean = jnp.sum(weights * means, axis=0)
        around_mean = variances + (means - mean[None]) ** 2
        return Moments(mean, jnp.sum(weights * around_mean, axis=0))

    def _covariance(self, phi: MixtureParams) -> Float[Array, "dim dim"]:
        """The weighted sum of the components' covariances, plus that of their means."""
        within = self._map_components(lambda part, params: part.covariance(params), phi.components)
        means = self._map_components(lambda part, params: part.moments(params).mean, phi.components)
        weights = nn.softmax(phi.log_weights)
        deviations = means - jnp.sum(weights[:, None] * means, axis=0)[None]
        between = (weights[:, None] * deviations).T @ deviations
        return jnp.sum(weights[:, None, None] * within, axis=0) + between

    def _init_gaussian(
        self,
        key: Key[Array, ""],
        loc: Float[Array, "dim"],
        scale_tril: Float[Array, "dim dim"],
    ) -> MixtureParams:
        """Equal weights, and every component as near to the Gaussian as its family allows."""
        components = self._map_keys(
            lambda part, key: part.init_gaussian(key, loc, scale_tril),  # type: ignore[attr-defined]
            jax.random.split(key, self.num),
        )
        return MixtureParams(jnp.zeros(self.num, loc.dtype), components)


def _noise_size(family: Family, dim: int) -> int:
    if isinstance(family, NormalNoiseFamily):
        return family.noise_size(dim)
    draw = jax.eval_shape(lambda key: family.draw_noise(key, 1, dim), jax.random.key(0))
    return draw.shape[1]


def _uniform_size(family: Family, dim: int) -> int:
    return family.num_uniforms(dim)  # type: ignore[attr-defined]
