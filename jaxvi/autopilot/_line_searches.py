"""Stage `line_searches`: searches for other modes along lines from the mode that was found.

It applies if restarts of a Gaussian in few dimensions have ended. If all are at one mode and the
log density rises again on a line from the mean, restarts begin there. It sets these restarts, and
which of all lanes are at separate modes.
"""

import contextlib
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._compilation import Lowering
from jaxvi._engine import Setup
from jaxvi._fitting import NoStart, Unconstrained
from jaxvi._numerics import generator_of
from jaxvi._sampling import values_of
from jaxvi._types import Data
from jaxvi.autopilot._base import Context, Stage, State, best_status
from jaxvi.autopilot._gaussian import gaussian_restarts
from jaxvi.autopilot._separation import lower_separation, separate_lanes
from jaxvi.families import FullRank, scale_tril_on_host
from jaxvi.results import Fit
from jaxvi.target import Target

_LOW_MAX_DIM, _NUM_LINES_IN_LOW_DIM, _NUM_LINES_IN_HIGH_DIM = 5, 256, 512
_NEAREST_SD, _FARTHEST_SD, _NUM_RADII = 1.5, 100.0, 16  # of points on a line, by q's sds
_MIN_RISE_NATS, _MAX_DEPTH_NATS = 1.0, 80.0  # a rise to be seen, and how far down it may begin
_MIN_BETTER_NATS = 0.5  # by which new restarts replace the old ones


@dataclass(frozen=True)
class LineSearches(Stage):
    """Restarts from where the log density rises again on lines from the mode.

    Args:
        max_dim: largest dimension; in more dimensions, too few lines pass near a mode.
        min_restarts: fewest restarts of the request with which other modes are looked for.
        chains_follow: as for `Gaussian`.
    """

    name: ClassVar[str] = "line_searches"

    max_dim: int = 12
    min_restarts: int = 4
    chains_follow: bool = True

    def applies(self, state: State) -> bool:
        """Whether Gaussian restarts in few dimensions have ended and modes are not known yet."""
        if not state.usable or state.interrupted or state.modes or state.q is not None:
            return False
        fit = state.fit
        few = fit.num_restarts < self.min_restarts
        return not few and self._reaches(fit.setup)

    def _reaches(self, setup: Setup) -> bool:
        return setup.target.dim <= self.max_dim and isinstance(setup.family, FullRank)

    def programs(self, setup: Setup, phis: Any, data: Data) -> list[Lowering]:
        """Programs that compare lanes and, if lines are searched, evaluate the log density."""
        return lower_separation(setup, phis, data, values=self._reaches(setup))

    def run(self, context: Context, state: State) -> State:
        """Search along lines, and run restarts from where the density rises again."""
        modes = separate_lanes(state.fits, context.target, context.data)
        state = replace(state, modes=tuple(modes))
        if len(modes) > 1 or context.request.start is not None:
            return state
        key_lines, key_restarts = jax.random.split(context.key(self.name))
        places = _places(key_lines, state.fit)
        other = self._restarts(context, state, places, key_restarts) if len(places) else None
        if other is None:
            return state
        state = replace(state, interrupted=state.interrupted or other.interrupted)
        context.record(self.name, other, _note(places, other), before=state.fit)
        if not (best_status(other).ok and math.isfinite(other.bound)):
            return state
        fits = (*state.fits, other)
        better = other.bound > state.fit.bound + _MIN_BETTER_NATS
        modes = separate_lanes(fits, context.target, context.data)
        restarts = other if better else state.restarts
        return replace(state, fits=fits, restarts=restarts, modes=tuple(modes))

    def _restarts(
        self,
        context: Context,
        state: State,
        places: Float[np.ndarray, "some dim"],
        key: Key[Array, ""],
    ) -> Fit | None:
        """Run restarts from these points; None if the density or gradient is not finite at any."""
        num, dim = state.fit.num_restarts, context.target.dim
        start = Unconstrained(jnp.asarray(np.resize(places, (num, dim))))
        request = replace(context.request, key=key, start=start, start_scale=1.0)
        with contextlib.suppress(NoStart):
            return gaussian_restarts(context, request, self.chains_follow)
        return None


def _note(places: Float[np.ndarray, "some dim"], fit: Fit) -> str:
    return f"{len(places)} lines rise again; {best_status(fit).text}"


def _places(key: Key[Array, ""], fit: Fit) -> Float[np.ndarray, "some dim"]:
    """Points on lines from the mean where the density rises again, at most one a restart."""
    phi = fit.lane(fit.best).phi
    factor, loc = scale_tril_on_host(phi.log_diag, phi.lower), np.asarray(phi.loc)
    return peaks_on_lines(key, fit.setup.target, loc, factor, fit.data, fit.num_restarts)


def peaks_on_lines(
    key: Key[Array, ""],
    target: Target,
    loc: Float[np.ndarray, "dim"],
    scale_tril: Float[np.ndarray, "dim dim"],
    data: Data,
    max_places: int,
) -> Float[np.ndarray, "some dim"]:
    """Highest points of rises on lines from a Gaussian's mean, best first, at most `max_places`.

    Of two modes of one width M sds apart, a line within 45 degrees of the other's direction meets
    a rise of the density towards it: in one dimension half of all lines, in three a seventh,
    in ten one in 300. A banana-shaped density makes rises, too: they are starts, not modes.
    """
    dtype, dim = loc.dtype, loc.size
    num = _NUM_LINES_IN_LOW_DIM if dim <= _LOW_MAX_DIM else _NUM_LINES_IN_HIGH_DIM
    directions = generator_of(key).normal(size=(num // 2, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radii = np.geomspace(_NEAREST_SD, _FARTHEST_SD, _NUM_RADII)
    ends = np.concatenate([directions, -directions]) @ scale_tril.T
    points = loc + ends[:, None] * radii[:, None]
    values = values_of(target, points.reshape(-1, dim).astype(dtype), data).reshape(num, _NUM_RADII)
    values = np.where(np.isfinite(values), values, -math.inf)
    top = np.median(values[:, 0])
    before = np.minimum.accumulate(values, axis=1)
    with np.errstate(invalid="ignore"):
        rise = values - before > _MIN_RISE_NATS
    height = np.where(rise & (values > top - _MAX_DEPTH_NATS), values, -math.inf)
    best = height.argmax(axis=1)
    lines = np.arange(num)
    order = np.argsort(-height[lines, best], kind="stable")[:max_places]
    order = order[np.isfinite(height[order, best[order]])]
    return points[order, best[order]].astype(dtype)
