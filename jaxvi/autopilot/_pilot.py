"""What the default call does: stages, each of public parts, each with a line in the log."""

import contextlib
import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxvi._compilation import compile_clock, one_thread
from jaxvi._engine import Reporter
from jaxvi._fitting import NoStart, Unconstrained, fit_restarts
from jaxvi._numerics import fold_in, on_device
from jaxvi._persistence import Batch, Checkpoints
from jaxvi._sampling import Approximation, has_heavy_tailed_draws, noncentered
from jaxvi._status import Status
from jaxvi._types import Data
from jaxvi.autopilot._chains import polish
from jaxvi.autopilot._flow import LOST, flow_fit, noncentered_fit
from jaxvi.autopilot._line_searches import lower_rays, places_beyond
from jaxvi.autopilot._modes import lanes_within, moments_rhat, of_lanes, separate_lanes
from jaxvi.autopilot._nested_laplace import approximation_of, given_hyperparameters
from jaxvi.autopilot._weights import Told, by_nested_weights, by_weights, can_tell, weighted
from jaxvi.diagnostics import (
    MAX_NEGLIGIBLE_DRIFT_SD,
    MIN_RELATIVE_ESS,
    UNIFORM_RELATIVE_ESS,
    ImportanceWeights,
    ShortChains,
    describe_drift,
    drift_from,
    importance_weights,
    is_still,
    largest_start_correlation,
    short_chains,
)
from jaxvi.families import FullRank, Mixture, Transformed
from jaxvi.hierarchical import Nested, find_noncentering, hyperparameter_names, nested_short_chains
from jaxvi.results import CorrectedDraws, Fit, Stage, Timing, errors_of, findings_of
from jaxvi.solvers import NaturalGradient
from jaxvi.target import Target

_FLOW_UP_TO = 30  # dimensions
_BETTER_BELOW = {"quick": 0.0, "normal": 0.55, "thorough": 0.98}  # relative effective sample size
_EXACT = 0.99  # likewise: of a q that has no tails to look for
_GOOD = 0.95  # of a flow that needs no further cycle
_FLOW_CYCLES = {"quick": 0, "normal": 4, "thorough": 8}
GAUSSIAN_STEPS = 3_000
_TIGHT_UP_TO, _WIDE = 50, 0.1  # dimensions; sds of q, where weights can't tell more anyway
_PATIENCE = 4.0  # with lanes that take longer than half of them did, in as many times their steps
_CLEARLY_BETTER = 0.5  # nats
_OF_FUNNELS = 3  # rounds of chains in a funnel at least: it is left and entered slowly
_CHAINS = {"quick": 250, "normal": 500, "thorough": 1_000}
_ROUNDS = {"quick": 2, "normal": 4, "thorough": 7}
EFFORTS = tuple(_CHAINS)
_NO_FUNNEL = 2.0  # nats by which a Gaussian in non-centred coordinates is worse
_UNCLEAR = 2.0  # standard errors of a drift at which chains had better go on


