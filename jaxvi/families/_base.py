"""Interface of variational families, with protocols for their optional methods."""

import abc
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Key

from jaxvi._numerics import LOG_2PI, normals
from jaxvi._types import Noise, Phi, Scalar


class Moments(NamedTuple):
    """Mean and variance of every unconstrained coordinate."""

    mean: Float[Array, "dim"]
    variance: Float[Array, "dim"]


class Family(abc.ABC):
    """A variational family: reparameterised distributions q over flat unconstrained `z`.

    A member is given by its variational parameters `phi`, a NamedTuple of arrays; the family
    itself is a frozen dataclass of plain numbers, so that it hashes and compares by value.
    Methods take one draw; objectives map over draws, and the engine over restarts.
    """

    @abc.abstractmethod
    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> Phi:
        """Initial parameters, centred on `start` if it is given."""

    @abc.abstractmethod
    def draw_noise(
        self, key: Key[Array, ""], num: int, dim: int, dtype: jnp.dtype | None = None
    ) -> Noise:
        """`num` rows of base noise, whose distribution doesn't depend on phi."""

    @abc.abstractmethod
    def transform(self, phi: Phi, noise: Float[Array, "noise"]) -> Float[Array, "dim"]:
        """The draw z of q for one row of base noise; differentiable in phi."""

    @abc.abstractmethod
    def log_prob(self, phi: Phi, z: Float[Array, "dim"]) -> Scalar:
        """The normalised log density log q(z), in nats."""


@runtime_checkable
class HasEntropy(Protocol):
    """A family with a closed-form entropy."""

    def entropy(self, phi: Phi) -> Scalar:
        """The entropy -E_q[log q(z)], in nats."""


@runtime_checkable
class HasMoments(Protocol):
    """A family with closed-form means and variances."""

    def moments(self, phi: Phi) -> Moments:
        """Mean and variance of every coordinate; infinite where they don't exist."""


@runtime_checkable
class HasCovariance(Protocol):
    """A family with a closed-form covariance."""

    def covariance(self, phi: Phi) -> Float[Array, "dim dim"]:
        """The dense covariance matrix of z."""


@runtime_checkable
class HasJointTransform(Protocol):
    """A family that computes a draw and its log density together, at less cost than apart."""

    def transform_and_log_prob(
        self, phi: Phi, noise: Float[Array, "noise"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """A draw with its log density, `(z, log q(z))`, for one row of noise."""


@runtime_checkable
class HasMirror(Protocol):
    """A family whose base noise has a mirror image of the same distribution."""

    def mirror(self, noise: Noise) -> Noise:
        """The mirror image of each row of noise."""


@runtime_checkable
class HasUniform(Protocol):
    """A family whose base noise can be made from uniforms, such as quasi-random points."""

    def num_uniforms(self, dim: int) -> int:
        """Number of uniforms for one draw: the dimension of the unit cube."""

    def noise_from_uniform(self, u: Float[Array, "draws cube"]) -> Noise:
        """Base noise from points strictly inside the unit cube."""


@runtime_checkable
class HasGaussianInit(Protocol):
    """A family that can start at a given Gaussian, such as a Laplace approximation."""

    def init_gaussian(
        self,
        key: Key[Array, ""],
        loc: Float[Array, "dim"],
        scale_tril: Float[Array, "dim dim"],
    ) -> Phi:
        """Parameters of the member q nearest to p = N(loc, L L^T): of the lowest KL(p || q).

        That is p itself if it is a member. If the nearest member has no closed form, as of a flow
        with a diagonal map, it is the nearest Gaussian member. L is lower triangular with a
        positive diagonal; its entries above the diagonal are not read.
        """


class NormalNoiseFamily(Family):
    """A family whose base noise is independent standard normals, `noise_size(dim)` a draw."""

    @abc.abstractmethod
    def noise_size(self, dim: int) -> int:
        """Number of standard normals for one draw."""

    def draw_noise(
        self, key: Key[Array, ""], num: int, dim: int, dtype: jnp.dtype | None = None
    ) -> Noise:
        """Standard normals, shape `(num, noise_size(dim))`."""
        return normals(key, (num, self.noise_size(dim)), dtype or float)

    def mirror(self, noise: Noise) -> Noise:
        """The noise with its sign changed."""
        return -noise

    def num_uniforms(self, dim: int) -> int:
        """One uniform for each standard normal."""
        return self.noise_size(dim)

    def noise_from_uniform(self, u: Float[Array, "draws cube"]) -> Noise:
        """Standard normal quantiles of `u`."""
        return ndtri(u)


def transform_and_log_prob(
    family: Family, phi: Phi, noise: Float[Array, "noise"]
) -> tuple[Float[Array, "dim"], Scalar]:
    """A draw with its log density, `(z, log q(z))`, by the family's joint method if it has one."""
    if isinstance(family, HasJointTransform):
        return family.transform_and_log_prob(phi, noise)
    z = family.transform(phi, noise)
    return z, family.log_prob(phi, z)


def start_or_normal(
    key: Key[Array, ""], dim: int, start: Float[Array, "dim"] | None
) -> Float[Array, "dim"]:
    """`start`, or a standard normal vector if it is None."""
    return jax.random.normal(key, (dim,)) if start is None else start


def marginal_scales(scale_tril: Float[Array, "dim dim"]) -> Float[Array, "dim"]:
    """Standard deviations of the coordinates under N(., L L^T)."""
    return jnp.sqrt(jnp.sum(jnp.tril(scale_tril) ** 2, axis=-1))


def standard_normal_log_prob(noise: Float[Array, "n"]) -> Scalar:
    """Log density of a vector under N(0, I)."""
    return -0.5 * jnp.sum(noise * noise) - 0.5 * noise.size * LOG_2PI
