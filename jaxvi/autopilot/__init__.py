"""The default call."""

from jaxvi.autopilot._pilot import EFFORTS, Pilot
from jaxvi.autopilot._pilot import GAUSSIAN_STEPS as GAUSSIAN_STEPS

__all__ = ["EFFORTS", "Pilot"]
