"""What a variational family is, and the small protocols for what it may offer besides."""

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
    """A set of distributions q over flat unconstrained `z`, reparameterised.

    A member is named by its variational parameters `phi`, a NamedTuple of arrays; the family
    itself is a frozen dataclass of plain numbers, so that it hashes and compares by value.
    Methods speak of one draw; objectives map over draws and lanes over restarts.
    """

    @abc.abstractmethod
    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> Phi:
        """Parameters to start from, centred on `start` where it is given."""

    @abc.abstractmethod
    def draw_noise(
        self, key: Key[Array, ""], num: int, dim: int, dtype: jnp.dtype | None = None
    ) -> Noise:
        """`num` rows of base noise, whose distribution doesn't depend on phi."""

    @abc.abstractmethod
    def transform(self, phi: Phi, noise: Float[Array, "noise"]) -> Float[Array, "dim"]:
        """The draw z of q that one row of noise stands for; differentiable in phi."""

    @abc.abstractmethod
    def log_prob(self, phi: Phi, z: Float[Array, "dim"]) -> Scalar:
        """log q(z), in nats, normalised."""


@runtime_checkable
class HasEntropy(Protocol):
    """The family knows its entropy exactly."""

    def entropy(self, phi: Phi) -> Scalar:
        """-E_q[log q(z)], in nats."""


@runtime_checkable
class HasMoments(Protocol):
    """The family knows its mean and variance exactly."""

    def moments(self, phi: Phi) -> Moments:
        """Mean and variance of every coordinate; infinite where they don't exist."""


@runtime_checkable
class HasCovariance(Protocol):
    """The family knows its covariance exactly."""

    def covariance(self, phi: Phi) -> Float[Array, "dim dim"]:
        """Dense covariance of z."""


@runtime_checkable
class HasJointTransform(Protocol):
    """The family gets a draw and its log density together for less than apart."""

    def transform_and_log_prob(
        self, phi: Phi, noise: Float[Array, "noise"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """`(z, log q(z))` for one row of noise."""


@runtime_checkable
class HasMirror(Protocol):
    """Base noise has a mirror image of the same distribution."""

    def mirror(self, noise: Noise) -> Noise:
        """The mirror image, row by row."""


@runtime_checkable
class HasUniform(Protocol):
    """Base noise can be made from points of the unit cube."""

    def num_uniforms(self, dim: int) -> int:
        """Dimension of the cube."""

    def noise_from_uniform(self, u: Float[Array, "draws cube"]) -> Noise:
        """Noise from points strictly inside the cube."""


@runtime_checkable
class HasGaussianInit(Protocol):
    """The family can start at a given Gaussian: that of a Laplace approximation, of draws."""

    def init_gaussian(
        self,
        key: Key[Array, ""],
        loc: Float[Array, "dim"],
        scale_tril: Float[Array, "dim dim"],
    ) -> Phi:
        """The member q nearest to p = N(loc, L L^T), of lowest KL(p || q); p itself if a member.

        A family too rich for that, such as a flow with a diagonal map, takes its nearest
        Gaussian. L is lower triangular with a positive diagonal; above the diagonal it is not
        read.
        """


class NormalNoiseFamily(Family):
    """A family whose base noise is independent standard normals, `noise_size(dim)` a draw."""

    @abc.abstractmethod
    def noise_size(self, dim: int) -> int:
        """How many standard normals make one draw."""

    def draw_noise(
        self, key: Key[Array, ""], num: int, dim: int, dtype: jnp.dtype | None = None
    ) -> Noise:
        """Standard normals, shape `(num, noise_size(dim))`."""
        return normals(key, (num, self.noise_size(dim)), dtype or float)

    def mirror(self, noise: Noise) -> Noise:
        """-noise."""
        return -noise

    def num_uniforms(self, dim: int) -> int:
        """One uniform a normal."""
        return self.noise_size(dim)

    def noise_from_uniform(self, u: Float[Array, "draws cube"]) -> Noise:
        """The normal quantiles of `u`."""
        return ndtri(u)


def transform_and_log_prob(
    family: Family, phi: Phi, noise: Float[Array, "noise"]
) -> tuple[Float[Array, "dim"], Scalar]:
    """`(z, log q(z))`, by the family's own joint method where it has one."""
    if isinstance(family, HasJointTransform):
        return family.transform_and_log_prob(phi, noise)
    z = family.transform(phi, noise)
    return z, family.log_prob(phi, z)


def start_or_normal(
    key: Key[Array, ""], dim: int, start: Float[Array, "dim"] | None
) -> Float[Array, "dim"]:
    """`start`, or a standard normal vector where there is none."""
    return jax.random.normal(key, (dim,)) if start is None else start


def marginal_scales(scale_tril: Float[Array, "dim dim"]) -> Float[Array, "dim"]:
    """Standard deviations of the coordinates under N(., L L^T)."""
    return jnp.sqrt(jnp.sum(jnp.tril(scale_tril) ** 2, axis=-1))


def standard_normal_log_prob(noise: Float[Array, "n"]) -> Scalar:
    """log N(noise | 0, I)."""
    return -0.5 * jnp.sum(noise * noise) - 0.5 * noise.size * LOG_2PI
