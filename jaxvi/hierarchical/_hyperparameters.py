"""Hyperparameters: the few coordinates that set the scales of latents."""

import numpy as np
from jaxtyping import Array, Int, Key

from jaxvi._types import Data
from jaxvi.families import FullRankParams, NoncenteringParams
from jaxvi.hierarchical._curvature_slopes import _FEW, _NOTABLE, _STRONG, _slopes
from jaxvi.target import Target


def find_hyperparameters(
    key: Key[Array, ""], target: Target, phi: FullRankParams, data: Data = None
) -> Int[np.ndarray, "hyperparameters"]:
    r"""Coordinates that the curvature of log p in all latents depends on, at a dense Gaussian fit.

    Given them the latents are nearer to Gaussian: in a hierarchy they are its scales and
    correlations. With h_i the second derivative of log p in z_i, averaged over q, and s_k q's
    standard deviation of z_k, the effect of z_k is $s_k (\sum_i (h_i'/h_i)^2 / 2)^{1/2}$, primes
    being slopes in z_k: the root of twice the nats by which a Gaussian for the latents is off
    where z_k is a standard deviation away. Of these sets the first is taken that is no more than 8
    and no more than half of all, and in which one has an effect above 0.1: those above 0.3 and all
    that are constrained; all that are constrained; those above 0.3 and of the constrained those
    above 0.1; those above 0.1.

    Args:
        key: a random key.
        target: the log density.
        phi: parameters of `FullRank`.
        data: handed to the log density.

    Returns:
        Their numbers, ascending; none where there is no such set.

    Example:
        >>> def funnel(z):
        ...     return -0.5 * z[0] ** 2 - 0.5 * jnp.sum(z[1:] ** 2) * jnp.exp(-z[0]) - 2 * z[0]
        >>> target = jaxvi.Target(funnel, jaxvi.Real((5,)))
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> find_hyperparameters(key, target, fit.q.phi)
        array([0])
    """
    found = _slopes(key, target, phi, data)
    if found is None:
        return np.empty(0, int)
    effect = found.sd * np.sqrt(0.5 * (found.slopes**2).sum(axis=0))
    constrained = target.constrained_coordinates()
    strong, notable = effect > _STRONG, effect > _NOTABLE
    for chosen in (strong | constrained, constrained, strong | (notable & constrained), notable):
        if (chosen & notable).any() and chosen.sum() <= min(_FEW, target.dim // 2):
            return np.flatnonzero(chosen)
    return np.empty(0, int)


def hyperparameter_names(target: Target, params: NoncenteringParams) -> tuple[str, ...]:
    """Names of the coordinates that set scales of latents."""
    names = target.coordinate_names()
    return tuple(names[int(row.argmax())] for row in np.asarray(params.pick) if row.any())
