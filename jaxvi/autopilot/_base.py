"""Interface of a stage: `State` that it reads and returns, `Context` that it may use."""

import abc
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Key

from jaxvi._compilation import CompileClock, Lowering
from jaxvi._engine import Reporter, Setup
from jaxvi._fitting import Request, RunOptions, checked, fit_restarts
from jaxvi._numerics import fold_in
from jaxvi._persistence import Checkpoints
from jaxvi._sampling import Approximation, draws_each
from jaxvi._status import LOST, Status
from jaxvi._types import Data
from jaxvi.diagnostics import ImportanceWeights, importance_weights
from jaxvi.hierarchical import Nested
from jaxvi.results import CorrectedDraws, Errors, Fit, StageRecord
from jaxvi.solvers import Stochastic
from jaxvi.target import Target


@dataclass(frozen=True, eq=False)
class State:
    """What the default call knows so far; a stage returns it with some fields replaced.

    Attributes:
        restarts: the fit whose best lane is q until a better one is found; None before any.
        fits: all fits of restarts: that one, and any from other starts.
        modes: (index in `fits`, lane) of separate modes of comparable mass, best first; empty
            before a stage has looked for them.
        q: the approximation that replaces the best lane's; None if none does.
        weights: importance weights of q; None before they are taken.
        checked: whether a stage has checked if these weights vouch for q's draws.
        errors: the largest errors that the draws may have, as in `Findings`; None if nothing
            vouches for them.
        draws: draws that are better than q's, or costly to make again; None if q's serve.
        hyperparameters: names of coordinates that set the scales of others.
        nested: the nested Laplace approximation, where q is one.
        noncentered: a Gaussian fit in non-centred coordinates, where it fits no worse.
        start_correlation: correlation of chains with their start, where they ran; else 0.
        acceptance: their acceptance rate; else 1.
        chains_ran: whether chains have run from q's draws.
        interrupted: whether a run was stopped by Ctrl-C, an observer or a time limit.
        skipped: names of stages for which no time was left.
    """

    restarts: Fit | None = None
    fits: tuple[Fit, ...] = ()
    modes: tuple[tuple[int, int], ...] = ()
    q: Approximation | None = None
    weights: ImportanceWeights | None = None
    checked: bool = False
    errors: Errors | None = None
    draws: CorrectedDraws | None = None
    hyperparameters: tuple[str, ...] = ()
    nested: Nested | None = None
    noncentered: Fit | None = None
    start_correlation: float = 0.0
    acceptance: float = 1.0
    chains_ran: bool = False
    interrupted: bool = False
    skipped: tuple[str, ...] = ()

    @property
    def fit(self) -> Fit:
        """The fit of the restarts, with `q` as its approximation if there is one."""
        assert self.restarts is not None
        return replace(self.restarts, approximation=self.q)

    @property
    def usable(self) -> bool:
        """Whether the restarts gave a q that stages can start from."""
        if self.restarts is None or not math.isfinite(self.restarts.bound):
            return False
        return Status(int(self.restarts.status[self.restarts.best])) not in LOST

    @property
    def num_modes(self) -> int:
        """Number of separate modes that q covers."""
        return max(1, len(self.modes))

    @property
    def num_batches(self) -> int:
        """Batches of q's draws: as many as ranked the restarts, while q is their best lane's."""
        assert self.restarts is not None
        return self.restarts.num_restarts if self.q is None else 1

    def with_q(self, q: Approximation, weights: ImportanceWeights, **changes: Any) -> "State":
        """The state with another q, whose draws nothing vouches for yet."""
        fresh: dict[str, Any] = {"checked": False, "errors": None, "draws": None}
        return replace(self, q=q, weights=weights, **(fresh | changes))


class Stage(abc.ABC):
    """A step of the default call: a frozen dataclass, so that equal stages are equal.

    Its fields hold the thresholds by which it decides. A stage takes a state and returns another;
    it has no state of its own.

    Attributes:
        name: its name in the log; its random key depends on it.
        is_brief: whether it runs although the time is up, because it takes little time.
    """

    name: ClassVar[str]
    is_brief: ClassVar[bool] = False

    @abc.abstractmethod
    def applies(self, state: State) -> bool:
        """Whether there is anything for this stage to do."""

    @abc.abstractmethod
    def run(self, context: "Context", state: State) -> State:
        """Carry the stage out and write a line to the log; returns the new state."""


