"""What flows share: layers under one scan, an affine map around them, normal base noise."""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxvi._arguments import check_field, number, one_of, whole
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

_MOST_LOG_SCALE = 3.0  # of one layer, and of what a spline's knots are made from


class FlowParams(NamedTuple):
    """The outer map z = m + L x as in `AffineParams`, and all layers' numbers, networks first."""

    loc: Float[Array, "dim"]
    log_diag: Float[Array, "dim"]
    lower: Float[Array, "rows dim"]
    nets: Float[Array, "layers numbers"]


class Layer(NamedTuple):
    """One layer's numbers; whether the order of coordinates is shuffled after it."""

    net: Net
    shuffled: Bool[Array, ""]


class Flow(NormalNoiseFamily):
    """Standard normals through layers that start as the identity, then through z = m + L x."""

    num_layers: int
    hidden: tuple[int, ...]
    affine: str
    init_scale: float

    @abc.abstractmethod
    def _net_sizes(self, dim: int) -> tuple[int, ...]:
        """Widths of a layer's network, from inputs to outputs."""

    def _num_more(self, dim: int) -> int:
        """Numbers of a layer beside its network's; all zero at first."""
        del dim
        return 0

    @abc.abstractmethod
    def _order(self, dim: int) -> Int[np.ndarray, "dim"]:
        """Which coordinate of the noise each coordinate is, after all layers."""

    @abc.abstractmethod
    def _forward(self, layer: Layer, x: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        """One layer: `(y, log |det dy/dx|)`."""

    @abc.abstractmethod
    def _inverse(self, layer: Layer, y: Float[Array, "dim"]) -> tuple[Float[Array, "dim"], Scalar]:
        """One layer backwards: `(x, log |det dx/dy|)`."""

    def noise_size(self, dim: int) -> int:
        """One normal a coordinate."""
        return dim

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> FlowParams:
        """A Gaussian centred on `start` with covariance `init_scale^2 I`; the layers do nothing."""
        key_loc, key_nets = jax.random.split(key)
        loc = start_or_normal(key_loc, dim, start)
        return self._around(key_nets, affine_at(loc, self.init_scale, self.affine))

    def init_gaussian(
        self,
        key: Key[Array, ""],
        loc: Float[Array, "dim"],
        scale_tril: Float[Array, "dim dim"],
    ) -> FlowParams:
        """The Gaussian itself (its marginals where the map is diagonal); the layers do nothing."""
        return self._around(key, affine_of_gaussian(loc, scale_tril, self.affine))

    def transform(self, phi: FlowParams, noise: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """z = m + L f(noise), f being all layers."""
        return self.transform_and_log_prob(phi, noise)[0]

    def transform_and_log_prob(
        self, phi: FlowParams, noise: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """log q from the log-determinants met on the way: nothing is inverted."""

        @jax.checkpoint  # with splines a third less to compile, at no cost seen in time
        def body(carry: tuple[Array, Array], layer: Layer) -> tuple[tuple[Array, Array], None]:
            y, log_det = self._forward(layer, carry[0])
            return (y, carry[1] + log_det), None

        zero = jnp.zeros((), noise.dtype)
        (x, log_det), _ = lax.scan(body, (noise, zero), self._layers(phi))
        x = x[np.argsort(self._order(noise.size))]
        z = affine_forward(_outer(phi), x)
        return z, standard_normal_log_prob(noise) - log_det - phi.log_diag.sum()

    def log_prob(self, phi: FlowParams, z: Float[Array, "dim"]) -> Scalar:
        """The base density at the noise that makes z, plus the log-determinants of the way."""
        x, log_det = self.inverse(phi, z)
        return standard_normal_log_prob(x) + log_det

    def inverse(
        self, phi: FlowParams, z: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """`(noise, log |det dnoise/dz|)`: the noise that `transform` takes to z."""

        def body(carry: tuple[Array, Array], layer: Layer) -> tuple[tuple[Array, Array], None]:
            x, log_det = self._inverse(layer, carry[0])
            return (x, carry[1] + log_det), None

        x = affine_inverse(_outer(phi), z)[self._order(z.size)]
        layers = self._layers(phi)
        (x, log_det), _ = lax.scan(body, (x, -phi.log_diag.sum()), layers, reverse=True)
        return x, log_det

    def _around(self, key: Key[Array, ""], outer: AffineParams) -> FlowParams:
        dim, dtype = outer.loc.size, outer.loc.dtype
        sizes, more = self._net_sizes(dim), self._num_more(dim)
        return FlowParams(*outer, init_nets(key, self.num_layers, sizes, dtype, more))

    def _layers(self, phi: FlowParams) -> Layer:
        # every second layer, so that two layers have transformed every coordinate before a shuffle
        shuffled = np.arange(self.num_layers) % 2 == 1
        return Layer(phi.nets, jnp.asarray(shuffled))


def _outer(phi: FlowParams) -> AffineParams:
    return AffineParams(phi.loc, phi.log_diag, phi.lower)


def bounded(raw: Float[Array, "..."]) -> Float[Array, "..."]:
    """`raw` near 0, and within 3 everywhere: as log-scales, no layer over- or underflows."""
    return _MOST_LOG_SCALE * jnp.tanh(raw / _MOST_LOG_SCALE)


def check_flow(flow: Any) -> None:
    """The numbers that every flow has."""
    name = type(flow).__name__
    check_field(flow, "init_scale", number, above=0.0)
    check_field(flow, "affine", one_of, STRUCTURES)
    check_field(flow, "num_layers", whole)
    if not (isinstance(flow.hidden, tuple) and flow.hidden):
        raise ValueError(
            f"{name}.hidden: expected a tuple of widths, at least 1; got {flow.hidden!r:.80}; try "
            "(32, 32)."
        )
    widths = tuple(whole(f"{name}.hidden[{i}]", width) for i, width in enumerate(flow.hidden))
    object.__setattr__(flow, "hidden", widths)
