"""Interface of objectives: loss and bound as a pure function of phi, noise and data."""

import abc
from typing import NamedTuple

from jaxvi._types import Data, Noise, Phi, Scalar
from jaxvi.families import Family
from jaxvi.target import Target


class Estimate(NamedTuple):
    """Value of an objective: the loss and the bound.

    `loss` is differentiated and smaller is better; `bound` is reported, in nats, and larger is
    better.
    """

    loss: Scalar
    bound: Scalar


class Objective(abc.ABC):
    """Loss and bound as a pure function of (phi, noise, data); a frozen dataclass.

    It maps over draws: targets and families take one z.
    """

    num_draws: int
    """Number of draws at every step."""

    @abc.abstractmethod
    def __call__(
        self, phi: Phi, noise: Noise, family: Family, target: Target, data: Data
    ) -> Estimate:
        """Loss and bound at phi for these rows of noise."""

    @abc.abstractmethod
    def check(self, family: Family) -> None:
        """Raises before tracing if the family lacks a method that the objective needs."""
