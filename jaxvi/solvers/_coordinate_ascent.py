"""Coordinate ascent on the exact bound of a conditionally conjugate model."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxvi._numerics import pytrees
from jaxvi._status import Status
from jaxvi._types import Data, Phi, Scalar
from jaxvi.solvers._base import BlockTrace, Solver, StepInfo


@runtime_checkable
class ConjugateModel(Protocol):
    """A conditionally conjugate model: both steps of coordinate ascent have closed forms; hashable.

    Local variables belong to rows of data, such as the component that a row comes from; global
    ones, with parameters phi, to all rows. `expect` is the local step. Its result is all that the
    global step needs, as sums over rows: they may be computed in blocks and added.
    """

    def expect(self, phi: Phi, data: Data) -> Any:
        """Expected sufficient statistics and entropy of the optimal q of the local variables."""

    def maximise(self, stats: Any, data: Data) -> Phi:
        """Parameters of the optimal q of the global variables."""

    def bound(self, phi: Phi, stats: Any, data: Data) -> Scalar:
        """The bound in nats, up to a constant, if phi is `maximise(stats)`."""


class Ascent(NamedTuple):
    """Data of a conjugate run: the model's data, and the change of the bound at which to stop."""

    data: Data
    tolerance: Scalar


class ConjugateProblem(NamedTuple):
    """Model and data that the solver evaluates."""

    model: ConjugateModel
    given: Ascent


class CoordinateAscentState(NamedTuple):
    """Parameters of the global variables, the bound, and its change in the last step."""

    phi: Phi
    bound: Scalar
    change: Scalar


@dataclass(frozen=True)
class CoordinateAscent(Solver):
    r"""Optimises q of the local and of the global variables in turn (Bishop 2006, 10.1.1).

    Each half maximises the bound over its own factor, so that it never falls. A lane has converged
    where a step changes the bound by less than the `tolerance` of its `Ascent`; one whose bound
    is not finite keeps the parameters from before. Steps have no noise and no rate.

    It is run on a `ConjugateModel`, as `jaxvi.estimators` do, not on a log density.
    """

    guards_itself: ClassVar[bool] = True
    conjugate: ClassVar[bool] = True

    @property
    def block_steps(self) -> int:
        """One: convergence is tested after every step."""
        return 1

    def check(self, family: Any, objective: Any, noise: Any, dim: int) -> None:
        """Raise: a log density is not a conjugate model."""
        raise TypeError(
            "CoordinateAscent: expected a conjugate model; got a target; try "
            "jaxvi.estimators.BayesianGaussianMixture, or another solver."
        )

    def init(self, phi: Phi, problem: Any) -> CoordinateAscentState:
        """A state at phi, whose bound is not known yet."""
        infinite = jnp.full((), jnp.inf, problem.given.tolerance.dtype)
        return CoordinateAscentState(phi, -infinite, infinite)

    def step(
        self, state: CoordinateAscentState, noise: Array, problem: Any
    ) -> tuple[CoordinateAscentState, StepInfo]:
        """Update local and global variables once."""
        model, data = problem.model, problem.given.data
        stats = model.expect(state.phi, data)
        phi = model.maximise(stats, data)
        bound = model.bound(phi, stats, data)
        phi = pytrees.where(jnp.isfinite(bound), phi, state.phi)
        return CoordinateAscentState(phi, bound, bound - state.bound), StepInfo(bound)

    def review(
        self, state: CoordinateAscentState, trace: BlockTrace
    ) -> tuple[CoordinateAscentState, Int[Array, ""]]:
        """Converged if the bound changed by less than the tolerance, failed if it is not finite."""
        done = jnp.abs(state.change) < trace.problem.given.tolerance
        status = jnp.where(done, Status.CONVERGED, Status.RUNNING)
        status = jnp.where(jnp.isfinite(state.bound), status, Status.NOT_FINITE)
        return state, status.astype(jnp.int32)

    def result(self, state: CoordinateAscentState) -> Phi:
        """The parameters after the last step."""
        return state.phi
