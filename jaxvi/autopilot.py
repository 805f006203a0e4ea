"""The entry: the solver that is asked for, else a strategy that finds, checks and mends q."""

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from jaxvi import _door
from jaxvi._progress import Reporter
from jaxvi._status import Status
from jaxvi._types import Data
from jaxvi.chains import advance_chains
from jaxvi.diagnostics import Drift, Movement, Weighing, movement, weigh
from jaxvi.diagnostics._movement import compare
from jaxvi.families import CouplingFlow, Family, HasMoments, Mixture
from jaxvi.fit import fit_restarts
from jaxvi.noise import Antithetic, NoiseSource
from jaxvi.objectives import ELBO, Objective
from jaxvi.result import Approximation, Fit, Stage, Stock, Timing, errors_of, evidence_of
from jaxvi.solvers import NaturalGradient, Solver, Stochastic
from jaxvi.target import Target
from jaxvi.verdict import Errors

_MANY_RESTARTS_UP_TO = 100  # dimensions
_FLOW_UP_TO = 30  # dimensions
_FLOW_BELOW = {"quick": 0.0, "normal": 0.8, "thorough": 0.98}  # importance efficiency
_FLOW_STEPS, _FLOW_RATE, _FLOW_DRAWS = 3_000, 3e-3, 128
_SMALL = 0.03  # sds and logs of sds: an error not worth mending
_APART = 3.0  # sds between the means of separate modes
_COMPARABLE = math.log(100.0)  # nats between modes that both matter
_MOST_MODES = 20
_CHAINS = {"quick": 250, "normal": 500, "thorough": 1_000}
_ROUNDS = {"quick": 2, "normal": 5, "thorough": 8}  # each twice as long as the one before
_KEPT = 8
_LOST = (Status.UNBOUNDED, Status.SINGULAR, Status.NOT_FINITE, Status.NO_START)
_FORGOTTEN = 0.2


def fit(
    key: Array,
    target: Target,
    family: Family | None = None,
    *,
    objective: Objective | None = None,
    solver: Solver | None = None,
    noise: NoiseSource | None = None,
    data: Data = None,
    num_restarts: int | None = None,
    start: Any = None,
    start_scale: float = 1.0,
    max_steps: int = 20_000,
    num_eval_draws: int = 2_000,
    effort: str = "normal",
    max_seconds: float | None = None,
    polish: bool | str = "auto",
    progress: bool | Reporter | None = None,
) -> Fit:
    """Fit a posterior, check the fit, and say how far it can be trusted.

    With no family, objective, solver or noise: the autopilot. A Gaussian is fitted by natural
    gradients from several random starts and weighed against the density; where the weights ask
    for it and the dimension allows, a flow is fitted from there; where weights can't mend what is
    left, short Hamiltonian chains from q's draws look whether they drift, and where they do, run
    until they don't. Separate modes of comparable mass become a mixture. `fit.log` has a line for
    every stage, `fit.verdict` and `fit.reasons` what came out, `fit.q` what variational inference
    gave, and `fit.sample` the best draws there are.

    With any of them: that solver alone (what isn't given is what suits it), many restarts in one
    compiled batch, the winner by a fresh bound on draws common to all; `fit.verdict` then rests
    on the importance weights alone.

    Equal specs with data of equal shapes share compiled programs. Ctrl-C returns what there is.

    Args:
        key: a random key, typed (`jax.random.key(0)`) or raw.
        target: the log density with its supports.
        family: the variational family.
        objective: `ELBO(...)`, by default as suits the solver.
        solver: `Stochastic()` where only something else is given.
        noise: where base noise comes from.
        data: a pytree of arrays handed to the log density; its floating dtype is the engine's.
        num_restarts: number of lanes; by default 8, with the autopilot above dimension 100 4.
        start: parameters to start from, a pytree like the target's supports, constrained. One
            point is where lane 0 starts and around which the others scatter; a leading axis of
            `num_restarts` on every leaf gives each lane its own. None draws them. A `Fit` of the
            same target starts every lane at its best lane's q: as it is where the family is the
            same, else at the family's member nearest to the Gaussian of its mean and covariance.
        start_scale: standard deviation of drawn starts, in unconstrained units.
        max_steps: step limit of a solver.
        num_eval_draws: fresh draws by which lanes are ranked.
        effort: of the autopilot: "quick" fits no flow and runs chains for a short time only,
            "thorough" asks for more of both.
        max_seconds: time after which nothing new is begun; what runs ends soon after.
        polish: whether chains mend the draws: "auto" where it is called for; True runs them in any
            case, False never.
        progress: None or True for a bar on a terminal and a line every ten seconds elsewhere,
            False for silence, or a callable that takes a `Progress`.

    Returns:
        A `Fit`. Numerical failure raises nothing: each lane's status says what became of it.

    Raises:
        TypeError, ValueError: an argument that can't be used, or a log density that is not
            finite at any start.

    Example:
        >>> fit = jaxvi.fit(jax.random.key(0), target, jaxvi.MeanField(), data=X)
        >>> draws = fit.sample(jax.random.key(1), 4000)
    """
    key = _door.typed_key(key)
    _door.instance("target", target, Target, "jaxvi.Target(log_density, supports)")
    _door.one_of("effort", effort, tuple(_CHAINS))
    _door.one_of("polish", polish, ("auto", True, False))
    auto = family is None and objective is None and solver is None and noise is None
    if num_restarts is None:
        num_restarts = 4 if auto and target.dim > _MANY_RESTARTS_UP_TO else 8
    run: dict[str, Any] = {
        "data": data,
        "num_restarts": num_restarts,
        "start": start,
        "start_scale": start_scale,
        "max_steps": max_steps,
        "num_eval_draws": num_eval_draws,
        "progress": progress,
    }
    if not auto:
        parts: dict[str, Any] = {"objective": objective, "solver": solver, "noise": noise}
        return fit_restarts(key, target, family, **parts, **run, max_seconds=max_seconds)
    pilot = _Pilot(key, target, data, effort, polish, max_seconds, progress)
    return pilot.fly(run)


