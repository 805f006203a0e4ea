"""What a fit returns."""

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
from jaxvi.results._verdict import Errors, Findings, Level, judge

_CLEARLY = 4.0  # standard errors
_TOLD, _WORSE = 1.0, 10.0  # standard errors of bounds: nats, and times the best lane's


class FitError(RuntimeError):
    """A fit whose result should not be used as it stands."""


class Stage(NamedTuple):
    """A line of the log: what was tried, what the bound was before and after, what came of it."""

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
        return f"{self.name:<10} {bound}{khat}{self.seconds:.1f} s: {self.note}"


class CorrectedDraws(NamedTuple):
    """Draws that are better than q's: unconstrained, with log weights where they have some.

    `by` says what they were corrected by: "weights", "chains", or "q" where they are q's own.
    """

    z: Float[Array, "draws dim"]
    log_weights: Float[Array, "draws"] | None
    by: str


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
        data: what the log density was given, or the stream of it.
        corrected_draws: draws that are better than q's, which `sample` then takes; None where q's
            serve.
        approximation: the q that the autopilot ended with; None where it is the best lane's.
        findings: what was seen of the fit, from which its verdict follows; None where nothing
            but its own run was.
        log: stages of the autopilot.
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
    log: tuple[Stage, ...] = ()
    pool: PoolUse | None = None

    @property
    def num_restarts(self) -> int:
        """Number of lanes."""
        return len(self.status)

    @property
    def bound(self) -> float:
        """The bound of `q` on fresh draws, nats."""
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
        """Restarts grouped by the optimum they reached; without those whose bound is untold, or
        that ended where nothing is finite and the best one did not."""
        reach = max(_TOLD, _WORSE * self.bounds_mcse[self.best])
        told = (self.bounds_mcse <= reach) & ~_broken(self)
        return agreement(np.where(told, self.bounds, np.nan), self.difference_mcse)

    @property
    def q(self) -> Approximation:
        """What variational inference alone gave: the autopilot's last q, or the best lane's."""
        return self.approximation or self._q(self.best)

    def _q(self, lane: int) -> Approximation:
        return Approximation(self.setup.target, self.setup.family, self.lane(lane).phi)

    @property
    def khat(self) -> float:
        """Shape of the tail of the best lane's importance weights; above 0.7 they say nothing."""
        return self._findings.khat

    @functools.cached_property
    def khats(self) -> Float[np.ndarray, "lanes"]:
        """k-hat of every lane's q, batched, of fresh draws: 512 each of 16 lanes, 8,192 of one.

        `diagnostics.khat_threshold` of so many is the limit.
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
        return judge(self._findings).level

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is what it is, and what to do, the gravest first."""
        return judge(self._findings).reasons

    @functools.cached_property
    def _findings(self) -> Findings:
        """What was seen; else what the run itself shows."""
        return self.findings or findings_of(self)

    def lane(self, index: Any) -> LaneResult:
        """One lane's parameters, status, steps and bound; losers are kept."""
        index = _arguments.whole("lane", index, 0, self.num_restarts - 1)
        phi = jax.tree.map(lambda leaf: pytrees.on_device(np.asarray(leaf)[index]), self.phi)
        return LaneResult(phi, self.status[index], self.steps[index], self.bounds[index])

    def sample(self, key: Array, num: Any, *, lane: Any = None) -> Any:
        """The best draws there are: the parameters' pytree, constrained, draws leading.

        Those of the best lane's q; where the autopilot found them wanting, of its
        `corrected_draws`: of weighted draws or states of chains, with replacement where more are
        wanted than it has.

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
                _arguments.typed_key(key), self.corrected_draws, _arguments.whole("num", num)
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
        groups = self.agreement
        most = ", ".join(str(count) for count in groups.sizes[:8])
        more = f" and {len(groups.sizes) - 8} more" if len(groups.sizes) > 8 else ""
        lines = [
            f"Fit of {self.setup.family!r}, dimension {self.setup.target.dim}, "
            f"{self.num_restarts} restarts" + (" (interrupted)" if self.interrupted else ""),
            self._bound_line(),
            f"  optima    {len(groups.sizes)} distinct, restarts in each: {most}{more}",
            *self._status_lines(),
            *self._verdict_lines(),
            f"  steps     {int(self.steps.max()):,} at most, {self.timing.run_seconds:.2f} s "
            f"running, {self.timing.compile_seconds:.2f} s compiling",
            *self._pool_lines(),
            *(f"  {stage}" for stage in self.log),
        ]
        return "\n".join(lines)

    def _bound_line(self) -> str:
        if not np.isfinite(self.bound):
            return f"  bound     not finite in any lane (lane {self.best} has the fewest bad draws)"
        return f"  bound     {self.bound:.3f} +- {self.bound_mcse:.3f} nats (lane {self.best})"

    def _verdict_lines(self) -> list[str]:
        """Of the autopilot's fits; of others it costs a program, and is had on asking."""
        if self.findings is None:
            return []
        first, *others = self.reasons
        return [f"  verdict   {self.verdict}: {first}", *(f"            {o}" for o in others)]

    def _pool_lines(self) -> list[str]:
        if self.pool is None:
            return []
        idle = f"{100 * self.pool.idle_share:.1f} % of their steps idle"
        return [f"  pool      {self.pool.width} lanes, {self.pool.cohorts} cohorts, {idle}"]

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


@jax.jit
def _khats(log_weights: Float[Array, "lanes draws"]) -> Float[Array, "lanes"]:
    return jax.vmap(lambda row: pareto_smooth(row, smooth=False).khat)(log_weights)


def _pick(key: Key[Array, ""], corrected: CorrectedDraws, num: int) -> Float[Array, "draws dim"]:
    """Some corrected draws: by weight with replacement, else all different while they last."""
    generator = generator_of(key)
    z, share = np.asarray(corrected.z), None
    if corrected.log_weights is not None:
        share = softmax(np.asarray(corrected.log_weights, float))
    replace = share is not None or num > len(z)
    return pytrees.on_device(z[generator.choice(len(z), num, replace=replace, p=share)])


def findings_of(fit: Fit, weighed: ImportanceWeights | None = None) -> Findings:
    """What a run shows by itself: its statuses, its restarts, and the importance weights of q."""
    q, groups = fit.q, fit.agreement
    if weighed is None:
        key = fold_in(fit.key, 1)
        data = require_all_rows(fit.data)
        weighed = importance_weights(
            key, q.target, q.family, q.phi, data, num_batches=fit.num_restarts
        )
    known = fit.approximation is not None and bool(np.isfinite(weighed.bound))
    ran = fit.status != Status.PRUNED  # the others were never let to agree
    with np.errstate(invalid="ignore", over="ignore"):
        above = fit.bounds - _CLEARLY * fit.bounds_mcse > fit.bounds[fit.best]
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
    """Lanes that ended where nothing is finite, where the best one did not."""
    lost = fit.status == Status.NOT_FINITE
    return lost & ~lost[fit.best]


def errors_of(drift: Drift, by: str) -> Errors:
    """What a drift says of the errors of the draws that it is measured from."""
    least, most = drift.at_least(), drift.at_most()
    return Errors((least[0], most[0]), (least[1], most[1]), by)
