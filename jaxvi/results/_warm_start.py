"""Warm starts: a fit that begins at the best restart of an earlier one."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxvi._engine import Setup, WarmStart
from jaxvi.families import FullRank, HasCovariance, HasGaussianInit, HasMoments
from jaxvi.results._fit_result import Fit


def warm_start(fit: Fit, setup: Setup, dtype: Any) -> WarmStart:
    """The best restart of `fit` as the start of another setup of the same dimension.

    Raises:
        ValueError: the dimensions differ, or the moments are not finite.
        TypeError: the families differ and one lacks moments or a Gaussian start.
    """
    if fit.setup.target.dim != setup.target.dim:
        raise ValueError(
            f"start: expected a fit of dimension {setup.target.dim} like the target's; got one of "
            f"dimension {fit.setup.target.dim}."
        )
    source, family = fit.setup.family, setup.family
    phi = jax.tree.map(lambda leaf: leaf.astype(dtype), fit.lane(fit.best).phi)
    if source == family:
        draws = fit.sample_unconstrained(jax.random.key(0), 64).astype(dtype)
        return WarmStart(jnp.median(draws, axis=0), phi, None)
    if not isinstance(family, HasGaussianInit):
        raise TypeError(
            "start: expected a family with an init_gaussian method, to start from a fit of another "
            f"one; got {family!r}; try a pytree of parameters as start."
        )
    if not (isinstance(source, HasMoments) and isinstance(source, HasCovariance)):
        raise TypeError(
            "start: expected a fit of a family with moments and covariance, such as "
            f"jaxvi.FullRank(), or of {family!r} itself; got one of {source!r}."
        )
    if isinstance(source, FullRank):  # the covariance, rounded, may have no Cholesky factor
        scale_tril = source.scale_tril(phi)
    else:
        scale_tril = jnp.linalg.cholesky(source.covariance(phi))
    if not bool(jnp.isfinite(scale_tril).all()):
        raise ValueError(
            "start: expected a fit with a finite, positive definite covariance; got one of "
            f"{source!r} without."
        )
    return WarmStart(source.moments(phi).mean, None, scale_tril)
