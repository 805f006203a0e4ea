"""Programs of the tests, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run_program(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`tests/NAME ARGUMENTS` with the package that is tested, without its warnings."""
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-W", "ignore", HERE / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
