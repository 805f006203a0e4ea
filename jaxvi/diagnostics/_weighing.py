"""What importance weights say about q, and about its marginals."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._draws import draw_and_weigh, draws_each, tiled
from jaxvi._types import Data, Phi
from jaxvi.diagnostics._movement import Drift
from jaxvi.diagnostics._pareto import khat_threshold, smooth_on_host
from jaxvi.families import Family
from jaxvi.target import Target

_ALIKE = 0.95  # importance efficiency
LEAST_EFFICIENCY = 0.3  # of weights that are to say anything of marginals


class Weighing(NamedTuple):
    """Draws z of q with their smoothed log weights, and what they say.

    `efficiency` is the share of equally weighted draws that they are worth, before smoothing;
    `drift` how far the weighted marginals are from q's own, `bad_share` the share of draws at
    which the log density was not finite (they weigh nothing).
    """

    z: Float[np.ndarray, "draws dim"]
    log_weights: Float[np.ndarray, "draws"]
    khat: float
    khat_limit: float
    efficiency: float
    bound: float
    bound_mcse: float
    bad_share: float
    drift: Drift

    @property
    def ok(self) -> bool:
        """Whether weighted means and standard deviations can be relied on.

        Where nearly all weights are alike, a tail that khat condemns holds next to nothing.
        """
        alike = self.efficiency >= _ALIKE and self.khat <= 1.0
        good = self.khat <= 0.5 and self.efficiency >= LEAST_EFFICIENCY
        return (alike or good) and self.bad_share == 0.0


def weigh(
    key: Key[Array, ""],
    target: Target,
    family: Family,
    phi: Phi,
    data: Data = None,
    *,
    num_draws: int | None = None,
    num_batches: int = 1,
) -> Weighing:
    """Weigh draws of q by p / q, and compare weighted with plain moments.

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

    Example:
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> weighed = jaxvi.diagnostics.weigh(key, target, fit.q.family, fit.q.phi)
        >>> weighed.efficiency > 0.9
        True
    """
    each = draws_each(num_batches, target.dim)
    if num_draws is not None:
        each = max(num_draws // num_batches, 1)
    drawn = draw_and_weigh(
        key,
        tiled(phi, num_batches),
        data,
        target=target,
        family=family,
        num=each,
    )
    return weighing_of(*(np.asarray(x).reshape(-1, *x.shape[2:]) for x in drawn))


def weighing_of(
    z: Float[np.ndarray, "draws dim"],
    params: Float[np.ndarray, "draws params"],
    raw: Float[np.ndarray, "draws"],
) -> Weighing:
    """Of draws, the parameters they stand for, and log p - log q."""
    weights = np.where(np.isfinite(raw), raw, -np.inf).astype(raw.dtype)
    smoothed, khat = smooth_on_host(weights)
    with np.errstate(invalid="ignore"):
        drift = _drift(np.concatenate([z, params], axis=1), _softmax(smoothed))
        share = _softmax(weights)
        return Weighing(
            z=z,
            log_weights=smoothed,
            khat=khat,
            khat_limit=khat_threshold(len(raw)),
            efficiency=float(1.0 / np.sum(share**2) / len(raw)),
            bound=float(raw.mean()),
            bound_mcse=float(raw.std() / len(raw) ** 0.5),
            bad_share=float(np.mean(~np.isfinite(raw))),
            drift=drift,
        )


def _softmax(log_weights: Float[np.ndarray, "draws"]) -> Float[np.ndarray, "draws"]:
    plain = np.exp(log_weights - log_weights.max())
    return plain / plain.sum()


def _drift(
    rows: Float[np.ndarray, "draws coordinates"], share: Float[np.ndarray, "draws"]
) -> Drift:
    """Of weighted moments from plain ones, with errors of the delta method.

    Of the same draws, so that where all weights are equal no error is left.
    """
    size = float(len(rows))
    scale = rows.std(axis=0)
    constant = scale == 0.0
    rows = (rows - rows.mean(axis=0)[None]) / np.where(constant, 1.0, scale)[None]
    mean = share @ rows
    extra = (share - 1.0 / size)[:, None]
    error = np.sqrt(np.sum((extra * (rows - mean[None])) ** 2, axis=0))
    square = (rows - mean[None]) ** 2
    variance = np.where(constant, 1.0, share @ square)
    spread = np.sqrt(np.sum((extra * (square - variance[None])) ** 2, axis=0))
    half = 0.5 * np.log(variance)
    told = np.ones(len(mean), bool)  # of weights that are nearly alike
    return Drift(mean, error, half, 0.5 * spread / variance, np.zeros_like(mean), told)