@dataclass
class _Pilot:
    """One call of the autopilot: what it was asked for, the clock, and the log."""

    key: Key[Array, ""]
    target: Target
    data: Data
    effort: str
    polish: bool | str
    max_seconds: float | None
    progress: bool | Reporter | None
    began: float = field(default_factory=time.perf_counter)
    log: list[Stage] = field(default_factory=list)

    def left(self) -> float:
        """Seconds of the budget that are left."""
        if self.max_seconds is None:
            return math.inf
        return self.max_seconds - (time.perf_counter() - self.began)

    def fly(self, run: dict[str, Any]) -> Fit:
        """All stages, as far as they are asked for."""
        with _door.compile_clock() as compiling:
            keys = jax.random.split(self.key, 5)
            fit = fit_restarts(
                keys[0], self.target, solver=NaturalGradient(), max_seconds=self.max_seconds, **run
            )
            self._note("gaussian", math.nan, fit, _of_lanes(fit))
            usable = Status(int(fit.status[fit.best])) not in _LOST
            if not usable:
                fit = dataclasses.replace(fit, evidence=evidence_of(fit))
            elif not fit.interrupted and math.isfinite(fit.bound):
                fit, modes = self._gather(fit)
                weighed = self._weigh(keys[1], fit)
                if modes == 1 and self._wants_flow(weighed):
                    fit, weighed = self._flow(keys[2], keys[1], fit, weighed)
                fit = self._settle(keys[3], fit, weighed, modes)
        seconds = time.perf_counter() - self.began
        timing = Timing(compiling.seconds, max(seconds - compiling.seconds, 0.0), seconds)
        return dataclasses.replace(fit, timing=timing, log=tuple(self.log), key=self.key)

    def _note(self, name: str, before: float, fit: Fit, note: str, khat: float = math.nan) -> None:
        """A line of the log."""
        took = time.perf_counter() - self.began - sum(stage.seconds for stage in self.log)
        self.log.append(Stage(name, before, fit.bound, fit.bound_mcse, khat, took, note))

    def _gather(self, fit: Fit) -> tuple[Fit, int]:
        """A mixture of the lanes at separate modes of comparable mass, where there are some."""
        lanes = _separate(fit)
        if len(lanes) == 1:
            return fit, 1
        phis = jax.tree.map(lambda leaf: leaf[np.asarray(lanes)], fit.phi)
        bounds = jnp.asarray(fit.bounds[np.asarray(lanes)])
        mixture, phi = Mixture.of(fit.setup.family, phis, bounds)
        joined = dataclasses.replace(fit, approximation=Approximation(self.target, mixture, phi))
        shares = np.asarray(jax.nn.softmax(bounds))
        self._note(
            "modes",
            fit.bound,
            fit,
            f"{len(lanes)} separate, of shares " + ", ".join(f"{share:.2f}" for share in shares),
        )
        return joined, len(lanes)

    def _weigh(self, key: Key[Array, ""], fit: Fit) -> Weighing:
        q = fit.q
        weighed = weigh(
            key, self.target, q.family, q.phi, self.data, num_batches=fit.num_restarts
        )
        note = f"importance efficiency {100.0 * weighed.efficiency:.1f} %"
        if weighed.bad_share:
            note += f", not finite at {100.0 * weighed.bad_share:.2g} % of draws"
        self._note("weights", math.nan, fit, note, weighed.khat)
        return weighed

    def _wants_flow(self, weighed: Weighing) -> bool:
        """The weights ask for one, and the dimension allows."""
        poor = weighed.efficiency < _FLOW_BELOW[self.effort]
        return poor and self.target.dim <= _FLOW_UP_TO and self.left() > 0.0

    def _flow(
        self, key: Key[Array, ""], key_weigh: Key[Array, ""], gauss: Fit, before: Weighing
    ) -> tuple[Fit, Weighing]:
        """A coupling flow from the Gaussian, where it is better."""
        flow = fit_restarts(
            key,
            self.target,
            CouplingFlow(),
            objective=ELBO(num_draws=_FLOW_DRAWS, stick_the_landing=True),
            solver=_FLOW_SOLVER,
            noise=Antithetic(),
            data=self.data,
            start=gauss,
            num_restarts=1,
            max_steps=_FLOW_STEPS,
            max_seconds=None if math.isinf(self.left()) else self.left(),
            progress=self.progress,
        )
        weighed = weigh(key_weigh, self.target, flow.setup.family, flow.q.phi, self.data)
        better = weighed.efficiency > before.efficiency
        note = f"importance efficiency {100.0 * weighed.efficiency:.1f} %"
        self._note("flow", gauss.bound, flow, note + ("" if better else "; left"), weighed.khat)
        if not better:
            return gauss, before
        return dataclasses.replace(gauss, approximation=flow.q), weighed

    def _settle(self, key: Key[Array, ""], fit: Fit, weighed: Weighing, modes: int) -> Fit:
        """The draws to hand out, and the evidence for them."""
        evidence = evidence_of(fit, weighed)._replace(modes=modes)
        if weighed.ok and self.polish is not True:
            stock, errors = _by_weights(weighed)
            corrected = "" if stock is None else "weights"
            return dataclasses.replace(
                fit, stock=stock, evidence=evidence._replace(errors=errors, corrected=corrected)
            )
        if self.left() <= 0.0:
            return dataclasses.replace(fit, evidence=evidence._replace(interrupted=True))
        q, keys = fit.q, jax.random.split(key)
        moved = movement(
            keys[0], self.target, q.family, q.phi, self.data, num_chains=_CHAINS[self.effort]
        )
        seen = self._mend(keys[1], moved, fit)
        stock, errors, memory, acceptance = seen
        evidence = evidence._replace(
            errors=errors,
            corrected="" if stock is None else "chains",
            memory=memory,
            acceptance=acceptance,
        )
        return dataclasses.replace(fit, stock=stock, evidence=evidence)

    def _mend(
        self, key: Key[Array, ""], moved: Movement, fit: Fit
    ) -> tuple[Stock | None, Errors, float, float]:
        """Let chains go on until they don't drift; their last states are the draws."""
        drift, z, chains = moved.drift, moved.z, moved.chains
        still = self.polish is not True and _is_small(drift)
        if still or self.polish is False:
            self._note("chains", math.nan, fit, "no drift" if still else _of_drift(drift))
            return None, errors_of(drift, "chains"), _memory(drift), moved.acceptance
        start, scale = chains.z, moved.scale
        for round_ in range(_ROUNDS[self.effort]):
            if self.left() <= 0.0:
                break
            chains, now = advance_chains(
                jax.random.fold_in(key, round_),
                chains,
                scale,
                self.data,
                target=self.target,
                num_kept=_KEPT,
                thin=2**round_,
            )
            drift = compare(self.target, z.reshape(-1, self.target.dim), start, now)
            start, z = chains.z, now
            if _is_small(drift) and _memory(drift) < _FORGOTTEN:
                break
        self._note("chains", math.nan, fit, f"q: {_of_drift(moved.drift)}; end: {_of_drift(drift)}")
        stock = Stock(z.reshape(-1, self.target.dim), None, "chains")
        return stock, errors_of(drift, "chains"), _memory(drift), float(chains.acceptance)


