"""What a fit returns."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxvi._loop import Setup
from jaxvi._status import Status
from jaxvi._types import Data, Phi
from jaxvi.diagnostics import Agreement, agreement
from jaxvi.families import HasCovariance, HasGaussianInit, HasMoments
from jaxvi.lanes import LaneResult, WarmStart


class FitError(RuntimeError):
    """A fit whose result should not be used as it stands."""


class History(NamedTuple):
    """Mean bound of every lane over stretches of steps; `step` is the last step of each."""

    step: Int[np.ndarray, "rows"]
    bound: Float[np.ndarray, "rows lanes"]


class Timing(NamedTuple):
    """Seconds on the wall: tracing and compiling; optimising; everything."""

    compile_seconds: float
    run_seconds: float
    total_seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """The outcome of `jaxvi.fit`: every lane's, the best one's, and how to draw from it.

    Attributes:
        setup: target, family, objective, solver and noise that were used.
        phi: variational parameters of all lanes, lanes leading.
        status: status code of every lane; `jaxvi.Status(code)` has its text and remedy.
        steps: steps that each lane took.
        bounds: fresh bound of every lane on common draws, nats.
        bounds_mcse: their Monte Carlo standard errors.
        difference_mcse: standard errors of each lane's bound minus the best lane's.
        best: the lane with the largest bound.
        num_bad_draws: fresh draws of each lane at which the log density was not finite.
        log_weights: log p - log q of the best lane at the fresh draws.
        history: mean bounds of every lane during the run, thinned to bounded length.
        timing: compile, run and total seconds.
        interrupted: whether the run was stopped from outside before its end.
        key: the key that the fit was given; with it, the noise of every step can be had again.
        data: what the log density was given.
    """

    setup: Setup
    phi: Phi
    status: Int[np.ndarray, "lanes"]
    steps: Int[np.ndarray, "lanes"]
    bounds: Float[np.ndarray, "lanes"]
    bounds_mcse: Float[np.ndarray, "lanes"]
    difference_mcse: Float[np.ndarray, "lanes"]
    best: int
    num_bad_draws: Int[np.ndarray, "lanes"]
    log_weights: Float[np.ndarray, "draws"]
    history: History
    timing: Timing
    interrupted: bool
    key: Key[Array, ""]
    data: Data = field(default=None)

    @property
    def num_restarts(self) -> int:
        """Number of lanes."""
        return len(self.status)

    @property
    def bound(self) -> float:
        """The best lane's fresh bound, nats."""
        return float(self.bounds[self.best])

    @property
    def bound_mcse(self) -> float:
        """Monte Carlo standard error of `bound`."""
        return float(self.bounds_mcse[self.best])

    @property
    def agreement(self) -> Agreement:
        """Restarts grouped by the optimum they reached."""
        return agreement(self.bounds, self.difference_mcse)

    def lane(self, index: int) -> LaneResult:
        """One lane's parameters, status, steps and bound; losers are kept."""
        phi = jax.tree.map(lambda leaf: leaf[index], self.phi)
        return LaneResult(phi, self.status[index], self.steps[index], self.bounds[index])

    def sample(self, key: Key[Array, ""], num: int, *, lane: int | None = None) -> Any:
        """Draws from the fitted q: the parameters' pytree, constrained, draws leading.

        Args:
            key: a typed random key.
            num: number of draws.
            lane: which lane's q; the best one's by default.

        Example:
            >>> fit.sample(jax.random.key(1), 4000)["mu"].mean(0)
        """
        phi = self.lane(self.best if lane is None else lane).phi
        return _sample(key, phi, setup=self.setup, num=num)[0]

    def sample_unconstrained(
        self, key: Key[Array, ""], num: int, *, lane: int | None = None
    ) -> Float[Array, "draws dim"]:
        """The same draws as `sample`, as flat unconstrained vectors z."""
        phi = self.lane(self.best if lane is None else lane).phi
        return _sample(key, phi, setup=self.setup, num=num)[1]

    def check(self) -> "Fit":
        """Raise `FitError` unless the best lane converged to a finite bound; else return self."""
        status = Status(int(self.status[self.best]))
        if not np.isfinite(self.bound):
            raise FitError(
                f"No lane has a finite bound: at {self.num_bad_draws[self.best]} of "
                f"{len(self.log_weights)} draws of the best lane the log density is not finite. "
                f"{Status.NOT_FINITE.remedy}"
            )
        if not status.ok:
            raise FitError(f"The best lane ended with status {status.text!r}. {status.remedy}")
        return self

    def __repr__(self) -> str:
        groups = self.agreement
        most = ", ".join(str(count) for count in groups.sizes[:8])
        more = f" and {len(groups.sizes) - 8} more" if len(groups.sizes) > 8 else ""
        lines = [
            f"Fit of {self.setup.family!r}, dimension {self.setup.target.dim}, "
            f"{self.num_restarts} restarts" + (" (interrupted)" if self.interrupted else ""),
            f"  bound     {self.bound:.3f} +- {self.bound_mcse:.3f} nats (lane {self.best})",
            f"  optima    {len(groups.sizes)} distinct, restarts in each: {most}{more}",
            *self._status_lines(),
            f"  steps     {int(self.steps.max()):,} at most, {self.timing.run_seconds:.2f} s "
            f"running, {self.timing.compile_seconds:.2f} s compiling",
        ]
        return "\n".join(lines)

    def _status_lines(self) -> list[str]:
        lines = []
        for code, count in zip(*np.unique(self.status, return_counts=True), strict=True):
            status = Status(int(code))
            advice = "" if status.ok else f": {status.remedy}"
            lines.append(f"  {count:>4} x {status.text}{advice}")
        bad = int(self.num_bad_draws[self.best])
        if bad:
            lines.append(
                f"  warning   the log density is not finite at {bad} of {len(self.log_weights)} "
                "fresh draws of the best lane"
            )
        return lines


