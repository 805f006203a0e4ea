"""Objectives: the loss that is minimised over phi, and the bound that is reported."""

from jaxvi.objectives._base import Estimate, Objective
from jaxvi.objectives._elbo import ELBO
from jaxvi.target import log_probs

__all__ = ["ELBO", "Estimate", "Objective", "log_probs"]
