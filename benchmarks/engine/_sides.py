"""What the engine benchmark times: the engine's chunk, the bare gradient, NumPyro's update."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

import jaxvi
from benchmarks._problems import Problem
from benchmarks._timing import Run, seconds_of
from jaxvi._engine.lanes import advance_lanes
from jaxvi._engine.loop import block_length
from jaxvi._engine.setup import Setup
from jaxvi._engine.starts import start_lanes
from jaxvi._numerics.random import split_key
from jaxvi.families._mean_field import MeanFieldParams

NUM_DRAWS = 8
INIT_SCALE = 0.1
_ROWS = 64


@dataclass(eq=False)
class Side:
    """One way to do steps: `run(n)` does n more, `fitted()` gives where it stands."""

    run: Run
    compile_seconds: float
    fitted: Callable[[], MeanFieldParams] | None = None


def compiled(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """The compiled program of a jitted function, and the seconds to trace and compile it."""
    program: Any = None

    def build() -> None:
        nonlocal program
        program = function.lower(*args, **kwargs).compile()  # type: ignore[attr-defined]

    seconds = seconds_of(build)
    return program, seconds


def setup_for(problem: Problem) -> Setup:
    """The engine as `fit` would run it, for a fixed number of steps."""
    solver = jaxvi.Stochastic(
        optax.adam, learning_rate=problem.learning_rate, tolerance=None, anneal=1.0
    )
    family = jaxvi.MeanField(init_scale=INIT_SCALE)
    return Setup(problem.target, family, jaxvi.ELBO(NUM_DRAWS), solver, jaxvi.Fresh())


def engine(problem: Problem, num_lanes: int) -> Side:
    """The chunk program of `fit`, at most 64 blocks a call, lanes donated."""
    setup = setup_for(problem)
    keys = split_key(jax.random.key(0))
    most = _ROWS * block_length(setup)
    lanes = start_lanes(
        keys,
        problem.starts(num_lanes),
        jnp.ones(()),
        problem.data,
        setup=setup,
        num_lanes=num_lanes,
    )
    zero = jnp.int32(0)
    args = (keys, lanes, zero, zero, problem.data)
    program, seconds = compiled(advance_lanes, *args, setup=setup, rows=_ROWS)
    step = 0

    def run(num_steps: int) -> None:
        nonlocal lanes, step
        goal = step + num_steps
        while step < goal:
            last = min(step + most, goal)
            lanes, _, _ = program(keys, lanes, jnp.int32(step), jnp.int32(last), problem.data)
            step = last
        if not bool((lanes.status == jaxvi.Status.RUNNING).all()):
            raise RuntimeError(f"lanes ended while timed: {lanes.status}")

    return Side(run, seconds, lambda: lanes.state.phi)


def _bare_step(problem: Problem) -> Callable[..., tuple[Array, Array]]:
    """The gradients of all points, which then move by a speck of them.

    So no step can be hoisted out of a loop or dropped from it, nor two of them run at once.
    """
    gradients = jax.vmap(jax.value_and_grad(problem.target.log_prob), (0, None))

    def step(points: Array, data: Any) -> tuple[Array, Array]:
        values, grads = gradients(points, data)
        return points + 1e-9 * grads, values

    return step


def bare_loop(problem: Problem, num_lanes: int) -> Side:
    """Only the gradients, in a compiled loop; the values are summed."""
    step = _bare_step(problem)

    @jax.jit
    def loop(num: Array, points: Array, data: Any) -> tuple[Array, Array]:
        def body(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            points, values = step(carry[0], data)
            return points, carry[1] + values.sum()

        return lax.fori_loop(0, num, body, (points, jnp.zeros(())))

    points = problem.starts(num_lanes * NUM_DRAWS)
    program, seconds = compiled(loop, jnp.int32(1), points, problem.data)

    def run(num_steps: int) -> None:
        jax.block_until_ready(program(jnp.int32(num_steps), points, problem.data))

    return Side(run, seconds)


def bare_calls(problem: Problem, num_lanes: int) -> Side:
    """Only the gradients, one jitted call a step, whose dispatch counts; waits after the last."""
    step = jax.jit(_bare_step(problem))
    start = problem.starts(num_lanes * NUM_DRAWS)
    seconds = seconds_of(lambda: jax.block_until_ready(step(start, problem.data)))

    def run(num_steps: int) -> None:
        points, values = start, None
        for _ in range(num_steps):
            points, values = step(points, problem.data)
        jax.block_until_ready((points, values))

    return Side(run, seconds)


def numpyro_svi(problem: Problem, *, mean_field: bool = False, optimiser: str = "optax") -> Any:
    """NumPyro's SVI with AutoNormal on the same flat log density, draws and optimiser."""
    import numpyro
    from numpyro import distributions as dist
    from numpyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
    from numpyro.infer.autoguide import AutoNormal

    flat = dist.ImproperUniform(dist.constraints.real_vector, (), (problem.dim,))

    def model(data: Any) -> None:
        z = numpyro.sample("z", flat)
        numpyro.factor("log_density", problem.target.log_prob(z, data))

    loss = (TraceMeanField_ELBO if mean_field else Trace_ELBO)(num_particles=NUM_DRAWS)
    if optimiser == "optax":
        adam = numpyro.optim.optax_to_numpyro(optax.adam(problem.learning_rate))
    else:
        adam = numpyro.optim.Adam(problem.learning_rate)
    svi = SVI(model, AutoNormal(model, init_scale=INIT_SCALE), adam, loss)
    svi.init(jax.random.key(0), problem.data)  # sets up the guide, outside every transformation
    return svi


