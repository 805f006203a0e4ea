"""What importance weights say about q, and about its marginals."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._log_probs import log_probs
from jaxvi._types import Data, Phi
from jaxvi.diagnostics._movement import Drift, features
from jaxvi.diagnostics._pareto import khat_threshold, pareto_smooth
from jaxvi.families import Family, transform_and_log_prob
from jaxvi.target import Target

_SLICE = 256  # divides the default: a remainder would be a second program
_ALIKE = 0.95  # importance efficiency
LEAST_EFFICIENCY = 0.3  # of weights that are to say anything of marginals


class Weighing(NamedTuple):
    """Draws z of q with their smoothed log weights, and what they say.

    `efficiency` is the share of equally weighted draws that they are worth, before smoothing;
    `drift` how far the weighted marginals are from q's own, `bad_share` the share of draws at
    which the log density was not finite (they weigh nothing).
    """

    z: Float[Array, "draws dim"]
    log_weights: Float[Array, "draws"]
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
    num_draws: int = 8_192,
) -> Weighing:
    """Weigh draws of q by p / q, and compare weighted with plain moments.

    Args:
        key: a random key.
        target: the log density.
        family: q's family.
        phi: q's parameters.
        data: handed to the log density.
        num_draws: draws; standard errors fall with their root.

    Example:
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> weighed = jaxvi.diagnostics.weigh(key, target, fit.q.family, fit.q.phi)
        >>> weighed.efficiency > 0.9
        True
    """
    seen = _weigh(key, target, family, phi, data, num_draws)
    z, log_weights, khat, numbers, drift = seen
    efficiency, bound, mcse, bad_share = (float(x) for x in numbers)
    return Weighing(
        z=z,
        log_weights=log_weights,
        khat=float(khat),
        khat_limit=khat_threshold(num_draws),
        efficiency=efficiency,
        bound=bound,
        bound_mcse=mcse,
        bad_share=bad_share,
        drift=Drift(*(np.asarray(row) for row in drift)),
    )


@partial(jax.jit, static_argnames=("target", "family", "num_draws"))
def _weigh(
    key: Key[Array, ""], target: Target, family: Family, phi: Phi, data: Data, num_draws: int
) -> tuple[Array, Array, Array, tuple[Array, ...], tuple[Array, ...]]:
    noise = family.draw_noise(key, num_draws, target.dim, jax.tree.leaves(phi)[0].dtype)

    def one(row: Array) -> tuple[Array, Array]:
        z, log_q = transform_and_log_prob(family, phi, row)
        return z, log_probs(target, z[None], data)[0] - log_q

    z, raw = jax.lax.map(one, noise, batch_size=min(_SLICE, num_draws))
    finite = jnp.isfinite(raw)
    weights = jnp.where(finite, raw, -jnp.inf)
    plain = jnp.exp(weights - weights.max())
    efficiency = plain.sum() ** 2 / jnp.sum(plain**2) / num_draws
    smoothed = pareto_smooth(weights)
    share = jax.nn.softmax(smoothed.log_weights)
    bad_share = jnp.mean(~finite, dtype=raw.dtype)
    numbers = (efficiency, raw.mean(), raw.std() / num_draws**0.5, bad_share)
    return z, smoothed.log_weights, smoothed.khat, numbers, _drift(features(target, z), share)


def _drift(rows: Float[Array, "draws coordinates"], share: Float[Array, "draws"]) -> tuple:
    """The fields of `Drift`: of weighted moments from plain ones, with errors of the delta method.

    Of the same draws, so that where all weights are equal no error is left.
    """
    size = float(len(rows))
    scale = rows.std(axis=0)
    constant = scale == 0.0
    rows = (rows - rows.mean(axis=0)[None]) / jnp.where(constant, 1.0, scale)[None]
    mean = share @ rows
    extra = (share - 1.0 / size)[:, None]
    error = jnp.sqrt(jnp.sum((extra * (rows - mean[None])) ** 2, axis=0))
    square = (rows - mean[None]) ** 2
    variance = jnp.where(constant, 1.0, share @ square)
    spread = jnp.sqrt(jnp.sum((extra * (square - variance[None])) ** 2, axis=0))
    return mean, error, 0.5 * jnp.log(variance), 0.5 * spread / variance, jnp.zeros_like(mean)