@runtime_checkable
class HasPrograms(Protocol):
    """A stage whose programs can be compiled together with those of the restarts."""

    def programs(self, setup: Setup, phis: Any, data: Data) -> list[Lowering]:
        """The programs to compile; `phis` are shapes of the lanes' parameters."""


@dataclass(frozen=True, eq=False)
class Context:
    """What every stage may use: the request, random keys, the time left, the log.

    Attributes:
        request: the arguments of the call, checked.
        stages: all stages of the call.
        log: lines written so far, which `record` adds to.
        clock: seconds of compiling so far.
        began: when the call began, on the clock of `time.perf_counter`.
        max_seconds: time after which nothing new begins; None is no limit.
        progress: as `jaxvi.fit` takes it.
        checkpoints: the folder of the run; None keeps nothing.
    """

    request: Request
    stages: Sequence[Stage]
    log: list[StageRecord]
    clock: CompileClock
    began: float
    max_seconds: float | None = None
    progress: bool | Reporter | None = None
    checkpoints: Checkpoints | None = None

    @property
    def target(self) -> Target:
        """The log density with its supports."""
        return self.request.target

    @property
    def data(self) -> Data:
        """The data handed to the log density."""
        return self.request.data

    def key(self, name: str) -> Key[Array, ""]:
        """The random key of a stage: it depends on the call's key and the name alone."""
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        return fold_in(self.request.key, number)

    def seconds_left(self) -> float:
        """Seconds of the budget that are left; infinite without one."""
        if self.max_seconds is None:
            return math.inf
        return self.max_seconds - (time.perf_counter() - self.began)

    def in_time(self) -> bool:
        """Whether the budget has time left."""
        return self.seconds_left() > 0.0

    def fit(self, key: Key[Array, ""], target: Target | None = None, **arguments: Any) -> Fit:
        """Fit with one solver, by default one restart, within the time left.

        Args:
            key: a random key, from `key(name)`.
            target: the call's target by default.
            arguments: those of `jaxvi.fit` that make a run: `family`, `objective`, `solver`,
                `noise`, `data` (the call's by default), `start`, `num_restarts`, `max_steps`, ...

        Raises:
            TypeError, ValueError: as `jaxvi.fit`.
        """
        target = self.target if target is None else target
        usual: dict[str, Any] = {
            "solver": Stochastic(),
            "data": self.data,
            "num_restarts": 1,
            "num_eval_draws": draws_each(1, target.dim),
        }
        return self.carry_out(checked(Request(key, target, **(usual | arguments))))

    def carry_out(self, request: Request, **options: Any) -> Fit:
        """Run a checked request within the time left; `options` are fields of `RunOptions`."""
        left = self.seconds_left()
        return fit_restarts(
            request,
            RunOptions(
                max_seconds=None if math.isinf(left) else max(left, 1e-3),
                progress=self.progress,
                checkpoint=None if self.checkpoints is None else self.checkpoints.next_lane_file(),
                clock=self.clock,
                **options,
            ),
        )

    def weights(self, q: Approximation, num_batches: int = 1) -> ImportanceWeights:
        """Importance weights of an approximation, on draws common to all that are compared."""
        at = (self.key("weights"), self.target, q.family, q.phi, self.data)
        return importance_weights(*at, num_batches=num_batches)

    def programs(self, setup: Setup, phis: Any, data: Data) -> list[Lowering]:
        """Programs of all stages, to compile together with those of the restarts."""
        some = (stage for stage in self.stages if isinstance(stage, HasPrograms))
        return [lower for stage in some for lower in stage.programs(setup, phis, data)]

    def record(
        self,
        name: str,
        of: Fit | ImportanceWeights,
        note: str,
        *,
        before: Fit | None = None,
        khat: float = math.nan,
    ) -> None:
        """Write a line to the log: the bound of `of`, that of the fit `before`, and a note."""
        took = time.perf_counter() - self.began - sum(line.seconds for line in self.log)
        was = (math.nan, math.nan) if before is None else (before.bound, before.bound_mcse)
        self.log.append(StageRecord(name, *was, of.bound, of.bound_mcse, khat, took, note))


def percent(share: float) -> str:
    """A share as text, in per cent with one digit."""
    return f"{100.0 * share:.1f} %"


def best_status(fit: Fit) -> Status:
    """The status of a fit's best lane."""
    return Status(int(np.asarray(fit.status)[fit.best]))
