"""What importance weights say about q, and about its marginals."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._numerics import fold_in
from jaxvi._sampling import (
    draw_noise,
    draws_each,
    features,
    has_heavy_tailed_draws,
    tiled,
    weigh_draws,
    widened,
)
from jaxvi._types import Data, Phi
from jaxvi.diagnostics._drift import Drift
from jaxvi.diagnostics._pareto import khat_threshold, smooth_on_host
from jaxvi.diagnostics._short_chains import Space
from jaxvi.families import Family
from jaxvi.target import Target

ALIKE = 0.95  # relative effective sample size
MIN_RELATIVE_ESS = 0.3  # of weights that are to say anything of marginals


class ImportanceWeights(NamedTuple):
    """Draws z of q, the parameters they stand for, their smoothed log weights, what these say.

    `relative_ess` is the share of equally weighted draws that they are worth, before smoothing;
    `drift` how far the weighted marginals are from q's own, `error` the same but for what is left
    where weighted draws are handed out, `bad_share` the share of draws at which the log density
    was not finite (they weigh nothing).
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

        Where nearly all weights are alike, a tail that khat condemns holds next to nothing.
        """
        alike = self.relative_ess >= ALIKE and self.khat <= 1.0
        good = self.khat <= 0.5 and self.relative_ess >= MIN_RELATIVE_ESS
        return (alike or good) and self.bad_share == 0.0


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
    """Weigh draws of q by p / q, and compare weighted with plain moments.

    Where q is `Transformed`, draws are made and weighed in the coordinates of the family within.

    Args:
        key: a random key.
        target: the log density.
        family: q's family.
        phi: q's parameters.
        data: handed to the log density.
        num_draws: draws; standard errors fall with their root. By default 8,192, or as many as
            take 256 MiB.
        num_batches: of which they are made; with the number of a fit's restarts, and as many draws
            as by default, the program that has ranked these may serve again.
        heavy_tailed: of a `FullRank`, `MeanField` or `CouplingFlow`, or of one within a
            `Transformed`, with t's of 5 degrees of freedom in its normal base, which see mass that
            q's own tails miss: half of the draws with a multivariate one, half with one in a
            coordinate each.

    Raises:
        TypeError: `heavy_tailed` of another family.

    Example:
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> weighed = jaxvi.diagnostics.importance_weights(key, target, fit.q.family, fit.q.phi)
        >>> weighed.relative_ess > 0.9
        True
    """
    each = draws_each(num_batches, target.dim)
    if num_draws is not None:
        each = max(num_draws // num_batches, 1)
    space = Space.of(target, family, phi, data)
    if heavy_tailed and not has_heavy_tailed_draws(space.family):
        raise TypeError(
            "heavy_tailed: expected a FullRank, MeanField or CouplingFlow, of normal base; got "
            f"{space.family!r:.80}; try heavy_tailed=False."
        )
    dtype = jax.tree.leaves(space.phi)[0].dtype
    noise = draw_noise(key, space.family, num_batches * each, target.dim, dtype)
    over: Any = 0.0
    if heavy_tailed:
        noise, over = widened(fold_in(key, 1), space.phi, noise)
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
    weights = (weights - over).astype(weights.dtype)
    if heavy_tailed:
        z, params = without_lost(z, params, weights)
    return importance_weights_of(z, params, weights)


def without_lost(
    z: Float[np.ndarray, "draws dim"],
    params: Float[np.ndarray, "draws params"],
    weights: Float[np.ndarray, "draws"],
) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, "draws params"]]:
    """Far out maps overflow: what weighs nothing leaves no trace (0 x inf would)."""
    with np.errstate(invalid="ignore"):
        kept = _softmax(np.where(np.isfinite(weights), weights, -np.inf))[:, None] > 0.0
    return np.where(kept, z, np.zeros_like(z)), np.where(kept, params, np.zeros_like(params))


def importance_weights_of(
    z: Float[np.ndarray, "draws dim"],
    params: Float[np.ndarray, "draws params"],
    raw: Float[np.ndarray, "draws"],
) -> ImportanceWeights:
    """Of draws, the parameters they stand for, and log p - log q."""
    weights = np.where(np.isfinite(raw), raw, -np.inf).astype(raw.dtype)
    smoothed, khat = smooth_on_host(weights)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        drift, error = _drift(np.concatenate([z, params], axis=1), _softmax(smoothed))
        share = _softmax(weights)
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
    """How far q's own marginals are from the weighted ones of other draws of the same target."""
    one, other = (np.concatenate([seen.z, seen.params], axis=1) for seen in (plain, better))
    centre, scale = one.mean(axis=0), one.std(axis=0)
    constant = scale == 0.0
    scale = np.where(constant, 1.0, scale)
    one, other = (one - centre[None]) / scale[None], (other - centre[None]) / scale[None]
    share = _softmax(better.log_weights)
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


def _softmax(log_weights: Float[np.ndarray, "draws"]) -> Float[np.ndarray, "draws"]:
    plain = np.exp(log_weights - log_weights.max())
    return plain / plain.sum()


def _drift(
    rows: Float[np.ndarray, "draws coordinates"], share: Float[np.ndarray, "draws"]
) -> tuple[Drift, Drift]:
    """Of weighted moments from plain ones, and from the truth, with errors of the delta method.

    Plain ones are of the same draws, so that where all weights are equal no error is left.
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
    told = np.ones(len(mean), bool)  # of weights that are nearly alike
    half = 0.5 * np.log(variance)
    drift = Drift(mean, apart[0], half, apart[1], none, told)
    # in sds of the weighted: those of draws with heavy tails would make it look small
    return drift, Drift(none, own[0] / np.sqrt(variance), none, own[1], none, told)
