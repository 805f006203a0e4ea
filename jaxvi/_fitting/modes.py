"""Search for modes of a log density: climb from many starts, group the ends, `find_modes`."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvi._arguments import integer
from jaxvi._fitting.request import Request, RunOptions
from jaxvi._fitting.restarts import fit_restarts
from jaxvi._fitting.validation import checked
from jaxvi._numerics import LOG_2PI
from jaxvi._status import Status
from jaxvi._types import Data
from jaxvi.families import FullRank, FullRankParams
from jaxvi.solvers import Laplace
from jaxvi.target import Target, log_probs

_MAX_MODE_DISTANCE_SD = 0.1  # between ends at one mode, by the curvature there
_MAX_LOG_PROB_GAP_NATS = 0.01  # between ends at one mode
_MAX_MODES_SHOWN = 8


@dataclass(frozen=True, eq=False, repr=False)
class Modes:
    """Distinct maxima of the log density, the highest first; what `find_modes` returns.

    Attributes:
        z: the modes, unconstrained.
        params: the same constrained, a pytree like the target's supports, modes leading.
        log_prob: log density of z, Jacobian included.
        log_mass: Laplace's estimate of the log evidence that belongs to each.
        scale_tril: Cholesky factor of the inverse of minus the Hessian of each.
        num_reached: starts that ended at each.
        status: status code of every start.
        mode_of_start: the mode that each start ended at, -1 where none.
    """

    z: Float[Array, "modes dim"]
    params: Any
    log_prob: Float[Array, "modes"]
    log_mass: Float[Array, "modes"]
    scale_tril: Float[Array, "modes dim dim"]
    num_reached: Int[np.ndarray, "modes"]
    status: Int[np.ndarray, "starts"]
    mode_of_start: Int[np.ndarray, "starts"]

    def __len__(self) -> int:
        return len(self.num_reached)

    def __repr__(self) -> str:
        num, dim = self.z.shape
        lines = [
            f"Modes in dimension {dim}: {num} distinct, from {len(self.status)} starts",
            f"  {'mode':>4} {'log density':>14} {'log mass':>14} {'starts':>8}",
        ]
        for i in range(min(num, _MAX_MODES_SHOWN)):
            numbers = f"{self.log_prob[i]:>14.3f} {self.log_mass[i]:>14.3f}"
            lines.append(f"  {i:>4} {numbers} {self.num_reached[i]:>8}")
        if num > _MAX_MODES_SHOWN:
            lines.append(f"  and {num - _MAX_MODES_SHOWN} more")
        for code, count in zip(*np.unique(self.status, return_counts=True), strict=True):
            status = Status(int(code))
            advice = "" if status.ok else f": {status.remedy}"
            lines.append(f"  {count:>4} x {status.text}{advice}")
        return "\n".join(lines)


def find_modes(
    key: Array,
    target: Target,
    *,
    data: Data = None,
    num_starts: int = 64,
    start: Any = None,
    start_scale: float = 2.0,
    max_steps: int = 5_000,
    tolerance: float | None = None,
) -> Modes:
    """Climb from many starts and return the distinct modes of the log density.

    A `fit` with the `Laplace` solver, a lane a start; ends within 0.1 standard deviations of each
    other by the curvature there, with log densities that agree, are one mode. Modes are those of
    the unconstrained density, Jacobian included: their places depend on the supports' transforms,
    the Laplace masses hardly. A mode that no start climbs to is not found, and
    where starts end otherwise (an improper posterior, a flat direction) `status` says how.

    Args:
        key: a random key, typed or raw.
        target: the log density with its supports.
        data: handed to the log density.
        num_starts: number of starts, all in one compiled batch.
        start: parameters around which the starts scatter, constrained, the first being there
            exactly; with a leading axis of `num_starts`, every start its own. None draws them
            around the origin, or from the target's own start.
        start_scale: standard deviation of drawn starts, in unconstrained units; wide, so that
            modes far out are seen.
        max_steps: evaluations of the gradient a start, at most.
        tolerance: of the Newton decrement, as `Laplace` takes it.

    Returns:
        The modes; none where no start found one, which raises nothing.

    Raises:
        TypeError, ValueError: an argument that can't be used, or a log density that is not
            finite at any start.

    Example:
        >>> modes = find_modes(key, target, data=X, num_starts=8)
        >>> modes.log_prob.shape == modes.num_reached.shape
        True
    """
    integer("num_starts", num_starts)
    request = Request(
        key,
        target,
        family=FullRank(),
        solver=Laplace(tolerance=tolerance),
        data=data,
        num_restarts=num_starts,
        start=start,
        start_scale=start_scale,
        max_steps=max_steps,
        num_eval_draws=2,
    )
    found = fit_restarts(checked(request), RunOptions(progress=False))
    ends = _describe(found.phi, found.data, target=target)
    log_prob = np.asarray(ends.log_prob)
    usable = (found.status == Status.CONVERGED) & np.isfinite(log_prob)
    leaders, mode_of_start = _group(np.asarray(ends.z), log_prob, ends.scale_tril, usable)
    z, log_prob, log_mass, scale_tril, params = jax.tree.map(lambda leaf: leaf[leaders], ends)
    reached = np.bincount(mode_of_start[mode_of_start >= 0], minlength=len(leaders))
    return Modes(
        z, params, log_prob, log_mass, scale_tril, reached, np.array(found.status), mode_of_start
    )


class _Ends(NamedTuple):
    """The ends of all climbs: points, log densities, Laplace masses and covariance factors."""

    z: Float[Array, "starts dim"]
    log_prob: Float[Array, "starts"]
    log_mass: Float[Array, "starts"]
    scale_tril: Float[Array, "starts dim dim"]
    params: Any


@partial(jax.jit, static_argnames="target")
def _describe(phi: FullRankParams, data: Data, *, target: Target) -> _Ends:
    log_prob = log_probs(target, phi.loc, data)
    return _Ends(
        z=phi.loc,
        log_prob=log_prob,
        log_mass=log_prob + phi.log_diag.sum(axis=-1) + 0.5 * target.dim * LOG_2PI,
        scale_tril=jax.vmap(FullRank().scale_tril)(phi),
        params=jax.vmap(target.constrain)(phi.loc),
    )


def _group(
    z: Float[np.ndarray, "starts dim"],
    log_prob: Float[np.ndarray, "starts"],
    scale_tril: Float[Array, "starts dim dim"],
    usable: np.ndarray,
) -> tuple[Int[np.ndarray, "modes"], Int[np.ndarray, "starts"]]:
    """Group ends into modes: the highest end of each mode, best first, and each start's mode."""
    mode_of_start = np.full(len(z), -1)
    leaders: list[int] = []
    eps = float(np.finfo(log_prob.dtype).eps)
    for i in np.argsort(-np.where(usable, log_prob, -np.inf), kind="stable"):
        if not usable[i] or mode_of_start[i] >= 0:
            continue
        white = np.linalg.solve(np.asarray(scale_tril[i]), (z - z[i][None]).T)
        near = (white**2).sum(axis=0) < _MAX_MODE_DISTANCE_SD**2
        near &= np.abs(log_prob - log_prob[i]) < _MAX_LOG_PROB_GAP_NATS + 100.0 * eps * abs(
            log_prob[i]
        )
        near[i] = True
        mode_of_start[near & usable & (mode_of_start < 0)] = len(leaders)
        leaders.append(int(i))
    return np.asarray(leaders, int), mode_of_start
