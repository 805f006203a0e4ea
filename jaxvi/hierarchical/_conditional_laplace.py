"""Laplace approximation of the latents conditional on the hyperparameters, by Newton's method."""

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Bool, Float

from jaxvi._compilation import STEPS, light_jit, matrices_at_once
from jaxvi._types import Data, Scalar
from jaxvi.hierarchical._partition import Split
from jaxvi.target import Target, hessian_products, log_probs, values_and_gradients

_MAX_NEWTON_STEPS = 24
_DAMPING = 2.0  # times the Gaussian fit's precision, added to a Hessian that is not concave
# Squared length of a step, in conditional sds. Convergence is quadratic: below this, one more step
# changes nothing.
_MAX_SQUARED_STEP = 1e-2
_STEP_LENGTHS = np.array([1.0, 0.25, 0.03])  # tried at each step; the best is taken
_MAX_VALUES_AT_ONCE = 32  # values of the hyperparameters
# the latents, log p there, number of steps, squared length of the last one, whether log p rose
_State: TypeAlias = tuple[Array, Array, Array, Array, Array]


class Conditional(NamedTuple):
    r"""Laplace approximation of the latents conditional on the hyperparameters.

    It is N(mode, scale scale^T); `log_prob_at_mode` is log p at the mode and `mass` Laplace's
    estimate of $\log \int p(z)\,$d(latents). `has_mode` tells whether Newton's method converged to
    a point where the Hessian is negative definite. Where it is not definite, `scale` is that of the
    Hessian damped by the Gaussian fit's precision, which suits heavy-tailed densities. Where the
    damped Hessian is not definite either, `indefinite` is true and `scale` is the Gaussian fit's.
    """

    mode: Float[Array, "latents"]
    scale: Float[Array, "latents latents"]
    log_prob_at_mode: Scalar
    mass: Scalar
    has_mode: Bool[Array, ""]
    indefinite: Bool[Array, ""]


class _Curvature(NamedTuple):
    """The negative Hessian of log p in the latents, and Cholesky factors for Newton steps.

    `factor` is the Hessian's own where it is negative definite (`concave`), else that of the damped
    Hessian, else the Gaussian fit's (`indefinite`). `damped` is always one of the latter two: its
    steps are shorter, for where the Hessian is nearly singular.
    """

    matrix: Float[Array, "latents latents"]
    factor: Float[Array, "latents latents"]
    damped: Float[Array, "latents latents"]
    concave: Bool[Array, ""]
    indefinite: Bool[Array, ""]


class _LogProbOfLatents(NamedTuple):
    """log p as a function of the latents, the hyperparameters fixed."""

    target: Target
    at: Split
    hyperparameters: Float[Array, "hyperparameters"]
    data: Data

    def values(self, latents: Float[Array, "rows latents"]) -> Float[Array, "rows"]:
        """log p at each row; -inf where it is not finite, so that no step ends there."""
        rows = jnp.broadcast_to(
            self.hyperparameters[None], (len(latents), len(self.hyperparameters))
        )
        log_p = log_probs(self.target, self.at.joined(rows, latents), self.data)
        return jnp.where(jnp.isfinite(log_p), log_p, -jnp.inf)

    def gradient(self, latents: Float[Array, "latents"]) -> Float[Array, "latents"]:
        z = self.at.joined(self.hyperparameters, latents)[None]
        constant = self.at.fixed.constant(self.target)
        return self.at.rest @ values_and_gradients(constant, z, self.data)[1][0]

    def curvature(self, latents: Float[Array, "latents"]) -> _Curvature:
        z, rest = self.at.joined(self.hyperparameters, latents)[None], self.at.rest
        constant = self.at.fixed.constant(self.target)
        hessian = hessian_products(constant, z, rest[None], self.data)[0] @ rest.T
        matrix = -0.5 * (hessian + hessian.T)
        undamped = jnp.linalg.cholesky(matrix)
        damped = jnp.linalg.cholesky(matrix + _DAMPING * self.at.precision)
        concave, indefinite = jnp.isfinite(undamped).all(), ~jnp.isfinite(damped).all()
        damped = jnp.where(indefinite, self.at.factor, damped)
        factor = jnp.where(concave, undamped, damped)
        return _Curvature(matrix, factor, damped, concave, indefinite & ~concave)

    def step(self, state: _State) -> _State:
        """The best of several Newton steps, damped and undamped, of several lengths."""
        latents, value, count, *_ = state
        gradient, here = self.gradient(latents), self.curvature(latents)
        newton, damped = (
            cho_solve((lower, True), gradient) for lower in (here.factor, here.damped)
        )
        lengths = _STEP_LENGTHS.astype(latents.dtype)[:, None]
        tried = latents[None] + jnp.concatenate([lengths * newton[None], lengths * damped[None]])
        log_p = self.values(tried)
        best = jnp.argmax(log_p)
        higher = log_p[best] > value
        latents = jnp.where(higher, tried[best], latents)
        squared_length = jnp.sum((newton @ here.factor) ** 2)
        return latents, jnp.maximum(log_p[best], value), count + 1, squared_length, higher


