"""A fresh process that fits once, then again to new data of the same shape: `_cold KIND STEPS`.

Prints seconds and bounds as one line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

Fit = Callable[[Any], Any]
"""Fits a problem, waits, and gives a mean field's parameters."""


def jaxvi_fit(num_steps: int) -> Fit:
    """`jaxvi.fit` with one restart and a fixed number of steps."""
    import jax

    import jaxvi
    from benchmarks.engine._sides import setup_for

    def fit(problem: Any) -> Any:
        setup = setup_for(problem)
        result = jaxvi.fit(
            jax.random.key(0),
            problem.target,
            setup.family,
            objective=setup.objective,
            solver=setup.solver,
            data=problem.data,
            num_restarts=1,
            start=problem.target.constrain(problem.starts(1)[0]),
            max_steps=num_steps,
            progress=False,
        )
        return jax.block_until_ready(result.lane(0).phi)

    return fit


def numpyro_run(num_steps: int) -> Fit:
    """NumPyro's own `svi.run`, the guide and SVI made once."""
    import jax
    import jax.numpy as jnp

    from benchmarks.engine import _sides as sides

    svi: Any = None

    def fit(problem: Any) -> Any:
        nonlocal svi
        svi = svi or sides.numpyro_svi(problem)
        start = problem.starts(1)[0]
        first = {"z_auto_loc": start, "z_auto_scale": jnp.full_like(start, sides.INIT_SCALE)}
        result = svi.run(
            jax.random.key(0), num_steps, problem.data, progress_bar=False, init_params=first
        )
        return jax.block_until_ready(sides.numpyro_phi(result.params))

    return fit


def numpyro_jit(num_steps: int) -> Fit:
    """NumPyro's start and updates in one function jitted by hand, which then stays compiled."""
    import jax

    from benchmarks.engine import _sides as sides

    program: Any = None

    def build(problem: Any) -> Any:
        svi = sides.numpyro_svi(problem)

        def loop(key: Any, start: Any, data: Any) -> Any:
            state = sides.numpyro_start(svi, key, start, data)
            state = sides.numpyro_steps(svi, num_steps, state, data)
            return sides.numpyro_phi(svi.get_params(state))

        return jax.jit(loop)

    def fit(problem: Any) -> Any:
        nonlocal program
        program = program or build(problem)
        start = problem.starts(1)[0]
        return jax.block_until_ready(program(jax.random.key(0), start, problem.data))

    return fit


KINDS: dict[str, Callable[[int], Fit]] = {
    "jaxvi": jaxvi_fit,
    "numpyro_run": numpyro_run,
    "numpyro_jit": numpyro_jit,
}


def main(kind: str, num_steps: int) -> None:
    """Two timed fits; everything that both need is imported and made before the clock starts."""
    from benchmarks._problems import mixture
    from benchmarks.engine._sides import fresh_bounds

    if kind != "jaxvi":
        import numpyro  # noqa: F401
    fit = KINDS[kind](num_steps)
    seconds, bounds = {}, {}
    for turn, problem in {"first": mixture(), "second": mixture(seed=1)}.items():
        began = time.perf_counter()
        phi = fit(problem)
        seconds[turn] = time.perf_counter() - began
        # a lane's axis for the bounds, outside the clock
        bounds[turn] = float(fresh_bounds(problem, type(phi)(*(leaf[None] for leaf in phi)))[0])
    print(json.dumps({"seconds": seconds, "bounds": bounds}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
