"""Coupling flow: each layer transforms one half of the coordinates given the other half."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxvi._arguments import check_field, integer, number, one_of
from jaxvi._numerics import pytrees
from jaxvi._types import Scalar
from jaxvi.families._flow_base import Flow, Layer, bounded, check_flow
from jaxvi.families._networks import apply_net, num_weights
from jaxvi.families._spline import (
    num_spline_params,
    spline_forward,
    spline_inverse,
    spline_knots,
)

# Factor on the spline's raw parameters. Knots need smaller steps than shifts: on a banana in two
# dimensions splines with a gain of 1 diverged at learning rates at which affine layers converge.
_SPLINE_GAIN = 0.2
_POLYNOMIAL_GAIN = 0.1  # likewise for polynomial terms, which are large in the tails
_MAX_KEPT_FOR_PRODUCTS = 16  # coordinates; with more, squares alone, whose number grows linearly


@dataclass(frozen=True)
class CouplingFlow(Flow):
    r"""Standard normals through coupling layers, then through z = m + L x, all learned.

    A layer keeps one half of its coordinates and maps each of the others by a monotonic
    function whose parameters a network computes from those kept: $y = t + e^s x$ (Dinh,
    Sohl-Dickstein and Bengio 2017), or a rational-quadratic spline on [-tail_bound, tail_bound],
    the identity beyond (Durkan et al. 2019), followed by such a map. t and s also have terms of
    first and second order in those kept: networks of tanh units saturate in the tails, where draws
    are few, and would not follow the tail of a curved posterior. Halves alternate, and the
    coordinates are shuffled after every two layers. Draws, densities and inverses all cost one
    pass through the networks; the log-scales of a layer stay within 3. Second-order terms are all
    products of two coordinates in up to 33 dimensions, and squares alone in more.

    It starts at a Gaussian: the layers start as the identity, and `init_gaussian` makes the first
    bound that Gaussian's. With one coordinate there is nothing to condition on: affine layers
    then add nothing, splines still do.

    Args:
        num_layers: coupling layers; two of them transform every coordinate once.
        hidden: widths of each network's tanh layers.
        transformer: "affine" or "spline".
        num_bins: bins of each spline.
        tail_bound: where the splines end, in units of the base normals.
        affine: "full" or "diagonal" L; the latter for large dimensions.
        init_scale: standard deviation of every coordinate at the start, unconstrained units.

    Raises:
        ValueError: a number out of range, or an unknown transformer or structure.

    Example:
        >>> fit = jaxvi.fit(key, target, jaxvi.families.CouplingFlow(num_layers=2, hidden=(8,)))
    """

    num_layers: int = 6
    hidden: tuple[int, ...] = (32, 32)
    transformer: Literal["affine", "spline"] = "affine"
    num_bins: int = 8
    tail_bound: float = 5.0
    affine: Literal["full", "diagonal"] = "full"
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        check_flow(self)
        check_field(self, "transformer", one_of, ("affine", "spline"))
        check_field(self, "num_bins", integer, 2, 500)
        check_field(self, "tail_bound", number, above=0.0)

    def _net_sizes(self, dim: int) -> tuple[int, ...]:
        each = 2 + (num_spline_params(self.num_bins) if self.transformer == "spline" else 0)
        return dim // 2, *self.hidden, (dim - dim // 2) * each

    def _num_extra(self, dim: int) -> int:
        return _num_polynomial_terms(dim // 2) * (dim - dim // 2) * 2

    def _order(self, dim: int) -> Int[np.ndarray, "dim"]:
        order = np.arange(dim)
        for i in range(self.num_layers):
            order = np.concatenate([order[dim // 2 :], order[: dim // 2]])
            order = _shuffle(order) if i % 2 == 1 else order
        return order

    def _forward(self, layer: Layer, x: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        """The transformed half goes first: the next layer conditions on it."""
        kept, moved = x[: x.size // 2], x[x.size // 2 :]
        shift, log_scale, raw = self._params(layer, kept, moved.size)
        log_det = log_scale.sum()
        if self.transformer == "spline":
            knots = spline_knots(raw, self.num_bins, self.tail_bound)
            moved, log_slope = spline_forward(knots, moved, self.tail_bound)
            log_det = log_det + log_slope.sum()
        y = jnp.concatenate([shift + jnp.exp(log_scale) * moved, kept])
        return jnp.where(layer.shuffled, _shuffle(y), y), log_det

    def _inverse(self, layer: Layer, y: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        y = jnp.where(layer.shuffled, _unshuffle(y), y)
        moved, kept = y[: y.size - y.size // 2], y[y.size - y.size // 2 :]
        shift, log_scale, raw = self._params(layer, kept, moved.size)
        moved, log_det = (moved - shift) * jnp.exp(-log_scale), -log_scale.sum()
        if self.transformer == "spline":
            knots = spline_knots(raw, self.num_bins, self.tail_bound)
            moved, log_slope = spline_inverse(knots, moved, self.tail_bound)
            log_det = log_det + log_slope.sum()
        return jnp.concatenate([kept, moved]), log_det

    def _params(
        self, layer: Layer, kept: Float[Array, "kept"], num: int
    ) -> tuple[Float[Array, "moved"], Float[Array, "moved"], Float[Array, "moved rest"]]:
        """Shift, log-scale and raw spline parameters of each coordinate to be transformed."""
        sizes = self._net_sizes(kept.size + num)
        shapes = [(num_weights(sizes),), (_num_polynomial_terms(kept.size), 2 * num)]
        net, weights = pytrees.split(layer.net, shapes)
        out = apply_net(net, sizes, kept).reshape(num, -1)
        # at full precision, as the network is
        terms = _polynomial_terms(kept)
        polynomial = jnp.matmul(terms, weights, precision=lax.Precision.HIGHEST).reshape(num, 2)
        shift, log_scale = (out[:, :2] + _POLYNOMIAL_GAIN * polynomial).T
        return shift, bounded(log_scale), bounded(_SPLINE_GAIN * out[:, 2:])


def _num_polynomial_terms(kept: int) -> int:
    return kept * (1 + (kept if kept <= _MAX_KEPT_FOR_PRODUCTS else 1))


def _polynomial_terms(x: Float[Array, "kept"]) -> Float[Array, "terms"]:
    """Terms of first and second order in x. Products of two come twice, to avoid a gather."""
    second = x[None] if x.size <= _MAX_KEPT_FOR_PRODUCTS else x[:, None]
    products = x[:, None] * second
    return jnp.concatenate([x[:, None], products], axis=1).reshape(-1)


def _shuffle(x: Any) -> Any:
    """A perfect shuffle of the two halves, as a transpose, which has a cheap gradient."""
    half = x.size // 2
    return _with_last(x[: 2 * half].reshape(2, half).T.reshape(-1), x)


def _unshuffle(x: Any) -> Any:
    half = x.size // 2
    return _with_last(x[: 2 * half].reshape(half, 2).T.reshape(-1), x)


def _with_last(even: Any, x: Any) -> Any:
    """`even`, then the last coordinate of x if x has odd length; for NumPy or JAX arrays."""
    if x.size % 2 == 0:
        return even
    join = np.concatenate if isinstance(x, np.ndarray) else jnp.concatenate
    return join([even, x[-1:]])
