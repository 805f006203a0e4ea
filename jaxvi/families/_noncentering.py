"""Non-centred coordinates: residuals of a hierarchy over the scales that hyperparameters set."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from jaxvi._types import Scalar
from jaxvi.families._affine import Bijector


class NoncenteringParams(NamedTuple):
    """Residuals, their offset, and how their scales depend on the hyperparameters.

    `unit` is U of the residuals r = U z, unit triangular in some order, and `inverse` is its
    inverse. `pick` has a row for each hyperparameter, with a one at its coordinate. `rates` are
    the slopes R of the dependents' log precisions in the hyperparameters.
    """

    unit: Float[Array, "dim dim"]
    inverse: Float[Array, "dim dim"]
    offset: Float[Array, "dim"]
    pick: Float[Array, "hyperparameters dim"]
    centre: Float[Array, "hyperparameters"]
    rates: Float[Array, "dim hyperparameters"]


@dataclass(frozen=True)
class Noncentering(Bijector):
    r"""Non-centring $U z = c + x e^{-R (t - t_0) / 2}$; hyperparameters t are equal in z and x.

    In a hierarchy the scale of some coordinates (effects of groups, steps of a random walk) is a
    coordinate itself. The posterior is then a funnel, which no Gaussian fits and which needs short
    steps. Here x are the residuals r = U z (an effect minus the mean of all, a step minus its
    expectation given the one before) over their scale. With R = -2 for the log of a standard
    deviation that is the non-centred parameterisation (Papaspiliopoulos, Roberts and Sköld 2007),
    with less a partial one (Gorinova, Moore and Hoffman 2020).
    `jaxvi.hierarchical.find_noncentering` finds one from a Gaussian fit.
    """

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> NoncenteringParams:
        """Parameters of the identity map."""
        eye, zeros = jnp.eye(dim), jnp.zeros(dim)
        none = jnp.zeros((1, dim))
        return NoncenteringParams(eye, eye, zeros, none, jnp.zeros(1), none.T)

    def forward(
        self, params: NoncenteringParams, x: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """The point z, and the log-determinant, which is the sum of the log scales."""
        log_scale = _log_scale(params, x)
        residual = params.offset + x * jnp.exp(log_scale)
        z = jnp.matmul(params.inverse, residual, precision=lax.Precision.HIGHEST)
        return z, log_scale.sum()

    def inverse(
        self, params: NoncenteringParams, z: Float[Array, "dim"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """The point x, and the log-determinant, which is minus the sum of the log scales."""
        log_scale = _log_scale(params, z)
        residual = jnp.matmul(params.unit, z, precision=lax.Precision.HIGHEST)
        return (residual - params.offset) * jnp.exp(-log_scale), -log_scale.sum()


def _log_scale(params: NoncenteringParams, x: Float[Array, "dim"]) -> Float[Array, "dim"]:
    return -0.5 * params.rates @ (params.pick @ x - params.centre)
