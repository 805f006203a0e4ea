"""Every example runs as a reader would run it, on fewer steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_the_textbook_example(tmp_path):
    path = os.pathsep.join([str(EXAMPLES.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [
            sys.executable,
            EXAMPLES / "textbook_gmm.py",
            "p.png",
            "--steps",
            "400",
            "--restarts",
            "4",
            "--newton-steps",
            "30",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    ends = {
        name: [float(end) for end in values.split()]
        for name, values in re.findall(r"(.*), bound of each restart: (.*)", done.stdout)
    }
    assert [len(values) for values in ends.values()] == [4, 4, 4]
    # Adam is there after 400 steps, plain gradient descent is on its way
    assert -496 < ends["Adam"][0] < -491
    assert ends["gradient descent"][0] < ends["Adam"][0] - 3
    # Newton is there after 30, on a frozen bound that flatters itself a little
    assert -496 < ends["Newton on frozen noise"][0] < -488
    # the noise of the iterates, which the engine averages away, is all that they differ by
    bound = float(re.search(r"bound +(-[0-9.]+) \+-", done.stdout).group(1))
    assert ends["Adam"][0] - 0.2 < bound < ends["Adam"][0] + 3
    of_sum, of_logs = map(
        float, re.search(r"sum (-[\d.]+), .*logs (-[\d.]+)", done.stdout).groups()
    )
    assert of_logs < 2 * of_sum


def test_it_fits_on_four_pages():
    assert len((EXAMPLES / "textbook_gmm.py").read_text().splitlines()) < 190
