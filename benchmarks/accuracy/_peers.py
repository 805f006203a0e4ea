"""NumPyro's sampler and its flow, on the same flat log density."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

import jaxvi
from benchmarks._methods import Method, Outcome, Task
from benchmarks._peers import PLAIN_RATE, PLAIN_STEPS, starts, svi_of
from jaxvi import Status

_CHAINS = 4
_TRIES = 100
LONGER = (1, 2, 4, 8)
_FLOW = "AutoIAFNormal"
_FLOW_STEPS, _FLOW_PARTICLES, _FLOW_RATE = 10_000, 8, 3e-3


class Chains(NamedTuple):
    """What chains leave: draws, chains after one another, and gradients of all their steps."""

    z: Float[Array, "chains draws dim"]
    steps: Int[Array, "warm_up_and_draws chains"]
    diverging: Bool[Array, "draws chains"]
    tries: Int[Array, ""]


class _Start(NamedTuple):
    """Points, with potential and gradient where they were looked at."""

    z: Float[Array, "chains dim"]
    potential: Float[Array, " chains"]
    gradient: Float[Array, "chains dim"]
    good: Bool[Array, " chains"]
    tries: Int[Array, ""]


@cache
def chains_program(target: jaxvi.Target, warm_up: int, draws: int) -> Any:
    """NUTS with all its defaults, all chains in one loop, compiled once.

    The kernel is driven by hand because `MCMC(...).run` with chain_method="vectorized" compiles
    at every call. Compiling apart, its first run took 0.24 s and 0.59 s on kidscore_momhs and
    garch11 where this takes 0.13 s and 0.40 s, so NUTS loses nothing by it.
    """
    from numpyro.infer import NUTS
    from numpyro.infer.util import ParamInfo

    def chains(key: Any, first: Array, data: Any) -> Chains:
        def potential(z: Array) -> Array:
            return -target.log_prob(z, data)

        start = _finite_start(key, first, potential)
        kernel = NUTS(potential_fn=potential)
        keys = jax.random.split(jax.random.fold_in(key, _TRIES), len(first))
        given = ParamInfo(start.z, start.potential, start.gradient)
        state = kernel.init(keys, warm_up, init_params=given)

        def step(state: Any, _: None) -> tuple[Any, Any]:
            state = kernel.sample(state, (), {})
            return state, (state.z, state.num_steps, state.diverging)

        _, (z, steps, diverging) = jax.lax.scan(step, state, None, length=warm_up + draws)
        z = jnp.moveaxis(z[warm_up:], 0, 1)
        return Chains(z, steps, diverging[warm_up:], start.tries)

    return jax.jit(chains)


def _finite_start(key: Any, first: Array, potential: Any) -> _Start:
    """`first`, drawn again where potential or gradient is not finite."""
    look = jax.vmap(jax.value_and_grad(potential))

    def body(start: _Start) -> _Start:
        fresh = jax.random.normal(jax.random.fold_in(key, start.tries), first.shape, first.dtype)
        keep = start.good | (start.tries == 0)
        z = jnp.where(keep[:, None], start.z, fresh)
        value, gradient = look(z)
        good = jnp.isfinite(value) & jnp.isfinite(gradient).all(axis=1)
        return _Start(z, value, gradient, good, start.tries + 1)

    nothing = jnp.zeros(len(first), first.dtype)
    start = _Start(first, nothing, jnp.zeros_like(first), nothing > 0, jnp.asarray(0))
    return jax.lax.while_loop(lambda s: ~s.good.all() & (s.tries < _TRIES), body, start)


def _nuts(
    task: Task, key: Key[Array, ""], _: Outcome | None, lanes: int, warm_up: int, draws: int
) -> Outcome:
    start = starts(task, key, _CHAINS)
    found = chains_program(task.target, warm_up, draws)(key, start, task.data)
    found = jax.block_until_ready(found)
    # a step of a trajectory is one gradient: one chain by itself counts exactly as many
    gradients = int(np.asarray(found.steps).sum()) + _CHAINS * int(found.tries)

    def draw(key: Key[Array, ""], num: int) -> Array:
        return found.z.reshape(-1, task.target.dim)

    return Outcome(draw, "-", evaluations=gradients, facts=partial(_of_chains, found))


def _of_chains(found: Chains) -> dict[str, Any]:
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    z = np.asarray(found.z, np.float64)
    # a chain that never moved has no variance
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "rhat": float(np.max(split_gelman_rubin(z))),
            "ess": float(np.min(effective_sample_size(z))),
            "divergences": int(np.asarray(found.diverging).sum()),
        }


def _run(
    task: Task, key: Key[Array, ""], _: Outcome | None, lanes: int, warm_up: int, draws: int
) -> Outcome:
    """`MCMC(...).run`, as NumPyro's users call it; a second run on the same object is no faster."""
    from numpyro.infer import MCMC, NUTS

    mcmc = MCMC(
        NUTS(potential_fn=lambda z: -task.target.log_prob(z, task.data)),
        num_warmup=warm_up,
        num_samples=draws,
        num_chains=_CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(key, init_params=starts(task, key, _CHAINS))
    z = jax.block_until_ready(mcmc.get_samples())
    return Outcome(lambda key, num: z, "-")


def nuts(warm_up: int, draws: int) -> tuple[Method, ...]:
    """Four chains in one vectorised loop: compiled once, and as the package's own call.

    The latter also 2, 4 and 8 times as long, each where the one before was not good enough.
    """
    runs, before = [], None
    for times in LONGER:
        steps = f"{_CHAINS} x {times * warm_up:,} + {times * draws:,}"
        name = longer(times)
        runs.append(
            Method(
                name,
                f"NumPyro NUTS, {steps}, MCMC.run",
                partial(_run, warm_up=times * warm_up, draws=times * draws),
                package="numpyro",
                evaluations=0,  # the first's are those of the row above; not counted again
                repeats=1,
                unless=before,
            )
        )
        before = name
    return (
        Method(
            "nuts",
            f"NumPyro NUTS, {_CHAINS} x {warm_up:,} + {draws:,}, compiled once",
            partial(_nuts, warm_up=warm_up, draws=draws),
            package="numpyro",
        ),
        *runs,
    )


def longer(times: int) -> str:
    """The name of runs so many times as long."""
    return "nuts_run" if times == 1 else f"nuts_run_{times}"


def _whitened(target: jaxvi.Target, z: Array, data: Any) -> Array:
    """The density of u at z = mode + L u, but for a constant."""
    return target.log_prob(data["mode"] + data["factor"] @ z, data["data"])


@cache
def _flow_at_mode_program(target: jaxvi.Target) -> tuple[Any, Any]:
    """Fit and draws, both compiled once."""
    import numpyro

    rate = optax.cosine_decay_schedule(_FLOW_RATE, _FLOW_STEPS)
    adam = numpyro.optim.optax_to_numpyro(optax.adam(rate))
    svi = svi_of(target, _FLOW, adam, _FLOW_PARTICLES, _whitened)

    def loop(key: Any, data: Any) -> Any:
        state = svi.init(key, data)
        state = jax.lax.fori_loop(0, _FLOW_STEPS, lambda _, s: svi.update(s, data)[0], state)
        return svi.get_params(state)

    def draw(key: Any, params: Any, data: Any, num: int) -> Array:
        u = svi.guide.sample_posterior(key, params, sample_shape=(num,))["z"]
        return data["mode"][None] + u @ data["factor"].T

    return jax.jit(loop), jax.jit(draw, static_argnames="num")


def _flow_at_mode(task: Task, key: Key[Array, ""], after: Outcome | None, lanes: int) -> Outcome:
    """On the density that Laplace's approximation makes about standard normal; where it found
    none, on the density itself."""
    dtype = task.target.dtype(task.data)
    mode, factor = jnp.zeros(task.target.dim, dtype), jnp.eye(task.target.dim, dtype=dtype)
    if after is not None and after.moments is not None and after.status == Status.CONVERGED.name:
        mode, covariance = after.moments()
        factor = jnp.linalg.cholesky(covariance)
    data = {"mode": mode, "factor": factor, "data": task.data}
    fitted, drawn = _flow_at_mode_program(task.target)
    params = jax.block_until_ready(fitted(key, data))
    return Outcome(lambda key, num: drawn(key, params, data, num=num), "-")


def _flow_as_it_comes(task: Task, key: Key[Array, ""], _: Outcome | None, lanes: int) -> Outcome:
    """`svi.run` with the guide's own start and one particle; it compiles at every call."""
    import numpyro

    svi = svi_of(task.target, _FLOW, numpyro.optim.Adam(PLAIN_RATE), 1)
    params = svi.run(key, PLAIN_STEPS, task.data, progress_bar=False).params
    params = jax.block_until_ready(params)

    def draw(key: Key[Array, ""], num: int) -> Array:
        return svi.guide.sample_posterior(key, params, sample_shape=(num,))["z"]

    return Outcome(draw, "-")


def flows() -> tuple[Method, Method]:
    """The flow at its best, as far as we know, and as it comes."""
    return (
        Method(
            "numpyro_flow_at_mode",
            f"NumPyro {_FLOW}, on the whitened density",
            _flow_at_mode,
            after="laplace",
            package="numpyro",
            evaluations=_FLOW_STEPS * _FLOW_PARTICLES,
        ),
        Method(
            "numpyro_flow",
            f"NumPyro {_FLOW}, svi.run",
            _flow_as_it_comes,
            package="numpyro",
            evaluations=PLAIN_STEPS,
            repeats=0,  # each compiles anew
        ),
    )
