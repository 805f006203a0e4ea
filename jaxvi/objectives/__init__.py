"""Objectives: what is minimised over phi, and the bound that is reported."""

from jaxvi._log_probs import log_probs
from jaxvi.objectives._base import Estimate, Objective
from jaxvi.objectives._elbo import ELBO

__all__ = ["ELBO", "Estimate", "Objective", "log_probs"]
