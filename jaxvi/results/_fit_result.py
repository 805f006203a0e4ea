"""`Fit`, the result of `jaxvi.fit`: every restart, the best q, draws, log and timing."""

import functools
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxvi import _arguments
from jaxvi._engine import History, LaneResult, PoolUse, Setup
from jaxvi._numerics import fold_in, generator_of, pytrees, softmax
from jaxvi._sampling import Approximation, constrain_rows, draw_with_log_weights, draws_each
from jaxvi._status import Status
from jaxvi._types import Data, Phi
from jaxvi.data import in_memory, require_all_rows
from jaxvi.diagnostics import (
    Agreement,
    Drift,
    ImportanceWeights,
    agreement,
    importance_weights,
    pareto_smooth,
)
from jaxvi.results._text import repr_lines
from jaxvi.results._verdict import Errors, Findings, Level, verdict_of

_CLEARLY_HIGHER_MCSE = 4.0  # standard errors by which a bound counts as above the best lane's
# A bound is compared with others if its standard error is at most the larger of these two.
_MAX_BOUND_MCSE_NATS = 1.0
_MAX_BOUND_MCSE_RATIO = 10.0  # times the best lane's standard error


class FitError(RuntimeError):
    """Raised by `Fit.check` and by resampling where no restart has a usable result."""


class StageRecord(NamedTuple):
    """One line of `Fit.log`: a stage of the default call, and the bound before and after it.

    Bounds and their Monte Carlo standard errors are in nats; `bound_before` is NaN for the first
    stage. `khat` is the Pareto k-hat of the stage's q, NaN where it was not estimated. `note` says
    what the stage found or why it was left.
    """

    name: str
    bound_before: float
    bound_before_mcse: float
    bound: float
    bound_mcse: float
    khat: float
    seconds: float
    note: str

    def __str__(self) -> str:
        before = f"{self.bound_before:.2f} +- {self.bound_before_mcse:.2f} -> "
        before = "" if np.isnan(self.bound_before) else before
        bound = f"bound {before}{self.bound:.2f} +- {self.bound_mcse:.2f}, "
        bound = bound if np.isfinite(self.bound) else "no finite bound, "
        khat = "" if np.isnan(self.khat) else f"k-hat {self.khat:.2f}, "
        return f"{self.name:<14} {bound}{khat}{self.seconds:.1f} s: {self.note}"


class CorrectedDraws(NamedTuple):
    """Draws of the posterior that are more accurate than draws of q.

    `z` are unconstrained; `log_weights` are importance weights, None where all weigh the same.
    `by` says what corrected them: "weights" (importance sampling), "chains" (MCMC), or "q" where
    they are q's own.
    """

    z: Float[Array, "draws dim"]
    log_weights: Float[Array, "draws"] | None
    by: str


