"""Importance weights of draws of q, and how weighted marginal moments differ from q's own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._numerics import fold_in, softmax
from jaxvi._sampling import (
    draw_noise,
    draws_each,
    features,
    has_heavy_tailed_draws,
    heavy_tailed_noise,
    tiled,
    weigh_draws,
)
from jaxvi._types import Data, Phi
from jaxvi.diagnostics._drift import Drift
from jaxvi.diagnostics._pareto import khat_threshold, smooth_on_host
from jaxvi.diagnostics._short_chains import Space
from jaxvi.families import Family
from jaxvi.target import Target

UNIFORM_RELATIVE_ESS = 0.95  # from here on weights count as nearly uniform
MIN_RELATIVE_ESS = 0.3  # of weights on which statements about marginals can rest


class ImportanceWeights(NamedTuple):
    """Draws z of q, their parameters and smoothed log weights, and the diagnostics of the weights.

    `relative_ess` is the effective sample size before smoothing, relative to the number of draws.
    `drift` is how far the weighted marginals are from q's own; `error` is the Monte Carlo error
    that remains in weighted draws. `bad_share` is the share of draws at which the log density was
    not finite (their weight is 0).
    """

    z: Float[np.ndarray, "draws dim"]
    params: Float[np.ndarray, "draws params"]
    log_weights: Float[np.ndarray, "draws"]
    khat: float
    khat_limit: float
    relative_ess: float
    bound: float
    bound_mcse: float
    bad_share: float
    drift: Drift
    error: Drift

    @property
    def ok(self) -> bool:
        """Whether weighted means and standard deviations can be relied on.

        If the weights are nearly uniform, a tail with a large khat has negligible mass.
        """
        uniform = self.relative_ess >= UNIFORM_RELATIVE_ESS and self.khat <= 1.0
        good = self.khat <= 0.5 and self.relative_ess >= MIN_RELATIVE_ESS
        return (uniform or good) and self.bad_share == 0.0


def importance_weights(
    key: Key[Array, ""],
    target: Target,
    family: Family,
    phi: Phi,
    data: Data = None,
    *,
    num_draws: int | None = None,
    num_batches: int = 1,
    heavy_tailed: bool = False,
) -> ImportanceWeights:
    """Importance weights p / q of draws of q, and weighted against unweighted moments.

    Where q is `Transformed`, draws and weights are made in the coordinates of the family within.

    Args:
        key: a random key.
        target: the log density.
        family: q's family.
        phi: q's parameters.
        data: handed to the log density.
        num_draws: draws; standard errors fall with their root. By default 8,192, or as many as
            take 256 MiB.
        num_batches: batches in which draws are made; with the number of a fit's restarts, and the
            default number of draws, the program that ranked the restarts is used again.
        heavy_tailed: draw from a heavy-tailed proposal, for a `FullRank`, `MeanField` or
            `CouplingFlow`, or one within a `Transformed`. Its normal base is replaced by t's of 5
            degrees of freedom, which reach mass that q's own tails miss: a multivariate t in half
            of the draws, a t in one coordinate in the others.

    Raises:
        TypeError: `heavy_tailed` of another family.

    Example:
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> weights = jaxvi.diagnostics.importance_weights(key, target, fit.q.family, fit.q.phi)
        >>> weights.relative_ess > 0.9
        True
    """
    per_batch = draws_each(num_batches, target.dim)
    if num_draws is not None:
        per_batch = max(num_draws // num_batches, 1)
    space = Space.of(target, family, phi, data)
    if heavy_tailed and not has_heavy_tailed_draws(space.family):
        raise TypeError(
            "heavy_tailed: expected a FullRank, MeanField or CouplingFlow, of normal base; got "
            f"{space.family!r:.80}; try heavy_tailed=False."
        )
    dtype = jax.tree.leaves(space.phi)[0].dtype
    noise = draw_noise(key, space.family, num_batches * per_batch, target.dim, dtype)
    log_ratio: Any = 0.0  # of the proposal's density to q's
    if heavy_tailed:
        noise, log_ratio = heavy_tailed_noise(fold_in(key, 1), space.phi, noise)
    drawn = weigh_draws(
        noise,
        tiled(space.phi, num_batches),
        space.data,
        target=space.target,
        family=space.family,
    )
    z, params, weights = (np.asarray(x).reshape(-1, *x.shape[2:]) for x in drawn)
    if space.outer is not None:
        z = np.asarray(space.seen(jnp.asarray(z)))
        params = features(target, z)[:, z.shape[1] :]
    weights = (weights - log_ratio).astype(weights.dtype)
    if heavy_tailed:
        z, params = zero_weightless_draws(z, params, weights)
    return importance_weights_of(z, params, weights)


def zero_weightless_draws(
    z: Float[np.ndarray, "draws dim"],
    params: Float[np.ndarray, "draws params"],
    weights: Float[np.ndarray, "draws"],
) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, "draws params"]]:
    """Set draws of weight 0 to 0, since they may be infinite, and 0 x inf is NaN."""
    with np.errstate(invalid="ignore"):
        kept = softmax(np.where(np.isfinite(weights), weights, -np.inf))[:, None] > 0.0
    return np.where(kept, z, np.zeros_like(z)), np.where(kept, params, np.zeros_like(params))


def importance_weights_of(
    z: Float[np.ndarray, "draws dim"],
    params: Float[np.ndarray, "draws params"],
    raw: Float[np.ndarray, "draws"],
) -> ImportanceWeights:
    """Smoothed weights and diagnostics from draws, their parameters, and raw log p - log q."""
    weights = np.where(np.isfinite(raw), raw, -np.inf).astype(raw.dtype)
    smoothed, khat = smooth_on_host(weights)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        drift, error = _drift(np.concatenate([z, params], axis=1), softmax(smoothed))
        share = softmax(weights)
        return ImportanceWeights(
            z=z,
            params=params,
            log_weights=smoothed,
            khat=khat,
            khat_limit=khat_threshold(len(raw)),
            relative_ess=float(1.0 / np.sum(share**2) / len(raw)),
            bound=float(raw.mean()),
            bound_mcse=float(raw.std() / len(raw) ** 0.5),
            bad_share=float(np.mean(~np.isfinite(raw))),
            drift=drift,
            error=error,
        )


def drift_from(plain: ImportanceWeights, better: ImportanceWeights) -> Drift:
    """Drift from q's own marginals to the weighted marginals of other draws of the same target."""
    one, other = (np.concatenate([seen.z, seen.params], axis=1) for seen in (plain, better))
    centre, scale = one.mean(axis=0), one.std(axis=0)
    constant = scale == 0.0
    scale = np.where(constant, 1.0, scale)
    one, other = (one - centre[None]) / scale[None], (other - centre[None]) / scale[None]
    share = softmax(better.log_weights)
    mean = share @ other
    size = float(len(one))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        variance = np.where(constant, 1.0, share @ (other - mean[None]) ** 2)
        of_sd = 0.5 * np.sqrt((one**2).var(axis=0) / size)
        half = 0.5 * np.log(variance)
    return Drift(
        mean,
        np.hypot(better.error.mean_mcse, 1.0 / size**0.5),
        half,
        np.hypot(better.error.log_sd_mcse, of_sd),
        np.zeros_like(mean),
        np.ones(len(mean), bool),
    )


