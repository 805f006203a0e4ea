"""Programs of the tests, in processes of their own; and which cases run with --long alone."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

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


def rest_long(cases: Iterable[Any], usual: Callable[[Any], bool]) -> list[Any]:
    """Cases for `parametrize`: all but the usual ones are left to --long."""
    return [case if usual(case) else pytest.param(case, marks=pytest.mark.long) for case in cases]
