"""Every example runs as a reader would run it, on fewer steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(folder: Path, name: str, *args: str) -> str:
    """What it prints; it draws a picture."""
    path = os.pathsep.join([str(EXAMPLES.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, "p.png", *args],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")
    return done.stdout


def test_the_textbook_example(tmp_path):
    options = ["--steps", "400", "--restarts", "4", "--newton-steps", "30"]
    printed = run(tmp_path, "textbook_gmm.py", *options)
    ends = {
        name: [float(end) for end in values.split()]
        for name, values in re.findall(r"(.*), bound of each restart: (.*)", printed)
    }
    assert [len(values) for values in ends.values()] == [4, 4, 4]
    # Adam is there after 400 steps, plain gradient descent is on its way
    assert -496 < ends["Adam"][0] < -491
    assert ends["gradient descent"][0] < ends["Adam"][0] - 3
    # Newton is there after 30, on a frozen bound that flatters itself a little
    assert -496 < ends["Newton on frozen noise"][0] < -488
    # the noise of the iterates, which the engine averages away, is all that they differ by
    bound = float(re.search(r"bound +(-[0-9.]+) \+-", printed).group(1))
    assert ends["Adam"][0] - 0.2 < bound < ends["Adam"][0] + 3
    of_sum, of_logs = map(float, re.search(r"sum (-[\d.]+), .*logs (-[\d.]+)", printed).groups())
    assert of_logs < 2 * of_sum


def test_it_fits_on_four_pages():
    assert len((EXAMPLES / "textbook_gmm.py").read_text().splitlines()) < 190


@pytest.mark.slow
def test_both_mixtures_of_irises_agree(tmp_path):
    printed = run(tmp_path, "mixture_iris.py")
    (alike,) = re.findall(r"(\d+) of 150 rows labelled alike", printed)
    assert int(alike) >= 144
    gaps = re.search(r"at most ([\d.]+) posterior standard deviations, means by ([\d.]+)", printed)
    assert max(map(float, gaps.groups())) < 1.0


@pytest.mark.slow
def test_the_prior_holds_many_components_back(tmp_path):
    printed = run(tmp_path, "mixture_density.py", "--quick")
    for ours, theirs in re.findall(
        r"\(jaxvi\): (.*)\n *GaussianMixture \(scikit-learn\): (.*)", printed
    ):
        few, many = (float(value) for value in ours.split(", "))
        least, most = (float(value) for value in theirs.split(", "))
        assert abs(few - least) < 0.5
        assert many > most + 1.0


@pytest.mark.slow
def test_colours_cost_bits_and_errors(tmp_path):
    printed = run(tmp_path, "mixture_colours.py", "--quick")
    rows = re.findall(r"([\d.]+) bits a pixel, error +([\d.]+)", printed)
    (bits, error), (ours, our_error) = [tuple(map(float, row)) for row in rows]
    assert abs(ours - bits) < 0.5
    assert our_error < 1.2 * error


@pytest.mark.slow
def test_many_hosts_runs_on_one(tmp_path):
    path = os.pathsep.join([str(EXAMPLES.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, EXAMPLES / "many_hosts.py", "--restarts", "3", "--rows", "1500"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "3 of 3 restarts at the best optimum" in done.stdout
    means = [float(mean) for mean in done.stdout.split("means")[1].split()]
    # slopes from -1 to 1 of 1,500 rows: posterior standard deviations are about 0.07
    assert max(abs(mean - (2 * i / 9 - 1)) for i, mean in enumerate(means)) < 0.3
