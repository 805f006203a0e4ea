"""The command line: `jaxvi demo` and `jaxvi fit`."""

from jaxvi.cli._main import main

__all__ = ["main"]
