"""What a solver is."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int

from jaxvi._types import LossFn, Noise, Phi, Scalar


class StepInfo(NamedTuple):
    """What one step tells an observer."""

    bound: Scalar


class BlockTrace(NamedTuple):
    """What the loop hands to `review` after a block of steps.

    A failed block was not finite, or fell far below the lane's first bound; the state is then
    the one from before the block. `step` counts the steps of the run so far.
    `bounds(phi)` evaluates the objective's bound at phi on the noise of steps of the block:
    common random numbers, on which differences between two phi's show that a noisy history
    would hide.
    """

    num_steps: Int[Array, ""]
    failed: Bool[Array, ""]
    step: Int[Array, ""]
    bounds: Callable[[Phi], Float[Array, "steps"]]


class Solver(abc.ABC):
    """An algorithm that drives phi; a frozen dataclass. The loop is not in it.

    `step` runs inside the compiled inner loop and does no bookkeeping; `review` runs once a block
    of `block_steps` steps, and there a solver adapts and stops. A state is a NamedTuple of
    arrays with a field `phi`.
    """

    @property
    @abc.abstractmethod
    def block_steps(self) -> int:
        """Steps between two reviews, at most; the loop takes fewer where noise is large."""

    @abc.abstractmethod
    def init(self, phi: Phi) -> Any:
        """State before the first step."""

    @abc.abstractmethod
    def step(self, state: Any, noise: Noise, loss_fn: LossFn) -> tuple[Any, StepInfo]:
        """One step for one lane; `loss_fn(phi, noise)` gives an `Estimate`."""

    @abc.abstractmethod
    def review(self, state: Any, trace: BlockTrace) -> tuple[Any, Int[Array, ""]]:
        """State and status code after a block: still `RUNNING`, or how the lane ended."""

    @abc.abstractmethod
    def result(self, state: Any) -> Phi:
        """The parameters to report, such as averaged iterates."""
