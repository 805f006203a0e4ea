"""What an objective is."""

import abc
from typing import NamedTuple

from jaxvi._types import Data, Noise, Phi, Scalar
from jaxvi.families import Family
from jaxvi.target import Target


class Estimate(NamedTuple):
    """One evaluation of an objective.

    `loss` is differentiated and smaller is better; `bound` is reported, in nats, and larger is
    better.
    """

    loss: Scalar
    bound: Scalar


class Objective(abc.ABC):
    """A pure function of (phi, noise, data); a frozen dataclass.

    It maps over draws, so that targets and families may speak of one z.
    """

    num_draws: int

    @abc.abstractmethod
    def __call__(
        self, phi: Phi, noise: Noise, family: Family, target: Target, data: Data
    ) -> Estimate:
        """Loss and bound at phi for these rows of noise."""

    @abc.abstractmethod
    def check(self, family: Family) -> None:
        """Raise before tracing where the family doesn't offer what the objective needs."""