_FLOW_SOLVER = Stochastic(
    optax.adam,
    learning_rate=optax.cosine_decay_schedule(_FLOW_RATE, _FLOW_STEPS),
    clip_norm=10.0,
)


def _of_lanes(fit: Fit) -> str:
    """How many lanes agree."""
    sizes = fit.agreement.sizes
    best = int(sizes[0]) if len(sizes) else 0
    status = Status(int(fit.status[fit.best])).text
    return f"{fit.setup.family!r}, {best} of {fit.num_restarts} restarts at the best; {status}"


def _separate(fit: Fit) -> list[int]:
    """The best lane, and those at other places with a comparable bound, best first."""
    family = fit.setup.family
    assert isinstance(family, HasMoments)  # natural gradients fit Gaussians
    moments = jax.vmap(family.moments)(fit.phi)
    means, sds = np.asarray(moments.mean), np.sqrt(np.asarray(moments.variance))
    found: list[int] = []
    for lane in np.argsort(-np.nan_to_num(fit.bounds, nan=-np.inf), kind="stable"):
        near = fit.bounds[lane] > fit.bound - _COMPARABLE
        if not (near and Status(int(fit.status[lane])).ok) and lane != fit.best:
            continue
        gaps = [np.abs(means[lane] - means[other]) / (sds[lane] + sds[other]) for other in found]
        if all(gap.max() > _APART for gap in gaps):
            found.append(int(lane))
    return found[:_MOST_MODES]


def _by_weights(weighed: Weighing) -> tuple[Stock | None, Errors]:
    """Plain draws where weights would change nothing that matters, else weighted ones."""
    drift = weighed.drift
    if max(np.abs(drift.mean).max(), np.abs(drift.log_sd).max()) < _SMALL:
        return None, errors_of(drift, "weights")
    rest = drift._replace(mean=np.zeros_like(drift.mean), log_sd=np.zeros_like(drift.log_sd))
    return Stock(jnp.asarray(weighed.z), jnp.asarray(weighed.log_weights), "weights"), errors_of(rest, "weights")


def _is_small(drift: Drift) -> bool:
    """No drift that is both clear and worth mending."""
    return max(drift.at_least()) < _SMALL


def _memory(drift: Drift) -> float:
    return float(np.nanmax(drift.memory))


def _of_drift(drift: Drift) -> str:
    """The largest drifts in words."""
    mean, log_sd = np.abs(drift.mean), np.abs(drift.log_sd)
    return (
        f"means drift by up to {np.nanmax(mean):.2f} sd, sds by "
        f"{100.0 * math.expm1(np.nanmax(log_sd)):.0f} %, memory {_memory(drift):.2f}"
    )