@dataclass
class Pilot:
    """One call of the autopilot: what it was asked for, the clock, and the log."""

    key: Key[Array, ""]
    target: Target
    data: Data
    effort: str
    polish: bool | str
    max_seconds: float | None
    progress: bool | Reporter | None
    checkpoints: Checkpoints | None = None
    began: float = field(default_factory=time.perf_counter)
    log: list[Stage] = field(default_factory=list)
    hyperparameters: tuple[str, ...] = ()
    nested: Nested | None = None

    def left(self) -> float:
        """Seconds of the budget that are left."""
        if self.max_seconds is None:
            return math.inf
        return self.max_seconds - (time.perf_counter() - self.began)

    def _in_time(self) -> bool:
        return self.left() > 0.0

    @one_thread()
    def fly(self, run: dict[str, Any]) -> Fit:
        """All stages, as far as they are asked for."""
        with compile_clock() as compiling:
            fit = self._gaussians(self.key, run)
            self._note("gaussian", None, fit, of_lanes(fit))
            usable = Status(int(fit.status[fit.best])) not in LOST
            if not (usable and math.isfinite(fit.bound)):
                fit = dataclasses.replace(fit, findings=findings_of(fit))
            elif not fit.interrupted:
                fit, modes = self._gather(fit, run)
                weighed = self._weigh(fit)
                told = self._told(fit, weighed, modes)
                if modes == 1 and (told is None or self.effort == "thorough"):
                    before, (fit, weighed) = fit, self._improve(fit, weighed)
                    if fit is not before or self.hyperparameters:
                        told = self._told(fit, weighed, modes)
                fit = self._settle(fit, weighed, modes, told)
        seconds = time.perf_counter() - self.began
        timing = Timing(compiling.seconds, max(seconds - compiling.seconds, 0.0), seconds)
        return dataclasses.replace(fit, timing=timing, log=tuple(self.log), key=self.key)

    def _gaussians(self, key: Key[Array, ""], run: dict[str, Any]) -> Fit:
        """Restarts of a Gaussian."""
        return fit_restarts(
            key,
            self.target,
            solver=self._solver(),
            max_seconds=self._budget(),
            patience=_PATIENCE,
            stop_when_sharp=True,
            compile_also=lower_rays,
            progress=self.progress,
            checkpoint=self._batch(),
            **run,
        )

    def _solver(self) -> NaturalGradient:
        """Where chains are to follow anyway, they mend what a wider tolerance leaves."""
        chains_follow = self.target.dim > _TIGHT_UP_TO and self.polish is not False
        return NaturalGradient(tolerance=_WIDE) if chains_follow else NaturalGradient()

    def _batch(self) -> Batch | None:
        """Where the lanes of the next fit are kept."""
        return None if self.checkpoints is None else self.checkpoints.batch()

    def _note(
        self,
        name: str,
        before: Fit | None,
        of: Fit | ImportanceWeights,
        note: str,
        khat: float = math.nan,
    ) -> None:
        """A line of the log; after what was interrupted nothing new begins."""
        if isinstance(of, Fit) and of.interrupted:
            self.max_seconds = 0.0
        took = time.perf_counter() - self.began - sum(stage.seconds for stage in self.log)
        was = (math.nan, math.nan) if before is None else (before.bound, before.bound_mcse)
        self.log.append(Stage(name, *was, of.bound, of.bound_mcse, khat, took, note))

    def _gather(self, fit: Fit, run: dict[str, Any]) -> tuple[Fit, int]:
        """A mixture of the lanes at separate modes of comparable mass, where there are some."""
        fits = [fit]
        lanes = separate_lanes(fits, self.target, self.data)
        if len(lanes) == 1:
            fits += self._look_beyond(fit, run)
            lanes = separate_lanes(fits, self.target, self.data) if len(fits) > 1 else lanes
        if fits[-1].bound > fit.bound + _CLEARLY_BETTER:
            fit = fits[-1]
        if len(lanes) == 1:
            return fit, 1
        found = [(fits[i].lane(lane).phi, fits[i].bounds[lane]) for i, lane in lanes]
        phis = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(phi for phi, _ in found))
        bounds = jnp.asarray([bound for _, bound in found])
        mixture, phi = Mixture.of(fit.setup.family, phis, bounds)
        joined = dataclasses.replace(fit, approximation=Approximation(self.target, mixture, phi))
        shares = np.asarray(jax.nn.softmax(bounds))
        self._note(
            "modes",
            fit,
            fit,
            f"{len(lanes)} separate, of shares " + ", ".join(f"{share:.2f}" for share in shares),
        )
        return joined, len(lanes)

    def _look_beyond(self, fit: Fit, run: dict[str, Any]) -> list[Fit]:
        """Restarts from where the density rises again on rays from the mode, if it does."""
        key = fold_in(self.key, 7)
        if run["start"] is not None or self.left() <= 0.0:
            return []
        places = places_beyond(key, fit)
        if not len(places):
            return []
        start = Unconstrained(jnp.asarray(np.resize(places, (fit.num_restarts, self.target.dim))))
        with contextlib.suppress(NoStart):
            other = self._gaussians(key, run | {"start": start, "start_scale": 1.0})
            status = Status(int(other.status[other.best]))
            self._note("rays", fit, other, f"{len(places)} rise again; {status.text}")
            return [other] if status.ok and math.isfinite(other.bound) else []
        return []

    def _weigh(self, fit: Fit) -> ImportanceWeights:
        key, q = fold_in(self.key, 1), fit.q
        weighed = importance_weights(
            key, self.target, q.family, q.phi, self.data, num_batches=fit.num_restarts
        )
        note = f"relative effective sample size {100.0 * weighed.relative_ess:.1f} %"
        if weighed.bad_share:
            note += f", not finite at {100.0 * weighed.bad_share:.2g} % of draws"
        self._note("weights", None, weighed, note, weighed.khat)
        return weighed

    def _improve(self, gauss: Fit, weighed: ImportanceWeights) -> tuple[Fit, ImportanceWeights]:
        """A Gaussian given a few hyperparameters, one in non-centred coordinates, or a flow."""
        fit, start = gauss, gauss
        if self._is_poor(weighed) and isinstance(gauss.setup.family, FullRank):
            better = self._given_hyperparameters(gauss)
            if better is not None:
                return better
            inner = self._noncentered(gauss)
            if inner is not None:
                funnel = inner.bound >= gauss.bound - _NO_FUNNEL
                if funnel:
                    start = inner
                else:
                    self.hyperparameters = ()
                fit, weighed = self._better(inner, "noncenter", gauss, (fit, weighed), funnel)
        if self.target.dim <= _FLOW_UP_TO and self._is_poor(weighed):
            fit, weighed = self._flow(start, (fit, weighed))
        return fit, weighed

    def _given_hyperparameters(self, gauss: Fit) -> tuple[Fit, ImportanceWeights] | None:
        """The nested Laplace approximation, where few coordinates set scales and it serves."""
        least = gauss.bound - _NO_FUNNEL
        tried = given_hyperparameters(self.key, gauss, self.data, least, _FLOW_UP_TO, self._in_time)
        if tried is None:
            return None
        nested = tried.nested
        if nested is None:
            self._note("nested", None, gauss, tried.note)
            return None
        self._note("nested", gauss, nested.weighed, tried.note, nested.weighed.khat)
        if not tried.taken:
            return None
        self.nested = nested
        q = approximation_of(gauss, nested)
        return dataclasses.replace(gauss, approximation=q), nested.weighed

    def _is_poor(self, weighed: ImportanceWeights) -> bool:
        """Something better is called for, and there is time for it."""
        return weighed.relative_ess < _BETTER_BELOW[self.effort] and self._in_time()

    def _better(
        self,
        new: Fit,
        name: str,
        start: Fit,
        old: tuple[Fit, ImportanceWeights],
        taken: bool = False,
    ) -> tuple[Fit, ImportanceWeights]:
        """The new q where its weights are more even or it is `taken` anyway, else the old one."""
        q = new.q if new.q.target is self.target else noncentered(new.q, self.target, new.data[0])
        key = fold_in(self.key, 1)
        weighed = importance_weights(key, self.target, q.family, q.phi, self.data)
        # efficiencies of next to nothing are noise; the bound tells these apart
        no_worse = new.bound >= start.bound - _NO_FUNNEL
        better = taken or (no_worse and weighed.relative_ess > old[1].relative_ess)
        left = "" if better else "; left"
        note = f"relative effective sample size {100.0 * weighed.relative_ess:.1f} %{left}"
        self._note(name, start, new, note, weighed.khat)
        return (dataclasses.replace(old[0], approximation=q), weighed) if better else old

    def _noncentered(self, gauss: Fit) -> Fit | None:
        """A Gaussian where the scales are taken out that coordinates set for others, if any do."""
        phi = gauss.lane(gauss.best).phi
        params = find_noncentering(fold_in(self.key, 2), self.target, phi, self.data)
        if params is None:
            self._note("scales", None, gauss, "no coordinate sets those of others")
            return None
        self.hyperparameters = hyperparameter_names(self.target, params)
        dependents = int(np.asarray(params.rates).any(axis=1).sum())
        note = f"{', '.join(self.hyperparameters[:3])} set those of {dependents} coordinates"
        self._note("scales", None, gauss, note)
        return noncentered_fit(
            fold_in(self.key, 3),
            gauss,
            params,
            self._solver(),
            max_steps=GAUSSIAN_STEPS,
            **self._rest(),
        )

    def _rest(self) -> dict[str, Any]:
        """What fits from a fit are given besides."""
        return {
            "max_seconds": self._budget(),
            "progress": self.progress,
            "checkpoint": self._batch(),
        }

    def _budget(self) -> float | None:
        return None if math.isinf(self.left()) else max(self.left(), 1e-3)

    def _flow(
        self, gauss: Fit, old: tuple[Fit, ImportanceWeights]
    ) -> tuple[Fit, ImportanceWeights]:
        """A coupling flow from a Gaussian, in cycles of falling rates, where it is better."""
        start = gauss
        for cycle in range(_FLOW_CYCLES[self.effort]):
            flow = flow_fit(fold_in(self.key, 10 + cycle), gauss, start, **self._rest())
            old = self._better(flow, "flow", start, old)
            if old[1].relative_ess >= _GOOD or not self._in_time() or not math.isfinite(flow.bound):
                break
            start = flow
        return old

    def _settle(self, fit: Fit, weighed: ImportanceWeights, modes: int, told: Told | None) -> Fit:
        """The draws to hand out, and the evidence for them."""
        # where q is not the Gaussian any more, whether Gaussians agree says nothing of it
        rhat = moments_rhat(fit) if fit.approximation is None else 1.0
        evidence = findings_of(fit, weighed)._replace(modes=modes, rhat=rhat)
        stock = None
        if self.nested is not None:  # draws of q are at hand, and dear to make again
            stock = CorrectedDraws(on_device(weighed.z), None, "q")
            alike = lanes_within(fit, evidence.bound - fit.bounds[fit.best])
            evidence = evidence._replace(lanes_at_best=max(alike, evidence.lanes_at_best))
        if told is not None and self.polish is not True:
            stock, errors = told
            corrected = "" if stock is None else "weights"
            return dataclasses.replace(
                fit,
                corrected_draws=stock,
                findings=evidence._replace(errors=errors, corrected=corrected),
            )
        if not self._in_time():
            evidence = evidence._replace(interrupted=True)
            return dataclasses.replace(fit, corrected_draws=stock, findings=evidence)
        moved = self._moved(fit)
        drift, acceptance = moved.drift, moved.acceptance
        if self.polish is False or (self.polish is not True and is_still(drift, _UNCLEAR)):
            self._note("chains", None, weighed, describe_drift(drift))
        else:
            key = fold_in(self.key, 5)
            least = min(_OF_FUNNELS, _ROUNDS[self.effort]) if self.hyperparameters else 1
            rounds = range(least, _ROUNDS[self.effort] + 1)
            polished = polish(key, self.target, moved, rounds, self._in_time)
            drift, acceptance = polished.drift, polished.acceptance
            stock = CorrectedDraws(polished.z, None, "chains")
            note = f"q: {describe_drift(moved.drift)}; end: {describe_drift(drift)}"
            self._note("chains", None, weighed, note)
        if self.nested is not None:
            drift = drift.less_sure(self.nested.of_values.error)
        evidence = evidence._replace(
            errors=errors_of(drift, "chains"),
            corrected="chains" if stock is not None and stock.by == "chains" else "",
            start_correlation=largest_start_correlation(drift),
            acceptance=acceptance,
            hyperparameters=self.hyperparameters,
        )
        return dataclasses.replace(fit, corrected_draws=stock, findings=evidence)

    def _moved(self, fit: Fit) -> ShortChains:
        """What chains do that start at draws of q."""
        q, key, num = fit.q, fold_in(self.key, 4), _CHAINS[self.effort]
        if self.nested is not None:
            return nested_short_chains(key, self.target, self.nested, num_chains=num)
        batches = _batches(fit)
        at = (key, self.target, q.family, q.phi, self.data)
        return short_chains(*at, num_chains=num, num_batches=batches)

    def _told(self, fit: Fit, weighed: ImportanceWeights, modes: int) -> Told | None:
        """Draws that weights vouch for, and the errors left; None where weights can't tell.

        Weights see only where q's draws fall. Unless they are all alike, draws of q with heavier
        tails must see the same; and the neck of a funnel is too narrow to be met by any, but in
        coordinates in which it is none.
        """
        q, key = fit.q, fold_in(self.key, 6)
        if self.nested is not None:
            return by_nested_weights(self.nested)
        if weighed.bad_share or (self.hyperparameters and not isinstance(q.family, Transformed)):
            return None
        if weighed.ok and (weighed.relative_ess >= _EXACT or modes > 1):
            return by_weights(weighed)
        uniform = weighed.relative_ess >= UNIFORM_RELATIVE_ESS
        inner = q.family.family if isinstance(q.family, Transformed) else q.family
        if self.target.dim > _FLOW_UP_TO or not has_heavy_tailed_draws(inner):
            return by_weights(weighed) if weighed.ok and uniform else None
        if weighed.relative_ess < MIN_RELATIVE_ESS:
            return None
        at = (key, self.target, q.family, q.phi, self.data)
        tails = importance_weights(*at, num_batches=_batches(fit), heavy_tailed=True)
        note = (
            f"heavy-tailed draws: relative effective sample size {100.0 * tails.relative_ess:.1f} %"
        )
        self._note("tails", None, weighed, note, tails.khat)
        if not can_tell(weighed, tails):
            return None
        drift = drift_from(weighed, tails)
        if uniform and max(drift.at_least(_UNCLEAR)) < MAX_NEGLIGIBLE_DRIFT_SD:
            return None, errors_of(drift, "weights")
        return weighted(tails), errors_of(tails.error, "weights")


def _batches(fit: Fit) -> int:
    """Of draws of q, as they were weighed."""
    return fit.num_restarts if fit.approximation is None else 1