def numpyro_start(svi: Any, key: Array, start: Float[Array, " dim"], data: Any) -> Any:
    """NumPyro's state at a start of its own."""
    first = {"z_auto_loc": start, "z_auto_scale": jnp.full_like(start, INIT_SCALE)}
    return svi.init(key, data, init_params=first)


def numpyro_steps(svi: Any, num: Any, state: Any, data: Any) -> Any:
    """So many updates of one restart; the losses are dropped, which spares it their storing."""
    return lax.fori_loop(0, num, lambda _, s: svi.update(s, data)[0], state)


def numpyro(problem: Problem, num_lanes: int, **choices: Any) -> Side:
    """NumPyro vmapped over restarts: one compiled loop of updates, state donated."""
    svi = numpyro_svi(problem, **choices)
    data = problem.data
    keys = jax.random.split(jax.random.key(0), num_lanes)
    starts = problem.starts(num_lanes)
    states = jax.jit(jax.vmap(partial(numpyro_start, svi), (0, 0, None)))(keys, starts, data)
    locs = svi.optim.get_params(states.optim_state)["z_auto_loc"]
    if not bool(jnp.allclose(locs, starts)):
        raise RuntimeError("NumPyro's restarts are not where they were to start")

    @partial(jax.jit, donate_argnums=(1,))
    def loop(num: Array, states: Any, data: Any) -> Any:
        update = jax.vmap(lambda state: svi.update(state, data)[0])
        return lax.fori_loop(0, num, lambda _, states: update(states), states)

    program, seconds = compiled(loop, jnp.int32(1), states, data)

    def run(num_steps: int) -> None:
        nonlocal states
        states = jax.block_until_ready(program(jnp.int32(num_steps), states, data))

    def fitted() -> MeanFieldParams:
        return numpyro_phi(jax.vmap(svi.get_params)(states))

    return Side(run, seconds, fitted)


def numpyro_phi(params: dict[str, Array]) -> MeanFieldParams:
    """AutoNormal's parameters as our family's."""
    return MeanFieldParams(params["z_auto_loc"], jnp.log(params["z_auto_scale"]))


def fresh_bounds(problem: Problem, phis: MeanFieldParams) -> Float[Array, " lanes"]:
    """Every lane's bound by our ELBO on the same 2000 fresh draws."""
    family = jaxvi.MeanField()
    objective = jaxvi.ELBO(2000)

    @jax.jit
    def bounds(phis: MeanFieldParams, data: Any) -> Array:
        dtype = phis.loc.dtype
        noise = family.draw_noise(jax.random.key(7), objective.num_draws, problem.dim, dtype)
        return lax.map(lambda p: objective(p, noise, family, problem.target, data).bound, phis)

    return bounds(phis, problem.data)


SIDES: dict[str, Callable[[Problem, int], Side]] = {
    "engine": engine,
    "bare_loop": bare_loop,
    "bare_calls": bare_calls,
    "numpyro": numpyro,
}
