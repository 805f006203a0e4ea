"""Thousands of fits in one process: memory, programs, threads and files must not grow.

`python tests/soaking.py NUMBER [DATA_SETS]` prints what there was after the first round and at the
end, as JSON. Targets, solvers and data are made anew for each fit, as a loop over data sets does;
equal ones must share what was compiled. A round is each way of fitting on each of the data sets,
of which there are twenty unless told: a new one may take a stage of the autopilot that none before
it took.
"""

import gc
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvi
from jaxvi.estimators import BayesianGaussianMixture

PAGE = os.sysconf("SC_PAGE_SIZE")
WAYS = 11
compiled = [0]


def log_density(params: Any, data: Any) -> jax.Array:
    """Of a normal mean and scale."""
    residual = (data - params["mu"]) / params["scale"]
    prior = -0.5 * (params["mu"] ** 2 + params["scale"] ** 2)
    return prior - 0.5 * jnp.sum(residual**2) - data.size * jnp.log(params["scale"])


def log_prior(params: Any) -> jax.Array:
    """Of a normal mean."""
    return -0.5 * params**2


def log_likelihood(params: Any, rows: Any) -> jax.Array:
    """Of each row."""
    return -0.5 * (rows - params) ** 2


def fits(rows: np.ndarray, folder: str) -> list[Callable[[jax.Array], Any]]:
    """Ways of fitting, which take turns."""

    def one(key: jax.Array, **options: Any) -> Any:
        target = jaxvi.Target(log_density, {"mu": jaxvi.Real(), "scale": jaxvi.Positive()})
        options = {"num_restarts": 2, "num_eval_draws": 100, "progress": False} | options
        return jaxvi.fit(key, target, **({"data": rows} | options))

    def by_rows(key: jax.Array, data: Any, **options: Any) -> Any:
        target = jaxvi.Target(
            log_prior=log_prior, log_likelihood=log_likelihood, supports=jaxvi.Real()
        )
        batch = jaxvi.Minibatch(8)
        return jaxvi.fit(
            key, target, data=data, minibatch=batch, num_restarts=2, max_steps=60, progress=False
        )

    def sampled(key: jax.Array, **options: Any) -> Any:
        return one(key, **options).sample(key, 20)

    mixture = BayesianGaussianMixture(n_components=2, max_iter=500, random_state=0)
    adam = jaxvi.Stochastic(optax.adam, learning_rate=0.05)
    return [
        sampled,
        lambda key: sampled(key, data=rows[:3]),  # so skew that it takes a flow
        lambda key: sampled(key, polish=True),
        lambda key: one(key, solver=jaxvi.Laplace()),
        lambda key: one(key, solver=jaxvi.NaturalGradient()),
        lambda key: one(key, family=jaxvi.MeanField(), solver=jaxvi.FrozenNoise()).khat,
        lambda key: one(key, solver=adam, num_restarts=4, pool=2, max_steps=60),
        lambda key: one(
            key, solver=jaxvi.Laplace(), checkpoint=tempfile.mkdtemp(dir=folder)
        ),
        lambda key: by_rows(key, rows),
        lambda key: by_rows(key, jaxvi.Stream(rows)),
        lambda key: mixture.fit(rows[:, None]),
    ]  # fmt: skip


def look() -> dict[str, float]:
    """What a process can have too much of."""
    gc.collect()
    return {
        "MiB": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20,
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "compiled": compiled[0],
    }


def main(number: int, data_sets: int = 20) -> None:
    """Fit, and print."""

    def count(event: str, seconds: float, **_: Any) -> None:
        compiled[0] += event.endswith("backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(count)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(number):
            seed, way = divmod(i % (WAYS * data_sets), WAYS)
            rows = np.random.default_rng(seed).normal(size=100).astype(np.float32)
            fits(rows, folder)[way](jax.random.key(seed))
            if i + 1 == WAYS * data_sets:
                print(json.dumps(look()))
    print(json.dumps(look()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
