"""Separate modes among Gaussian restarts, and how well restarts at one mode agree (R-hat)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxvi._compilation import BLOCK_ROWS, ONCE, Lowering, light_jit
from jaxvi._engine import Setup
from jaxvi._sampling import values_of, values_of_block
from jaxvi._status import Status
from jaxvi._types import Data, Phi
from jaxvi.families import Family, HasCovariance, HasMoments
from jaxvi.results import Fit
from jaxvi.target import Target

_MIN_SEPARATION_SD = 4.0  # between the means of separate modes, along the line between them
_MAX_DENSE_COVARIANCE_DIM = 500
_MAX_MODE_GAP_NATS = math.log(100.0)  # between modes that both matter
_MAX_MODES = 20
_MAX_BOUND_MCSE_NATS = 1.0  # of a bound that is precise enough to give its mode's mass
_LINE_POINTS, _MIN_DIP_NATS = 17, 1.0  # points from mode to mode, and the dip between them


def moments_rhat(fit: Fit) -> float:
    """R-hat over lanes at the best optimum, treated as chains; the largest over coordinates.

    sqrt(1 + B / W), where B is the variance of their means, W the mean of their variances; and
    the same of log sds.
    """
    family, group = fit.setup.family, fit.agreement.optimum == 0
    if not isinstance(family, HasMoments) or group.sum() < 2:
        return 1.0
    mean, spread = (np.asarray(x)[group] for x in _places(fit.phi, family=family))
    variance = spread if spread.ndim == 2 else np.diagonal(spread, axis1=1, axis2=2)
    between = mean.var(axis=0) / variance.mean(axis=0)
    of_log_sds = np.log(variance).var(axis=0) / 4.0
    return float(np.sqrt(1.0 + max(between.max(), of_log_sds.max())))


def lanes_within(fit: Fit, nats: float) -> int:
    """Number of lanes with a bound within `nats` of the best."""
    return int(np.sum(fit.bounds[fit.best] - fit.bounds < nats))


def separate_lanes(fits: Sequence[Fit], target: Target, data: Data) -> list[tuple[int, int]]:
    """The best lane, and lanes at other modes with a comparable bound, best first.

    Each is (place of its fit, lane in it); all fits are of one family. A lane is at a mode of its
    own if its mean is far from the others', by Mahalanobis distance where covariances are known,
    and the log density dips on the line between them: a Gaussian fits a funnel, which has one
    mode, at several heights.
    """
    family = fits[0].setup.family
    assert isinstance(family, HasMoments)  # natural gradients fit Gaussians
    places = [_places(fit.phi, family=family) for fit in fits]
    means, spreads = (
        np.concatenate([np.asarray(x, float) for x in some]) for some in zip(*places, strict=True)
    )
    dtype = jax.tree.leaves(fits[0].phi)[0].dtype
    bounds, errors, status = (
        np.concatenate(some)
        for some in zip(*((fit.bounds, fit.bounds_mcse, fit.status) for fit in fits), strict=True)
    )
    first = np.cumsum([0, *(fit.num_restarts for fit in fits)])
    top = max(range(len(fits)), key=lambda i: fits[i].bound)
    best = first[top] + fits[top].best
    found: list[int] = []
    for lane in np.argsort(-np.nan_to_num(bounds, nan=-np.inf), kind="stable"):
        near = (
            bounds[lane] > bounds[best] - _MAX_MODE_GAP_NATS
            and errors[lane] <= _MAX_BOUND_MCSE_NATS
        )
        if not (near and Status(int(status[lane])).ok) and lane != best:
            continue
        apart = all(
            _distance(means[lane] - means[other], 0.5 * (spreads[lane] + spreads[other]))
            > _MIN_SEPARATION_SD
            for other in found
        )
        if apart and all(_dips(target, means[lane], means[other], dtype, data) for other in found):
            found.append(int(lane))
    owner = np.searchsorted(first, found, side="right") - 1
    return [(int(i), lane - int(first[i])) for i, lane in zip(owner, found, strict=True)][
        :_MAX_MODES
    ]


def lower_separation(setup: Setup, phis: Any, data: Data, values: bool = True) -> list[Lowering]:
    """Programs that compare lanes and, with `values`, evaluate the density; `phis` are shapes."""
    z = jax.ShapeDtypeStruct((BLOCK_ROWS, setup.target.dim), jax.tree.leaves(phis)[0].dtype)
    places = partial(_places.lower, phis, family=setup.family)
    return [places, partial(values_of_block.lower, setup.target, z, data)] if values else [places]


def _distance(step: Float[np.ndarray, "dim"], spread: Float[np.ndarray, "..."]) -> float:
    """Mahalanobis distance of two means; infinite if the covariance is not positive definite."""
    try:
        across = np.linalg.solve(spread, step) if spread.ndim == 2 else step / spread
    except np.linalg.LinAlgError:
        return math.inf
    squared = float(step @ across)
    return math.sqrt(squared) if squared >= 0.0 else math.inf


def _dips(
    target: Target,
    one: Float[np.ndarray, "dim"],
    other: Float[np.ndarray, "dim"],
    dtype: np.dtype,
    data: Data,
) -> bool:
    """Whether the log density is lower by a nat between two means than at both of them."""
    share = np.linspace(0.0, 1.0, _LINE_POINTS)[:, None]
    line = (one * (1.0 - share) + other * share).astype(dtype)
    values = values_of(target, line, data)
    values = np.where(np.isfinite(values), values, -np.inf)
    return bool(values[1:-1].min() < min(values[0], values[-1]) - _MIN_DIP_NATS)


@light_jit(ONCE, static_argnames="family")
def _places(phis: Phi, *, family: Family) -> tuple[Array, Array]:
    """Means of all lanes with their covariances, or variances if these are unknown or large."""
    assert isinstance(family, HasMoments)
    mean, variance = jax.vmap(family.moments)(phis)
    if isinstance(family, HasCovariance) and mean.shape[-1] <= _MAX_DENSE_COVARIANCE_DIM:
        return mean, jax.vmap(family.covariance)(phis)
    return mean, variance
