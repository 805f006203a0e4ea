"""Base class of flows: a scan over invertible layers, then an affine map, on normal noise."""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxvi._arguments import check_field, integer, number, one_of
from jaxvi._types import Scalar
from jaxvi.families._affine import (
    STRUCTURES,
    AffineParams,
    affine_at,
    affine_forward,
    affine_inverse,
    affine_of_gaussian,
)
from jaxvi.families._base import (
    NormalNoiseFamily,
    standard_normal_log_prob,
    start_or_normal,
)
from jaxvi.families._networks import Net, init_nets

_MAX_LOG_SCALE = 3.0  # absolute, of one layer; the same bound holds for raw spline parameters


class FlowParams(NamedTuple):
    """Parameters of the outer map z = m + L x, as in `AffineParams`, and of all layers.

    A row of `nets` is one layer: the weights of its network, then further ones.
    """

    loc: Float[Array, "dim"]
    log_diag: Float[Array, "dim"]
    lower: Float[Array, "rows dim"]
    nets: Float[Array, "layers numbers"]


class Layer(NamedTuple):
    """Parameters of one layer, and whether the coordinates are shuffled after it."""

    net: Net
    shuffled: Bool[Array, ""]


class Flow(NormalNoiseFamily):
    """A flow: standard normals through layers that start as the identity, then z = m + L x."""

    num_layers: int
    hidden: tuple[int, ...]
    affine: str
    init_scale: float

    @abc.abstractmethod
    def _net_sizes(self, dim: int) -> tuple[int, ...]:
        """Widths of a layer's network, from inputs to outputs."""

    def _num_extra(self, dim: int) -> int:
        """Number of parameters of a layer beside its network's weights; they start at zero."""
        del dim
        return 0

    @abc.abstractmethod
    def _order(self, dim: int) -> Int[np.ndarray, "dim"]:
        """Index into the noise of each coordinate after all layers: the layers' permutation."""

    @abc.abstractmethod
    def _forward(self, layer: Layer, x: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        """One layer, x to y: `(y, log |det dy/dx|)`."""

    @abc.abstractmethod
    def _inverse(self, layer: Layer, y: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        """The inverse of one layer, y to x: `(x, log |det dx/dy|)`."""

    def noise_size(self, dim: int) -> int:
        """One standard normal for each coordinate."""
        return dim

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> FlowParams:
        """A Gaussian around `start` with covariance `init_scale^2 I`; layers are the identity."""
        key_loc, key_nets = jax.random.split(key)
        loc = start_or_normal(key_loc, dim, start)
        return self._with_identity_layers(key_nets, affine_at(loc, self.init_scale, self.affine))

    def init_gaussian(
        self,
        key: Key[Array, ""],
        loc: Float[Array, "dim"],
        scale_tril: Float[Array, "dim dim"],
    ) -> FlowParams:
        """The Gaussian itself (its marginals if L is diagonal); layers are the identity."""
        return self._with_identity_layers(key, affine_of_gaussian(loc, scale_tril, self.affine))

    def transform(self, phi: FlowParams, noise: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """The draw z = m + L f(noise), with f the composition of all layers."""
        return self.transform_and_log_prob(phi, noise)[0]

    def transform_and_log_prob(
        self, phi: FlowParams, noise: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """A draw and its log density in one forward pass: nothing is inverted."""

        @jax.checkpoint  # compile time with splines falls by a third, run time did not rise
        def body(carry: tuple[Array, Array], layer: Layer) -> tuple[tuple[Array, Array], None]:
            y, log_det = self._forward(layer, carry[0])
            return (y, carry[1] + log_det), None

        zero = jnp.zeros((), noise.dtype)
        (x, log_det), _ = lax.scan(body, (noise, zero), self._layers(phi))
        x = x[np.argsort(self._order(noise.size))]
        z = affine_forward(_outer_map(phi), x)
        return z, standard_normal_log_prob(noise) - log_det - phi.log_diag.sum()

    def log_prob(self, phi: FlowParams, z: Float[Array, "dim"]) -> Scalar:
        """Log density of the noise that maps to z, plus the log-determinant of the inverse."""
        x, log_det = self.inverse(phi, z)
        return standard_normal_log_prob(x) + log_det

    def inverse(
        self, phi: FlowParams, z: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """`(noise, log |det dnoise/dz|)`: the noise that `transform` takes to z."""

        def body(carry: tuple[Array, Array], layer: Layer) -> tuple[tuple[Array, Array], None]:
            x, log_det = self._inverse(layer, carry[0])
            return (x, carry[1] + log_det), None

        x = affine_inverse(_outer_map(phi), z)[self._order(z.size)]
        layers = self._layers(phi)
        (x, log_det), _ = lax.scan(body, (x, -phi.log_diag.sum()), layers, reverse=True)
        return x, log_det

    def _with_identity_layers(self, key: Key[Array, ""], outer: AffineParams) -> FlowParams:
        dim, dtype = outer.loc.size, outer.loc.dtype
        sizes, num_extra = self._net_sizes(dim), self._num_extra(dim)
        return FlowParams(*outer, init_nets(key, self.num_layers, sizes, dtype, num_extra))

    def _layers(self, phi: FlowParams) -> Layer:
        # every second layer, so that two layers have transformed every coordinate before a shuffle
        shuffled = np.arange(self.num_layers) % 2 == 1
        return Layer(phi.nets, jnp.asarray(shuffled))


def _outer_map(phi: FlowParams) -> AffineParams:
    return AffineParams(phi.loc, phi.log_diag, phi.lower)


def bounded(raw: Float[Array, "..."]) -> Float[Array, "..."]:
    """Smoothly limits `raw` to (-3, 3), so that layers with such log-scales do not overflow."""
    return _MAX_LOG_SCALE * jnp.tanh(raw / _MAX_LOG_SCALE)


def check_flow(flow: Any) -> None:
    """Validates the fields that all flows have."""
    name = type(flow).__name__
    check_field(flow, "init_scale", number, above=0.0)
    check_field(flow, "affine", one_of, STRUCTURES)
    check_field(flow, "num_layers", integer)
    if not (isinstance(flow.hidden, tuple) and flow.hidden):
        raise ValueError(
            f"{name}.hidden: expected a tuple of widths, at least 1; got {flow.hidden!r:.80}; try "
            "(32, 32)."
        )
    widths = tuple(integer(f"{name}.hidden[{i}]", width) for i, width in enumerate(flow.hidden))
    object.__setattr__(flow, "hidden", widths)
