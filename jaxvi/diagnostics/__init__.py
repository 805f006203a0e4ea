"""Diagnostics: what a finished fit says about itself."""

from jaxvi.diagnostics._agreement import Agreement, agreement

__all__ = ["Agreement", "agreement"]
