"""The command `python -m jaxvi`, which runs the command line interface."""

import sys

from jaxvi.cli import main

if __name__ == "__main__":
    sys.exit(main())
