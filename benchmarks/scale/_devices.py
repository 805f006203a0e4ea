"""Weak scaling of lanes: twice the processes or devices, twice the lanes, the same time?

`python -m benchmarks.scale._devices` prints the numbers; `measure()` gives them. Every process has
a core of its own, which it is pinned to. The measure is lanes a second of a warm fit's run.

And what rows cost that are spread: a row in an evaluation, and a message between two processes.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DRAWS = 8  # of a step


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    lanes: int = 64  # for each process or device
    steps: int = 400
    rows: int = 1_000
    dim: int = 20
    repeats: int = 7


QUICK = Plan(lanes=4, steps=100, rows=100, dim=3, repeats=1)


def measure(
    plan: Plan | None = None,
    *,
    processes: tuple[int, ...] = (1, 2),
    devices: tuple[int, ...] = (1, 2, 4),
) -> dict[str, Any]:
    """Lanes a second of one and two processes, each on its core, and of emulated devices.

    `ratio` is that of two processes over one's. More processes than there are cores are left
    out. Emulated devices are threads of one process on all cores: more than there are cores gain
    nothing.
    """
    plan = plan or Plan()
    cores = sorted(os.sched_getaffinity(0))
    found: dict[str, Any] = {"plan": asdict(plan), "cores": len(cores), "processes": {}}
    for count in processes:
        if count <= len(cores):
            found["processes"][count] = _lanes_a_second(plan, processes=count, cores=cores)
    if {1, 2} <= found["processes"].keys():
        found["ratio"] = found["processes"][2] / found["processes"][1]
    found["devices"] = {count: _lanes_a_second(plan, devices=count) for count in devices}
    found["spread"] = _spread(plan, cores)
    return found


def _spread(plan: Plan, cores: list[int]) -> dict[str, float]:
    """Seconds of a row in one evaluation on one core, of an evaluation besides, of a message."""
    more = 20 * plan.rows
    few, many = replace(plan, rows=64), replace(plan, rows=64 + more)
    least = _seconds(few, cores=cores, data=1) / plan.steps
    most = _seconds(many, cores=cores, data=1) / plan.steps
    found = {"row_seconds": (most - least) / (more * DRAWS), "step_seconds": least}
    if len(cores) > 1:  # not pinned: a process that waits would keep its own messages waiting
        one, two = (_seconds(replace(few, rows=64 * n), processes=n, data=n) for n in (1, 2))
        found["message_seconds"] = (two - one) / plan.steps
    return found


def _lanes_a_second(
    plan: Plan, *, processes: int = 1, devices: int = 1, cores: list[int] | None = None
) -> float:
    """Of a fit of `plan.lanes` lanes for each device of each process."""
    seconds = _seconds(plan, processes=processes, devices=devices, cores=cores)
    return plan.lanes * processes * devices / seconds


def _seconds(
    plan: Plan,
    *,
    processes: int = 1,
    devices: int = 1,
    cores: list[int] | None = None,
    data: int = 0,
) -> float:
    """Of the slowest process; with `data`, one lane with its rows spread over so many devices."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    running = []
    for process in range(processes):
        role = {"process": process, "processes": processes, "devices": devices, "port": port}
        role |= {"core": -1 if cores is None else cores[process], "data": data}
        command = [sys.executable, "-m", "benchmarks.scale._devices", "--role"]
        running.append(
            subprocess.Popen(
                [*command, json.dumps(role | {"plan": asdict(plan)})],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": path},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    try:
        printed = [process.communicate(timeout=600)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    if any(process.returncode for process in running):
        raise RuntimeError(f"expected all of {processes} processes to end well; got an error.")
    return max(float(text.strip().splitlines()[-1]) for text in printed)


def work(role: dict[str, Any]) -> float:
    """What one process does: median seconds of the run of a warm fit."""
    if role["core"] >= 0:
        os.sched_setaffinity(0, {role["core"]})
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={role['devices']}"
    import jax

    if role["processes"] > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        address = f"127.0.0.1:{role['port']}"
        jax.distributed.initialize(address, role["processes"], role["process"])
    import jax.numpy as jnp
    import numpy as np
    import optax

    import jaxvi

    plan = Plan(**role["plan"])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(plan.rows, plan.dim)).astype(np.float32)
    y = (rng.random(plan.rows) < 0.5).astype(np.float32)

    def log_prior(params: Any) -> Any:
        return -0.5 * jnp.sum(params**2)

    def log_likelihood(params: Any, data: Any) -> Any:
        logit = data[0] @ params
        return data[1] * logit - jnp.logaddexp(0.0, logit)

    target = jaxvi.Target(
        log_prior=log_prior, log_likelihood=log_likelihood, supports=jaxvi.Real(plan.dim)
    )
    solver = jaxvi.Stochastic(optax.adam, learning_rate=0.01, tolerance=None)
    spread = role["data"]
    mesh = jaxvi.make_mesh(data=spread) if spread else jaxvi.make_mesh()
    lanes = 1 if spread else plan.lanes * jax.device_count()

    def once(seed: int) -> float:
        found = jaxvi.fit(
            jax.random.key(seed),
            target,
            jaxvi.MeanField(),
            objective=jaxvi.ELBO(num_draws=DRAWS),
            solver=solver,
            data=(x, y),
            num_restarts=lanes,
            max_steps=plan.steps,
            mesh=mesh,
            progress=False,
        )
        return found.timing.run_seconds

    once(0)
    return statistics.median(once(1 + repeat) for repeat in range(plan.repeats))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", type=json.loads, help=argparse.SUPPRESS)
    role = parser.parse_args().role
    print(json.dumps(measure(), indent=1) if role is None else work(role))
