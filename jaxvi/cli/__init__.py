"""The command line."""

from jaxvi.cli._main import main

__all__ = ["main"]
