"""Where Gaussian restarts ended: at separate modes, or together?"""

import math
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxvi._log_probs import log_probs
from jaxvi._status import Status
from jaxvi._types import Data, Phi
from jaxvi.families import HasMoments, Moments
from jaxvi.result import Fit
from jaxvi.target import Target

_APART = 3.0  # sds between the means of separate modes
_COMPARABLE = math.log(100.0)  # nats between modes that both matter
_MOST_MODES = 20
_WAY, _DIP = 17, 1.0  # points from mode to mode, and nats


def moments_rhat(fit: Fit) -> float:
    """As if lanes at the best optimum were chains: sqrt(1 + B / W) of the worst coordinate.

    B is the variance of their means, W the mean of their variances; and the same of log sds.
    """
    family, group = fit.setup.family, fit.agreement.optimum == 0
    if not isinstance(family, HasMoments) or group.sum() < 2:
        return 1.0
    mean, variance = (np.asarray(x)[group] for x in _moments(fit.phi, family=family))
    between = mean.var(axis=0) / variance.mean(axis=0)
    of_log_sds = np.log(variance).var(axis=0) / 4.0
    return float(np.sqrt(1.0 + max(between.max(), of_log_sds.max())))


def separate_lanes(fit: Fit, target: Target, data: Data) -> list[int]:
    """The best lane, and those at other modes with a comparable bound, best first.

    A mode of its own has means far off, and the log density dips on the straight way there: a
    Gaussian fits a funnel, which has one mode, at several heights.
    """
    family = fit.setup.family
    assert isinstance(family, HasMoments)  # natural gradients fit Gaussians
    moments = _moments(fit.phi, family=family)
    means, sds = np.asarray(moments.mean), np.sqrt(np.asarray(moments.variance))
    found: list[int] = []
    for lane in np.argsort(-np.nan_to_num(fit.bounds, nan=-np.inf), kind="stable"):
        near = fit.bounds[lane] > fit.bound - _COMPARABLE
        if not (near and Status(int(fit.status[lane])).ok) and lane != fit.best:
            continue
        gaps = [np.abs(means[lane] - means[other]) / (sds[lane] + sds[other]) for other in found]
        apart = all(gap.max() > _APART for gap in gaps)
        if apart and all(_dips(target, means[lane], means[other], data) for other in found):
            found.append(int(lane))
    return found[:_MOST_MODES]


def _dips(
    target: Target, one: Float[np.ndarray, "dim"], other: Float[np.ndarray, "dim"], data: Data
) -> bool:
    share = np.linspace(0.0, 1.0, _WAY).astype(one.dtype)[:, None]
    values = np.asarray(_values(target, one * (1.0 - share) + other * share, data))
    values = np.where(np.isfinite(values), values, -np.inf)
    return bool(values[1:-1].min() < min(values[0], values[-1]) - _DIP)


@partial(jax.jit, static_argnames="target")
def _values(target: Target, z: Float[Array, "points dim"], data: Data) -> Float[Array, "points"]:
    return log_probs(target, z, data)


@partial(jax.jit, static_argnames="family")
def _moments(phis: Phi, *, family: HasMoments) -> Moments:
    return jax.vmap(family.moments)(phis)
