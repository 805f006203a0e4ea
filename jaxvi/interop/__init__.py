"""Families and models from other packages, which are imported where they are used."""

from jaxvi.interop._flowjax import flowjax

__all__ = ["flowjax"]