def _drift(
    rows: Float[np.ndarray, "draws coordinates"], share: Float[np.ndarray, "draws"]
) -> tuple[Drift, Drift]:
    """Drift of weighted from unweighted moments, and the weighted moments' own Monte Carlo error.

    Errors are those of the delta method. Both moments are of the same draws, so that equal weights
    give a drift without error.
    """
    size = float(len(rows))
    scale = rows.std(axis=0)
    constant = scale == 0.0
    rows = (rows - rows.mean(axis=0)[None]) / np.where(constant, 1.0, scale)[None]
    mean = share @ rows
    square = (rows - mean[None]) ** 2
    variance = np.where(constant, 1.0, share @ square)

    def errors(share: Float[np.ndarray, "draws"]) -> tuple[Any, Any]:
        off = np.sqrt(np.sum((share[:, None] * (rows - mean[None])) ** 2, axis=0))
        spread = np.sqrt(np.sum((share[:, None] * (square - variance[None])) ** 2, axis=0))
        return off, 0.5 * spread / variance

    none = np.zeros_like(mean)
    apart, own = errors(share - 1.0 / size), errors(share)
    sd_known = np.ones(len(mean), bool)
    half = 0.5 * np.log(variance)
    drift = Drift(mean, apart[0], half, apart[1], none, sd_known)
    # in sds of the weighted draws, since those of a heavy-tailed proposal are larger
    return drift, Drift(none, own[0] / np.sqrt(variance), none, own[1], none, sd_known)
