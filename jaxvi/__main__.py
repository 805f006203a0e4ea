"""`python -m jaxvi`."""

import sys

from jaxvi.cli import main

if __name__ == "__main__":
    sys.exit(main())
