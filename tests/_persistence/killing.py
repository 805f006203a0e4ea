"""Run by tests/_persistence/test_checkpoint.py: fits that are killed at random moments and resumed.

    python killing.py FOLDER KILLS [LANES]

With LANES the restarts take turns in a pool of so many, else all run together.
Each try is a process of its own, forked before JAX has started a backend. Every other one is
killed while a checkpoint is being written, the rest at any moment. The last is left alone. Prints
JSON: how often a process died in which state, and digests of the result and of that of a run that
nobody killed.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxvi
from jaxvi import MeanField, Progress, Real, Stochastic, Target

DIM, RESTARTS = 2_000, 16
LANES = int(sys.argv[3]) if len(sys.argv) > 3 else None
STEPS = 3_000 if LANES is None else 500


def log_density(z: jax.Array, data: jax.Array) -> jax.Array:
    return -0.5 * jnp.sum((z - data) ** 2) - 0.1 * jnp.sum((z[1:] - z[:-1]) ** 2)


def digest(fit: jaxvi.Fit) -> str:
    """Of all numbers of a fit but its times."""
    found = hashlib.sha256()
    kept = (fit.phi, fit.status, fit.steps, fit.bounds, fit.log_weights, fit.history)
    for leaf in jax.tree.leaves(kept):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def work(folder: Path | None, pipe: int) -> str:
    """The fit, from wherever it is; tells the pipe when it has begun and at what step."""

    def report(progress: Progress) -> None:
        os.write(pipe, f"{progress.step}\n".encode())

    target = Target(log_density, Real((DIM,)))
    if folder is not None and (folder / "run.npz").exists():
        return digest(jaxvi.resume(folder, target, progress=report, checkpoint_seconds=0.01))
    fit = jaxvi.fit(
        jax.random.key(3),
        target,
        MeanField(),
        solver=Stochastic(tolerance=None),
        data=jnp.linspace(-2.0, 2.0, DIM),
        num_restarts=RESTARTS,
        pool=LANES,
        num_eval_draws=64,
        max_steps=STEPS,
        progress=report,
        checkpoint=folder,
        checkpoint_seconds=0.01,
    )
    return digest(fit)


def start(folder: Path | None, result: Path) -> tuple[int, int]:
    """A process that works, and the end of a pipe to listen to it."""
    listen, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(listen)
        try:
            result.write_text(work(folder, tell))
        except BaseException as error:
            result.write_text(repr(error))
        os._exit(0)
    os.close(tell)
    os.set_blocking(listen, False)
    return child, listen


def alive(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG) == (0, 0)


def wait_until_begun(child: int, listen: int) -> bool:
    """Until the first chunk has been reported; False where the process has ended."""
    while alive(child):
        with contextlib.suppress(BlockingIOError):
            if os.read(listen, 1):
                return True
        time.sleep(0.001)
    return False


def kill_one(folder: Path, result: Path, rng: random.Random, while_writing: bool) -> bool | None:
    """Start a process and kill it; whether it left an unfinished file, None where it had ended."""
    child, listen = start(folder, result)
    begun = wait_until_begun(child, listen)
    if begun and while_writing:
        until = time.monotonic() + 5.0
        while time.monotonic() < until and not list(folder.glob("*.unfinished")):
            time.sleep(0.0002)
        time.sleep(rng.uniform(0.0, 0.002))
    elif begun:
        time.sleep(rng.uniform(0.0, 0.3))
    begun = begun and alive(child)
    if begun:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(listen)
    return bool(list(folder.glob("*.unfinished"))) if begun else None


def finish(folder: Path | None, result: Path) -> tuple[str, int]:
    """The digest of a run left alone, and the first step that it reported."""
    child, listen = start(folder, result)
    heard = b""
    while alive(child):
        time.sleep(0.01)
        with contextlib.suppress(BlockingIOError):
            heard += os.read(listen, 65_536)
    os.close(listen)
    return result.read_text(), int(heard.split(b"\n")[0])


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(0)
    result = folder.parent / "result.txt"
    expected, _ = finish(None, result)
    halved: list[bool] = []
    found = set()
    while len(halved) < kills:
        killed = kill_one(folder, result, rng, len(halved) % 2 == 0)
        if killed is not None:
            halved.append(killed)
            continue
        found.add(result.read_text())  # it came to its end in between: once more from the start
        shutil.rmtree(folder)
    last, first = finish(folder, result)
    told = {
        "expected": expected,
        "found": sorted({*found, last}),
        "kills": len(halved),
        "in_writing": sum(halved),
        "first": first,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