def conditional(
    target: Target,
    at: Split,
    hyperparameters: Float[Array, "hyperparameters"],
    start: Float[Array, "latents"],
    data: Data,
) -> Conditional:
    """Laplace approximation of the latents at one value of the hyperparameters.

    Newton's method starts at the best of `start`, the Gaussian fit's mean and its conditional mean;
    of several step lengths it takes the one with the highest density. A Hessian that is not
    negative definite is damped by the Gaussian fit's precision, or else replaced by it.
    """
    given = _LogProbOfLatents(target, at, hyperparameters, data)

    def go_on(state: _State) -> Array:
        _, _, count, squared_length, rose = state
        return (count < _MAX_NEWTON_STEPS) & (squared_length > _MAX_SQUARED_STEP) & rose

    starts = jnp.stack([start, at.loc, at.loc + at.slope @ (hyperparameters - at.centre)])
    log_p = given.values(starts)
    best, zero = jnp.argmax(log_p), jnp.zeros((), jnp.int32)
    state = (starts[best], log_p[best], zero, jnp.full_like(log_p[0], jnp.inf), zero == 0)
    mode, log_prob_at_mode, _, squared_length, _ = lax.while_loop(go_on, given.step, state)
    there = given.curvature(mode)
    eye = jnp.eye(len(mode), dtype=mode.dtype)
    scale = solve_triangular(there.factor, eye, lower=True).T
    log_volume = -jnp.sum(jnp.log(jnp.diagonal(there.factor)))
    # where the Hessian is indefinite, the absolute value of its determinant gives the volume
    indefinite_volume = -0.5 * jnp.linalg.slogdet(there.matrix)[1]
    log_volume = jnp.where(there.indefinite, indefinite_volume, log_volume)
    mass = log_prob_at_mode + log_volume + 0.5 * len(mode) * np.log(2.0 * np.pi)
    indefinite = there.indefinite | ~jnp.isfinite(mass)
    mass = jnp.where(jnp.isfinite(mass), mass, -jnp.inf)
    has_mode = there.concave & ~indefinite & (squared_length <= _MAX_SQUARED_STEP)
    return Conditional(mode, scale, log_prob_at_mode, mass, has_mode, indefinite)


@light_jit(STEPS, static_argnames="target")
def conditionals(
    at: Split,
    hyperparameters: Float[Array, "rows hyperparameters"],
    starts: Float[Array, "rows latents"],
    data: Data,
    *,
    target: Target,
) -> Conditional:
    """Laplace approximations of the latents at every row of the hyperparameters."""
    size = min(_MAX_VALUES_AT_ONCE, len(hyperparameters), matrices_at_once(len(at.loc)))

    def one(row: tuple[Array, Array]) -> Conditional:
        return conditional(target, at, *row, data)

    return lax.map(one, (hyperparameters, starts), batch_size=size)
