"""The interface of a solver, the problem that it evaluates, and what the loop tells it."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvi._types import Data, Noise, Phi, Scalar
from jaxvi.families import Family, FullRank, MeanField
from jaxvi.noise import NoiseSource
from jaxvi.objectives import Estimate, Objective
from jaxvi.target import Target, hessian_products, log_probs, values_and_gradients


class StepInfo(NamedTuple):
    """The bound at one step, as progress reports and histories show it."""

    bound: Scalar


@dataclass(frozen=True, eq=False)
class Problem:
    """The functions that a solver evaluates: the bound of phi, and the log density at points z.

    All are pure and for one lane; under `vmap` the points of all lanes become one flat batch.
    """

    target: Target
    family: Family
    objective: Objective
    data: Data

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates."""
        return self.target.dim

    def loss(self, phi: Phi, noise: Noise) -> Estimate:
        """The objective's loss and bound at phi on these rows of noise."""
        return self.objective(phi, noise, self.family, self.target, self.data)

    def log_probs(self, z: Float[Array, "draws dim"]) -> Float[Array, "draws"]:
        """The log density at every row of z; differentiable."""
        return log_probs(self.target, z, self.data)

    def values_and_gradients(
        self, z: Float[Array, "draws dim"]
    ) -> tuple[Float[Array, "draws"], Float[Array, "draws dim"]]:
        """The log density and its gradient at every row of z."""
        return values_and_gradients(self.target, z, self.data)

    def hessian_products(
        self, z: Float[Array, "draws dim"], vectors: Float[Array, "draws vectors dim"]
    ) -> Float[Array, "draws vectors dim"]:
        """The Hessian at every row of z times that row's vectors."""
        return hessian_products(self.target, z, vectors, self.data)


class BlockTrace(NamedTuple):
    """Record of a block of steps, which the loop passes to `review`.

    A failed block was not finite, or fell far below the lane's first bound; the state is then
    the one from before the block. `step` counts the steps of the run so far.
    `bounds(phi)` evaluates the objective's bound at phi on the noise of steps of the block:
    common random numbers, which show small differences between two phi that a noisy history
    hides. `noise` is the block's, a row a step.
    """

    num_steps: Int[Array, ""]
    failed: Bool[Array, ""]
    step: Int[Array, ""]
    bounds: Callable[[Phi], Float[Array, "steps"]]
    problem: Any  # a Problem, or that of a conjugate model
    noise: Noise


class Solver(abc.ABC):
    """An algorithm that optimises phi: a frozen dataclass, without the loop over steps.

    `step` runs inside the compiled inner loop and does no bookkeeping; `review` runs once a block
    of `block_steps` steps, and there a solver adapts and stops. A state is a NamedTuple of
    arrays with a field `phi`. A solver that `guards_itself` never steps to a phi that is not
    finite, and may report a bound that falls: the loop undoes none of its blocks. A `conjugate`
    solver is run on a `ConjugateModel`, not on a log density.

    Example:
        A few steps by hand; `jaxvi.engine` has what a loop of blocks needs besides.

        >>> family, elbo = jaxvi.MeanField(), jaxvi.ELBO()
        >>> problem = jaxvi.solvers.Problem(target, family, elbo, X)
        >>> solver = jaxvi.Stochastic(optax.sgd, learning_rate=0.01)
        >>> state = solver.init(family.init(key, target.dim), problem)
        >>> noise = jax.vmap(lambda k: family.draw_noise(k, elbo.num_draws, 4))(keys)
        >>> state, info = jax.lax.scan(lambda s, row: solver.step(s, row, problem), state, noise)
        >>> solver.result(state).loc.shape, info.bound.shape
        ((4,), (2,))
    """

    guards_itself: ClassVar[bool] = False
    conjugate: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def block_steps(self) -> int:
        """Steps between two reviews, at most; the loop takes fewer where noise is large."""

    @abc.abstractmethod
    def init(self, phi: Phi, problem: Problem) -> Any:
        """State of a lane before the first step, at phi."""

    @abc.abstractmethod
    def step(self, state: Any, noise: Noise, problem: Problem) -> tuple[Any, StepInfo]:
        """State and bound after one step of one lane, on these rows of noise."""

    @abc.abstractmethod
    def review(self, state: Any, trace: BlockTrace) -> tuple[Any, Int[Array, ""]]:
        """State and status code after a block: still `RUNNING`, or how the lane ended."""

    @abc.abstractmethod
    def result(self, state: Any) -> Phi:
        """The parameters to report, such as averaged iterates."""


_MAX_DEFAULT_FULL_RANK_DIM = 100


def default_family(dim: int) -> Family:
    """A dense Gaussian up to dimension 100, an independent one above."""
    return FullRank() if dim <= _MAX_DEFAULT_FULL_RANK_DIM else MeanField()


class Defaults(NamedTuple):
    """Default family, objective and noise of a fit with a solver."""

    family: Family
    objective: Objective
    noise: NoiseSource


@runtime_checkable
class HasDefaults(Protocol):
    """A solver that has its own default family, objective and noise."""

    def defaults(self, family: Family | None, dim: int) -> Defaults:
        """Defaults that suit the solver; `family` is the user's, or None."""


@runtime_checkable
class HasRequirements(Protocol):
    """A solver that works only with some families, objectives or noise sources."""

    def check(self, family: Family, objective: Objective, noise: NoiseSource, dim: int) -> None:
        """Raise, before anything is traced, if the parts do not fit the solver."""


@runtime_checkable
class HasPreparation(Protocol):
    """A solver that examines the problem once, before anything is compiled for it."""

    def prepare(self, problem: Problem, dtype: jnp.dtype) -> Solver:
        """The solver to run, with its findings; equal findings must compare equal."""
