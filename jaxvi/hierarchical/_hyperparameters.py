"""Which coordinates are hyperparameters: those on which the scales of other coordinates depend."""

import numpy as np
from jaxtyping import Array, Int, Key

from jaxvi._types import Data
from jaxvi.families import FullRankParams, NoncenteringParams
from jaxvi.hierarchical._curvature_slopes import (
    MAX_HYPERPARAMETERS,
    NOTABLE_EFFECT,
    STRONG_EFFECT,
    curvature_slopes,
)
from jaxvi.target import Target


def find_hyperparameters(
    key: Key[Array, ""], target: Target, phi: FullRankParams, data: Data = None
) -> Int[np.ndarray, "hyperparameters"]:
    r"""Coordinates on which the curvature of log p in the others depends, at a dense Gaussian fit.

    Conditional on them the other coordinates, the latents, are nearer to Gaussian; in a
    hierarchical model they are scales and correlations. With h_i the second derivative of log p in
    z_i, averaged over q, and s_k q's standard deviation of z_k, the effect of z_k is
    $s_k (\sum_i (h_i'/h_i)^2 / 2)^{1/2}$, primes being derivatives in z_k. It is the root of twice
    the nats by which a Gaussian for the latents is off where z_k is one standard deviation away.

    These sets are tried in turn: (1) effects above 0.3, and all constrained coordinates; (2) all
    constrained coordinates; (3) effects above 0.3, and constrained coordinates with effects above
    0.1; (4) effects above 0.1. The first is taken that has at most 8 coordinates, at most half of
    all, and at least one effect above 0.1.

    Args:
        key: a random key.
        target: the log density.
        phi: parameters of `FullRank`.
        data: handed to the log density.

    Returns:
        Indices of the coordinates, ascending; empty where no set qualifies.

    Example:
        >>> def funnel(z):
        ...     return -0.5 * z[0] ** 2 - 0.5 * jnp.sum(z[1:] ** 2) * jnp.exp(-z[0]) - 2 * z[0]
        >>> target = jaxvi.Target(funnel, jaxvi.Real((5,)))
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> find_hyperparameters(key, target, fit.q.phi)
        array([0])
    """
    found = curvature_slopes(key, target, phi, data)
    if found is None:
        return np.empty(0, int)
    effect = found.sd * np.sqrt(0.5 * (found.slopes**2).sum(axis=0))
    constrained = target.constrained_coordinates()
    strong, notable = effect > STRONG_EFFECT, effect > NOTABLE_EFFECT
    for chosen in (strong | constrained, constrained, strong | (notable & constrained), notable):
        if (chosen & notable).any() and chosen.sum() <= min(MAX_HYPERPARAMETERS, target.dim // 2):
            return np.flatnonzero(chosen)
    return np.empty(0, int)


def hyperparameter_names(target: Target, params: NoncenteringParams) -> tuple[str, ...]:
    """Names of the coordinates that a non-centring takes for hyperparameters."""
    names = target.coordinate_names()
    return tuple(names[int(row.argmax())] for row in np.asarray(params.pick) if row.any())