@partial(jax.jit, static_argnames=("setup", "num"))
def _sample(
    key: Key[Array, ""], phi: Phi, *, setup: Setup, num: int
) -> tuple[Any, Float[Array, "draws dim"]]:
    dim = setup.target.dim
    noise = setup.family.draw_noise(key, num, dim, jax.tree.leaves(phi)[0].dtype)
    z = jax.vmap(setup.family.transform, (None, 0))(phi, noise)
    return jax.vmap(setup.target.constrain)(z), z


def warm_start(fit: Fit, setup: Setup, dtype: Any) -> WarmStart:
    """The best lane of `fit` as a start for another setup of the same dimension.

    Raises:
        ValueError: another dimension, or moments that are not finite.
        TypeError: families that differ and can't be carried over.
    """
    if fit.setup.target.dim != setup.target.dim:
        raise ValueError(
            f"start: expected a fit of dimension {setup.target.dim} like the target's; got one of "
            f"dimension {fit.setup.target.dim}."
        )
    source, family = fit.setup.family, setup.family
    phi = jax.tree.map(lambda leaf: leaf.astype(dtype), fit.lane(fit.best).phi)
    if source == family:
        draws = fit.sample_unconstrained(jax.random.key(0), 64).astype(dtype)
        return WarmStart(jnp.median(draws, axis=0), phi, None)
    if not isinstance(family, HasGaussianInit):
        raise TypeError(
            "start: expected a family with an init_gaussian method, to start from a fit of another "
            f"one; got {family!r}; try a pytree of parameters as start."
        )
    if not (isinstance(source, HasMoments) and isinstance(source, HasCovariance)):
        raise TypeError(
            "start: expected a fit of a family with moments and covariance, such as "
            f"jaxvi.FullRank(), or of {family!r} itself; got one of {source!r}."
        )
    scale_tril = jnp.linalg.cholesky(source.covariance(phi))
    if not bool(jnp.isfinite(scale_tril).all()):
        raise ValueError(
            "start: expected a fit with a finite, positive definite covariance; got one of "
            f"{source!r} without."
        )
    return WarmStart(source.moments(phi).mean, None, scale_tril)
