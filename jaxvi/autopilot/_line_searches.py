"""Rays from a mode outwards: where the log density rises again, restarts may find another mode."""

import math
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._compilation import Lowering
from jaxvi._engine import Setup
from jaxvi._numerics import generator_of
from jaxvi._sampling import values_of
from jaxvi._types import Data
from jaxvi.autopilot._modes import lower_separation
from jaxvi.families import FullRank, scale_tril_on_host
from jaxvi.results import Fit
from jaxvi.target import Target

_UP_TO = 12  # dimensions: in more, too few rays pass anywhere near a mode of no known direction
_FEWEST = 4  # restarts that were asked for where other modes are looked for
_FEW_UP_TO, _FEW, _MANY = 5, 256, 512  # dimensions, and rays
_NEAREST, _FARTHEST, _RADII = 1.5, 100.0, 16  # sds of q
_RISE, _REACH = 1.0, 80.0  # nats: a rise to be seen, and how far down it is looked for


def places_beyond(key: Key[Array, ""], fit: Fit) -> Float[np.ndarray, "some dim"]:
    """Tops of rises on rays from the mean of a fit's Gaussian, not more than it has restarts.

    None in high dimension, of other families, and where few restarts were asked for.
    """
    family, dim = fit.setup.family, fit.setup.target.dim
    phi = fit.lane(fit.best).phi
    if not isinstance(family, FullRank) or dim > _UP_TO or fit.num_restarts < _FEWEST:
        return np.empty((0, dim))
    factor, loc = scale_tril_on_host(phi.log_diag, phi.lower), np.asarray(phi.loc)
    return tops_on_rays(key, fit.setup.target, loc, factor, fit.data, fit.num_restarts)


def lower_rays(setup: Setup, phis: Any, data: Data) -> list[Lowering]:
    """The programs that look for other modes; the density's values only where there are rays."""
    return lower_separation(setup, phis, data, values=setup.target.dim <= _UP_TO)


def tops_on_rays(
    key: Key[Array, ""],
    target: Target,
    loc: Float[np.ndarray, "dim"],
    scale_tril: Float[np.ndarray, "dim dim"],
    data: Data,
    most: int,
) -> Float[np.ndarray, "some dim"]:
    """Tops of the highest rises on rays from a Gaussian's mean, at most so many, best first.

    Of two modes of one width M sds apart, a ray within 45 degrees of the other's direction comes to
    where the density rises towards it: in one dimension half of all rays, in three a seventh, in
    ten one in 300. A banana makes rises, too: they are places to start from, no more.
    """
    dtype, dim = loc.dtype, loc.size
    num = _FEW if dim <= _FEW_UP_TO else _MANY
    way = generator_of(key).normal(size=(num // 2, dim))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    radii = np.geomspace(_NEAREST, _FARTHEST, _RADII)
    ends = np.concatenate([way, -way]) @ scale_tril.T
    points = loc + ends[:, None] * radii[:, None]
    values = values_of(target, points.reshape(-1, dim).astype(dtype), data).reshape(num, _RADII)
    values = np.where(np.isfinite(values), values, -math.inf)
    top = np.median(values[:, 0])
    before = np.minimum.accumulate(values, axis=1)
    with np.errstate(invalid="ignore"):
        rise = values - before > _RISE
    height = np.where(rise & (values > top - _REACH), values, -math.inf)
    best = height.argmax(axis=1)
    rays = np.arange(num)
    order = np.argsort(-height[rays, best], kind="stable")[:most]
    order = order[np.isfinite(height[order, best[order]])]
    return points[order, best[order]].astype(dtype)
