"""Laplace's approximation: the Gaussian at a mode, found by L-BFGS and Newton's method."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxvi._arguments import check_field, integer, number
from jaxvi._numerics import pytrees
from jaxvi._status import Status
from jaxvi._types import Noise, Phi, Scalar
from jaxvi.families import (
    Family,
    FullRank,
    HasEntropy,
    HasGaussianInit,
    HasMoments,
    MeanField,
    StudentT,
)
from jaxvi.noise import Fresh, NoiseSource
from jaxvi.objectives import ELBO, Objective
from jaxvi.solvers._base import BlockTrace, Defaults, Problem, Solver, StepInfo
from jaxvi.solvers._deterministic.lbfgs import Lbfgs, absorb, start_search, trial_point
from jaxvi.solvers._deterministic.newton import (
    Newton,
    newton_step,
    rounding,
    scale_tril,
    start_newton,
    unfinished,
)

_BLOCK_STEPS = 25
_MAX_NEWTON_START_NATS = 0.1  # gain that L-BFGS still predicts when Newton's method takes over
_MAX_WAIT_BLOCKS = 8  # between two attempts by Newton's method
_MAX_COORDINATE = 1e12  # beyond it a search has run away
_MAX_LOG_PROB = 1e15  # likewise
_MAX_REPORTED_BOUND = 1e30
_MAX_IDLE_BLOCKS = 2  # blocks in a row without a gain above rounding


class LaplaceState(NamedTuple):
    """State of a lane: the search for a mode, and its result once it has ended.

    `extra` is the bound less log p at the point: entropy of q minus dim / 2, once curvature is
    known. `ended` is the status to report a block later.
    """

    phi: Phi
    search: Lbfgs
    extra: Scalar
    decrement: Scalar  # g^T |H|^-1 g at the last point of Newton's method
    wait: Int[Array, ""]  # blocks until Newton's method is tried next
    turns: Int[Array, ""]  # of Newton's method
    best: Scalar  # log p after the last block
    idle: Int[Array, ""]  # blocks in a row without a gain
    ended: Int[Array, ""]


@dataclass(frozen=True)
class Laplace(Solver):
    r"""Climbs to a mode of log p(z) and reports the Gaussian there (Laplace's approximation).

    $q(z) = N(z^*, (-H)^{-1})$ with z* a maximum of log p on the unconstrained scale, Jacobian
    included, and H its Hessian there. L-BFGS comes near the mode; Newton's method with absolute
    eigenvalues of the dense Hessian, which leaves saddles, ends at it. A lane has converged when
    the decrement g^T (-H)^{-1} g, twice the nats still to gain, is below `tolerance`, H is
    negative definite, and no curvature changes by a quarter of itself over the last step and
    a thousandth of a standard deviation more: on tails that flatten towards infinity it does.

    `FullRank` is that Gaussian exactly. `MeanField`, and a diagonal `StudentT`, have the variances
    -1 / H_ii, as at the largest ELBO of a Gaussian target; other families are the members nearest
    to the Gaussian, by their `init_gaussian`. The bound while searching is log p at the point;
    at the mode it is log p minus dim / 2 plus the entropy of q: the ELBO with log p replaced by
    its second-order expansion, for `FullRank` Laplace's estimate of the log evidence.

    Cost: a gradient a step, and four or so dense Hessians a lane, of dim Hessian-vector products
    and an eigendecomposition each. Statuses besides `CONVERGED`: `UNBOUNDED` where log p or z
    grows without end, also where log p flattens out towards infinity; `SINGULAR` without curvature
    along some direction where the search ended; `NOT_FINITE` where it ended against a region
    without finite values; `STALLED` where rounding hid the way.

    Args:
        tolerance: of the decrement; None for eps^(2/3) of the dtype, 4e-11 or 2e-5.
        memory: pairs that L-BFGS keeps.
        max_dense: largest dimension for which a dense Hessian is made.

    Raises:
        TypeError: a family without `init_gaussian` or `moments`.
        ValueError: a number out of range, or more coordinates than `max_dense`.

    Example:
        >>> fit = jaxvi.fit(key, target, solver=Laplace(), data=X)
    """

    tolerance: float | None = None
    memory: int = 10
    max_dense: int = 1_000

    guards_itself: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_field(self, "tolerance", number, above=0.0, below=1.0, optional=True, example=1e-6)
        check_field(self, "memory", integer)
        check_field(self, "max_dense", integer)

    @property
    def block_steps(self) -> int:
        """Evaluations of L-BFGS between two decisions whether Newton's method takes over."""
        return _BLOCK_STEPS

    def defaults(self, family: Family | None, dim: int) -> Defaults:
        """A full-rank Gaussian; the objective is used for ranking only."""
        return Defaults(FullRank(), ELBO(num_draws=2), Fresh())

    def check(self, family: Family, objective: Objective, noise: NoiseSource, dim: int) -> None:
        """Raise unless the family can be set to a Gaussian, and the Hessian is not too large."""
        if not (isinstance(family, HasGaussianInit) and isinstance(family, HasMoments)):
            raise TypeError(
                "Laplace: expected a family with init_gaussian and moments; got "
                f"{family!r}; try jaxvi.FullRank()."
            )
        if dim > self.max_dense:
            raise ValueError(
                f"Laplace: expected at most {self.max_dense} coordinates, whose Hessian is made "
                f"dense; got {dim}; try Laplace(max_dense={dim}), or a solver that needs gradients "
                "only."
            )

    def init(self, phi: Phi, problem: Problem) -> LaplaceState:
        """A search that starts at the mean of q."""
        assert isinstance(problem.family, HasMoments)
        z = problem.family.moments(phi).mean
        values, grads = problem.values_and_gradients(z[None])
        count = jnp.zeros((), jnp.int32)
        return LaplaceState(
            phi=phi,
            search=start_search(z, values[0], grads[0], self.memory),
            extra=jnp.zeros((), z.dtype),
            decrement=jnp.zeros((), z.dtype),
            wait=count,
            turns=count,
            best=values[0],
            idle=count,
            ended=jnp.full((), Status.RUNNING, jnp.int32),
        )

    def step(
        self, state: LaplaceState, noise: Noise, problem: Problem
    ) -> tuple[LaplaceState, StepInfo]:
        """One evaluation of L-BFGS; nothing where the search has ended."""
        values, grads = problem.values_and_gradients(trial_point(state.search)[None])
        search = absorb(state.search, values[0], grads[0])
        search = pytrees.where(state.ended == Status.RUNNING, search, state.search)
        bound = jnp.clip(
            search.at.value, -_MAX_REPORTED_BOUND, _MAX_REPORTED_BOUND
        )  # so that a block's sum is finite too
        return state._replace(search=search), StepInfo(bound + state.extra)

    def review(self, state: LaplaceState, trace: BlockTrace) -> tuple[LaplaceState, Int[Array, ""]]:
        """Run Newton's method if the mode is near or L-BFGS is stuck; a lane ends a block later.

        The block between reports the final bound.
        """
        search, status = state.search, state.ended
        status = jnp.where(trace.failed, Status.NOT_FINITE, status).astype(jnp.int32)
        near = (search.direction @ search.at.grad < _MAX_NEWTON_START_NATS) | (search.failures > 0)
        due = (near & (state.wait <= 0)) | (state.wait <= -_MAX_WAIT_BLOCKS)
        idle = jnp.where(search.at.value > state.best + rounding(state.best), 0, state.idle + 1)
        state = state._replace(idle=idle.astype(jnp.int32))
        due |= idle >= _MAX_IDLE_BLOCKS
        due &= status == Status.RUNNING
        tolerance = self._tolerance(search.at.z.dtype)
        # a loop of no turn where no lane is due: unlike a `cond`, it stays a branch under `vmap`
        newton = lax.while_loop(
            lambda newton: due & unfinished(newton),
            lambda newton: newton_step(newton, trace.problem, tolerance),
            start_newton(search.at),
        )
        state = pytrees.where(due, self._after_newton(state, newton), state)
        gone = (jnp.abs(state.search.at.z).max() > _MAX_COORDINATE) | (
            state.search.at.value > _MAX_LOG_PROB
        )
        gone &= state.ended != Status.CONVERGED
        ended = jnp.where(gone, Status.UNBOUNDED, state.ended).astype(jnp.int32)
        ended = jnp.where(status == Status.RUNNING, ended, state.ended)
        state = state._replace(ended=ended, wait=state.wait - 1, best=state.search.at.value)
        found = (status == Status.RUNNING) & (ended == Status.CONVERGED)
        return self._with_phi(state, newton, found, trace.problem), status

    def result(self, state: LaplaceState) -> Phi:
        """The Gaussian at the mode; without a mode, the family's initial q at the last point."""
        return state.phi

    def _tolerance(self, dtype: Any) -> float:
        """The tolerance given, or eps^(2/3)."""
        return float(jnp.finfo(dtype).eps) ** (2 / 3) if self.tolerance is None else self.tolerance

    def _after_newton(self, state: LaplaceState, newton: Newton) -> LaplaceState:
        """The state at the point of Newton's method, and whether the search has ended."""
        search = state.search
        gained = newton.at.value > search.at.value
        idle = newton.at.value <= state.best + rounding(state.best)
        ended = newton.status
        stuck = (state.idle >= _MAX_IDLE_BLOCKS) & idle & (ended == Status.RUNNING)
        ended = jnp.where(stuck, _why_stuck(search, newton), ended)
        fresh = start_search(newton.at.z, newton.at.value, newton.at.grad, self.memory)
        moved = gained | (ended == Status.CONVERGED)
        return state._replace(
            search=pytrees.where(moved, fresh, search),
            decrement=jnp.where(jnp.isfinite(newton.decrement), newton.decrement, _MAX_LOG_PROB),
            wait=jnp.minimum(2 ** jnp.minimum(state.turns, 3), _MAX_WAIT_BLOCKS).astype(jnp.int32),
            turns=state.turns + 1,
            ended=ended.astype(jnp.int32),
        )

    def _with_phi(
        self, state: LaplaceState, newton: Newton, found: Bool[Array, ""], problem: Problem
    ) -> LaplaceState:
        """The state with q at the mode if found, else with the family's initial q at the point."""
        family, z = problem.family, state.search.at.z
        assert isinstance(family, HasGaussianInit)
        key = jax.random.key(0)  # breaks ties between equal columns, and no more

        def at_mode(carry: tuple[Bool[Array, ""], Phi, Scalar]) -> tuple[Any, Phi, Scalar]:
            phi = family.init_gaussian(key, z, _factor(family, newton))
            return jnp.zeros((), bool), phi, _entropy(family, phi, newton) - 0.5 * z.size

        done = state.ended == Status.CONVERGED  # found now or a block ago
        around = pytrees.where(done, state.phi, family.init(key, z.size, start=z))
        # a loop of no or one turn, since some families take long to fit a Gaussian
        _, phi, extra = lax.while_loop(
            lambda carry: carry[0], at_mode, (found, around, state.extra)
        )
        return state._replace(phi=phi, extra=extra)


def _why_stuck(search: Lbfgs, newton: Newton) -> Int[Array, ""]:
    """Status of a search that neither L-BFGS nor Newton's method can continue."""
    why = jnp.where(newton.curvature.flat.any(), Status.SINGULAR, Status.STALLED)
    why = jnp.where(search.not_finite | newton.not_finite, Status.NOT_FINITE, why)
    why = jnp.where(newton.usable, why, Status.SINGULAR)
    # still driven outwards where exp(z) over- or underflows: a scale at 0 or at infinity
    at = newton.at
    max_exponent = 0.45 * math.log(float(jnp.finfo(at.z.dtype).max))
    outwards = (jnp.abs(at.z) > max_exponent) & (at.z * at.grad > 0.0)
    runs_away = outwards.any() & (search.not_finite | newton.not_finite | ~newton.usable)
    unbounded = search.overflowed | newton.overflowed | runs_away
    return jnp.where(unbounded, Status.UNBOUNDED, why)


def _factor(family: Family, newton: Newton) -> Float[Array, "dim dim"]:
    """Cholesky factor of the covariance for the family, diagonal for diagonal families."""
    diagonal = isinstance(family, MeanField)
    if isinstance(family, StudentT):
        diagonal = family.structure == "diagonal"
    if diagonal:
        return jnp.diag(1.0 / jnp.sqrt(-jnp.diagonal(newton.hessian)))
    return scale_tril(newton.curvature)


def _entropy(family: Family, phi: Phi, newton: Newton) -> Scalar:
    """Entropy of q if the family has it in closed form, else of the Gaussian."""
    if isinstance(family, HasEntropy):
        return family.entropy(phi)
    loc = newton.at.z
    factor = _factor(family, newton)
    return FullRank().entropy(FullRank().init_gaussian(jax.random.key(0), loc, factor))
