"""Cold seconds by posterior and method, every run in a process of its own, taken in turn.

As a program, `_accuracy_cold POSTERIOR METHOD SEED WARM_UP DRAWS` is such a process: it fits once
and prints seconds as one line of JSON.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

Cell = dict[str, Any]


def measure_cold(
    row: str, names: Sequence[str], repeats: int, chain_steps: tuple[int, int]
) -> dict[str, Cell]:
    """Seconds of `repeats` first calls of every method, A B C A B C ..., with draws.

    Taken in turn, what else the machine does falls on all of them alike. What is imported before
    the clock starts is the package; what it loads by itself later counts.
    """
    found: dict[str, Cell] = {
        name: {"status": "-", "cold_seconds": [], "compile_seconds": []} for name in names
    }
    for seed in range(repeats):
        for name in names:
            arguments = [row, name, *map(str, (seed, *chain_steps))]
            command = [sys.executable, "-m", "benchmarks.accuracy._cold", *arguments]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no words"])[-1]
                found[name] = {"status": "raised", "raised": last[:500]}
            elif "raised" not in found[name]:
                for key, value in json.loads(done.stdout).items():
                    found[name][key].append(value)
    return found


def main(row: str, name: str, seed: int, chain_steps: tuple[int, int]) -> None:
    """One run; everything that it needs is imported and made before the clock starts."""
    import jax

    from benchmarks import posteriors
    from benchmarks._measure import clocked
    from benchmarks._methods import Task
    from benchmarks.accuracy._methods import methods
    from benchmarks.accuracy._numbers import DRAWN

    jax.config.update("jax_enable_compilation_cache", False)
    with jax.enable_x64(True):
        method = methods(chain_steps)[name]
        if method.package is not None:
            __import__(method.package)
        posterior = posteriors.load(row)
        task = Task(row, posterior.target, posterior.data)
        run = clocked(method, task, seed, None, drawn=DRAWN)
    print(json.dumps({"cold_seconds": run.seconds, "compile_seconds": run.compile_seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), (int(sys.argv[4]), int(sys.argv[5])))
