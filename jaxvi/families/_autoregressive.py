"""Inverse autoregressive flow: each coordinate is transformed given those before it."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxvi._types import Scalar
from jaxvi.families._flow_base import Flow, Layer, bounded, check_flow
from jaxvi.families._networks import apply_net, autoregressive_masks


@dataclass(frozen=True)
class AutoregressiveFlow(Flow):
    r"""Standard normals through inverse autoregressive layers, then through z = m + L x.

    A layer is $y_i = t_i + e^{s_i} x_i$, where t and s of coordinate i come from the coordinates
    of x before it by one masked network (Kingma et al. 2016; Germain et al. 2015); the order is
    reversed between layers. A draw and its density cost one pass through the networks, as the
    evidence lower bound needs it. `log_prob` of a given z costs dim passes, one coordinate after
    the other: for objectives that need it at every step `CouplingFlow` is cheaper.

    It starts at a Gaussian, as `CouplingFlow` does.

    Args:
        num_layers: autoregressive layers.
        hidden: widths of each network's tanh layers; at least dim - 1 units let every
            coordinate depend on all before it.
        affine: "full" or "diagonal" L; the latter for large dimensions.
        init_scale: standard deviation of every coordinate at the start, unconstrained units.

    Raises:
        ValueError: a number out of range, or an unknown structure.

    Example:
        >>> fit = jaxvi.fit(key, target, jaxvi.families.AutoregressiveFlow(hidden=(8,)))
    """

    num_layers: int = 3
    hidden: tuple[int, ...] = (32, 32)
    affine: Literal["full", "diagonal"] = "full"
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        check_flow(self)

    def _net_sizes(self, dim: int) -> tuple[int, ...]:
        return dim, *self.hidden, 2 * dim

    def _order(self, dim: int) -> Int[np.ndarray, "dim"]:
        return np.arange(dim)[:: -1 if self.num_layers % 2 else 1]

    def _forward(self, layer: Layer, x: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        shift, log_scale = self._params(layer, x)
        return (shift + jnp.exp(log_scale) * x)[::-1], log_scale.sum()

    def _inverse(self, layer: Layer, y: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        """Inverts one coordinate a pass: after i passes the first i are known, the others are 0."""
        y = y[::-1]
        known = np.tri(y.size, dtype=bool)

        def reveal(x: Array, mask: Array) -> tuple[Array, None]:
            shift, log_scale = self._params(layer, x)
            return jnp.where(mask, (y - shift) * jnp.exp(-log_scale), jnp.zeros_like(y)), None

        x, _ = lax.scan(reveal, jnp.zeros_like(y), jnp.asarray(known))
        return x, -self._params(layer, x)[1].sum()

    def _params(
        self, layer: Layer, x: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Float[Array, "dim"]]:
        masks = autoregressive_masks(x.size, self.hidden, 2)
        shift, raw = jnp.split(apply_net(layer.net, self._net_sizes(x.size), x, masks), 2)
        return shift, bounded(raw)