class Timing(NamedTuple):
    """Wall-clock seconds of a fit: tracing and compiling, optimising, and in total."""

    compile_seconds: float
    run_seconds: float
    total_seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """The result of `jaxvi.fit`: q of every restart (lane), the best one, and draws from it.

    Attributes:
        setup: the target, family, objective, solver and noise of the fit.
        phi: variational parameters of all lanes, lanes leading.
        status: status code of every lane; `jaxvi.Status(code)` has its text and remedy.
        steps: steps that each lane took.
        bounds: bound of every lane in nats, estimated after the run from fresh draws with common
            random numbers.
        bounds_mcse: their Monte Carlo standard errors.
        difference_mcse: standard errors of each lane's bound minus the best lane's.
        best: the lane with the largest bound.
        num_bad_draws: fresh draws of each lane at which the log density was not finite.
        log_weights: log p - log q of the best lane at the fresh draws.
        history: mean bounds of every lane during the run, thinned to bounded length.
        timing: compile, run and total seconds.
        interrupted: whether the run was stopped from outside before its end.
        key: the random key of the fit, from which the noise of every step can be drawn again.
        data: the data of the log density, or the stream of them.
        corrected_draws: draws more accurate than q's, which `sample` then uses; None where q's
            own draws are used.
        approximation: the q that the autopilot ended with; None where it is the best lane's.
        findings: diagnostics of the draws, from which the verdict follows; None where only the
            optimisation was run.
        log: what each stage of the default call did.
        pool: width and idle share of the pool of lanes; None where all restarts ran together.
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
    corrected_draws: CorrectedDraws | None = None
    approximation: Approximation | None = None
    findings: Findings | None = None
    log: tuple[StageRecord, ...] = ()
    pool: PoolUse | None = None

    @property
    def num_restarts(self) -> int:
        """Number of restarts, each a lane of the batch."""
        return len(self.status)

    @property
    def bound(self) -> float:
        """Bound of `q` in nats, estimated from fresh draws."""
        if self.findings is not None:
            return self.findings.bound
        return float(self.bounds[self.best])

    @property
    def bound_mcse(self) -> float:
        """Monte Carlo standard error of `bound`."""
        if self.findings is not None:
            return self.findings.bound_mcse
        return float(self.bounds_mcse[self.best])

    @property
    def agreement(self) -> Agreement:
        """Restarts grouped by bound, without those whose Monte Carlo error is too large.

        Restarts that ended where the log density is not finite are left out too, unless the best
        one did.
        """
        limit = max(_MAX_BOUND_MCSE_NATS, _MAX_BOUND_MCSE_RATIO * self.bounds_mcse[self.best])
        comparable = (self.bounds_mcse <= limit) & ~_broken(self)
        return agreement(np.where(comparable, self.bounds, np.nan), self.difference_mcse)

    @property
    def q(self) -> Approximation:
        """The variational approximation: the default call's last q, or the best restart's."""
        return self.approximation or self._q(self.best)

    def _q(self, lane: int) -> Approximation:
        return Approximation(self.setup.target, self.setup.family, self.lane(lane).phi)

    @property
    def khat(self) -> float:
        """Pareto shape of the tail of q's importance weights; above 0.7 they are unreliable."""
        return self._findings.khat

    @functools.cached_property
    def khats(self) -> Float[np.ndarray, "lanes"]:
        """Pareto k-hat of every lane's q, from fresh draws.

        A single lane gets 8,192 draws, each of 16 lanes 512. `diagnostics.khat_threshold` of that
        number is the limit below which k-hat should lie.
        """
        drawn = draw_with_log_weights(
            fold_in(self.key, 2),
            self.phi,
            require_all_rows(in_memory(self.data, "khats")),
            target=self.setup.target,
            family=self.setup.family,
            num=draws_each(self.num_restarts, self.setup.target.dim),
        )
        return np.asarray(_khats(drawn.log_weights))

    @property
    def verdict(self) -> Level:
        """Whether to trust `sample`: "ok", "caution" or "failed"; see `reasons`."""
        return verdict_of(self._findings).level

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons for the verdict, each with a remedy, the most serious first."""
        return verdict_of(self._findings).reasons

    @functools.cached_property
    def _findings(self) -> Findings:
        """The stored findings; without them, those of the optimisation alone."""
        return self.findings or findings_of(self)

    def lane(self, index: Any) -> LaneResult:
        """Parameters, status, steps and bound of one restart, the best or any other."""
        index = _arguments.integer("lane", index, 0, self.num_restarts - 1)
        phi = jax.tree.map(lambda leaf: pytrees.on_device(np.asarray(leaf)[index]), self.phi)
        return LaneResult(phi, self.status[index], self.steps[index], self.bounds[index])

    def sample(self, key: Array, num: Any, *, lane: Any = None) -> Any:
        """Draws of the posterior: the pytree of constrained parameters, draws leading.

        They come from `q`, or from `corrected_draws` where there are some. Weighted draws are
        resampled with replacement; states of chains too, where more are asked for than there are.

        Args:
            key: a random key, typed (`jax.random.key(1)`) or raw.
            num: number of draws.
            lane: draw from this lane's q.

        Raises:
            TypeError, ValueError: no key, no number of at least 1, no such lane.

        Example:
            >>> fit.sample(jax.random.key(1), 4000)["mu"].mean(0)
        """
        if lane is None and self.corrected_draws is not None:
            return constrain_rows(self.setup.target, self.sample_unconstrained(key, num))
        return (self.q if lane is None else self._q(lane)).sample(key, num)

    def sample_unconstrained(
        self, key: Array, num: Any, *, lane: Any = None
    ) -> Float[Array, "draws dim"]:
        """The same draws as `sample`, as flat unconstrained vectors z."""
        if lane is None and self.corrected_draws is not None:
            return _pick(
                _arguments.typed_key(key), self.corrected_draws, _arguments.integer("num", num)
            )
        return (self.q if lane is None else self._q(lane)).sample_unconstrained(key, num)

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
        return "\n".join(repr_lines(self))


@jax.jit
def _khats(log_weights: Float[Array, "lanes draws"]) -> Float[Array, "lanes"]:
    return jax.vmap(lambda row: pareto_smooth(row, smooth=False).khat)(log_weights)


def _pick(key: Key[Array, ""], corrected: CorrectedDraws, num: int) -> Float[Array, "draws dim"]:
    """Resample corrected draws: by weight with replacement, else without while enough are left."""
    generator = generator_of(key)
    z, share = np.asarray(corrected.z), None
    if corrected.log_weights is not None:
        share = softmax(np.asarray(corrected.log_weights, float))
    replace = share is not None or num > len(z)
    return pytrees.on_device(z[generator.choice(len(z), num, replace=replace, p=share)])


def findings_of(fit: Fit, weighed: ImportanceWeights | None = None) -> Findings:
    """Findings of an optimisation alone, from statuses, restarts and q's importance weights."""
    q, groups = fit.q, fit.agreement
    if weighed is None:
        key = fold_in(fit.key, 1)
        data = require_all_rows(fit.data)
        weighed = importance_weights(
            key, q.target, q.family, q.phi, data, num_batches=fit.num_restarts
        )
    known = fit.approximation is not None and bool(np.isfinite(weighed.bound))
    ran = fit.status != Status.PRUNED  # pruned restarts were stopped before they could agree
    with np.errstate(invalid="ignore", over="ignore"):
        above = fit.bounds - _CLEARLY_HIGHER_MCSE * fit.bounds_mcse > fit.bounds[fit.best]
    return Findings(
        status=Status(int(fit.status[fit.best])),
        bound=weighed.bound if known else float(fit.bounds[fit.best]),
        bound_mcse=weighed.bound_mcse if known else float(fit.bounds_mcse[fit.best]),
        khat=weighed.khat,
        khat_limit=weighed.khat_limit,
        relative_ess=weighed.relative_ess,
        bad_share=weighed.bad_share,
        lanes_at_best=int((ran & (groups.optimum == 0)).sum()),
        lanes=int(ran.sum()),
        broken_above=int((_broken(fit) & above).sum()),
        modes=1,
        rhat=1.0,
        hyperparameters=(),
        errors=errors_of(weighed.drift, "weights") if weighed.ok else None,
        corrected="",
        start_correlation=0.0,
        acceptance=1.0,
        eps=float(np.finfo(weighed.z.dtype).eps),
        interrupted=fit.interrupted,
    )


def _broken(fit: Fit) -> Bool[np.ndarray, "lanes"]:
    """Lanes that ended where the log density is not finite; none if the best lane did so too."""
    not_finite = fit.status == Status.NOT_FINITE
    return not_finite & ~not_finite[fit.best]


def errors_of(drift: Drift, by: str) -> Errors:
    """Lower and upper limits on the errors of draws, from the drift measured from them."""
    lower, upper = drift.at_least(), drift.at_most()
    return Errors((lower[0], upper[0]), (lower[1], upper[1]), by)
