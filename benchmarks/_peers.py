"""The same posteriors by other packages, on the same flat log density.

PyMC extras has DADVI for PyMC models; no package that has it for densities of JAX was found.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

import jaxvi
from benchmarks._methods import PATHS, Method, Outcome, Task
from jaxvi import Status

_MAX_ITERATIONS = 100  # of BlackJAX's L-BFGS, whose default of 30 cuts some paths short
_DRAWS = 200  # for each of its bounds, and drawn from every path: its default
_RESAMPLED = 4_000
_STEPS, _PARTICLES, _RATE = 10_000, 8, 0.02  # NumPyro at its best, as far as we know
PLAIN_STEPS, PLAIN_RATE = 5_000, 0.01


def installed(package: str | None) -> bool:
    """Whether a peer's package is there; None is our own."""
    return package is None or importlib.util.find_spec(package) is not None


def version(package: str) -> str:
    """The installed version of a package, or that it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def starts(task: Task, key: Key[Array, ""], num: int) -> Array:
    """Standard normal, as jaxvi's own where a target has no start."""
    return jax.random.normal(key, (num, task.target.dim), task.target.dtype(task.data))


@cache
def _path_program(target: jaxvi.Target) -> Any:
    from blackjax.vi import pathfinder

    def approximate(key: Any, start: Any, data: Any) -> Any:
        log_prob = partial(_log_prob, target, data)
        found, _ = pathfinder.approximate(key, log_prob, start, _DRAWS, maxiter=_MAX_ITERATIONS)
        return found

    return jax.jit(approximate)


@cache
def _paths_program(target: jaxvi.Target) -> Any:
    from blackjax.vi import multipathfinder

    def approximate(key: Any, starts: Any, data: Any) -> Any:
        log_prob = partial(_log_prob, target, data)
        key, own = jax.random.split(key)
        found, _ = multipathfinder.multi_approximate(
            own, log_prob, starts, _DRAWS, maxiter=_MAX_ITERATIONS
        )
        log_weights, khat = multipathfinder.psis_weights(found)
        pool = found.samples.reshape(-1, starts.shape[-1])
        return jax.random.choice(key, pool, (_RESAMPLED,), p=jnp.exp(log_weights)), khat

    return jax.jit(approximate)


def _log_prob(target: jaxvi.Target, data: Any, z: Array) -> Array:
    return target.log_prob(z, data)


def _path(task: Task, key: Key[Array, ""], _: Outcome | None, lanes: int) -> Outcome:
    start = starts(task, key, 1)[0]
    found = jax.block_until_ready(_path_program(task.target)(key, start, task.data))

    def draw(key: Key[Array, ""], num: int) -> Array:
        from blackjax.vi import pathfinder

        return pathfinder.sample(key, found, num)[0]

    return Outcome(draw, "-", bound=float(found.elbo))


def _multi_path(task: Task, key: Key[Array, ""], _: Outcome | None, lanes: int) -> Outcome:
    points = starts(task, key, PATHS)
    z, khat = jax.block_until_ready(_paths_program(task.target)(key, points, task.data))
    return Outcome(lambda key, num: z, f"khat {float(khat):.2f}")


def svi_of(
    target: jaxvi.Target,
    guide: str,
    optimiser: Any,
    particles: int,
    log_prob: Callable[[jaxvi.Target, Array, Any], Array] = jaxvi.Target.log_prob,
) -> Any:
    import numpyro
    from numpyro import distributions as dist
    from numpyro.infer import SVI, Trace_ELBO, autoguide

    flat = dist.ImproperUniform(dist.constraints.real_vector, (), (target.dim,))

    def model(data: Any) -> None:
        z = numpyro.sample("z", flat)
        numpyro.factor("log_density", log_prob(target, z, data))

    made = getattr(autoguide, guide)(model)
    return SVI(model, made, optimiser, Trace_ELBO(num_particles=particles))


@cache
def _svi_program(target: jaxvi.Target, guide: str) -> Any:
    """Start and steps in one function jitted by hand, which stays compiled."""
    import numpyro

    rate = optax.cosine_decay_schedule(_RATE, _STEPS)
    adam = numpyro.optim.optax_to_numpyro(optax.adam(rate))
    svi = svi_of(target, guide, adam, _PARTICLES)

    def loop(key: Any, start: Any, data: Any) -> Any:
        name = "z_auto_loc" if guide == "AutoNormal" else "auto_loc"
        state = svi.init(key, data, init_params={name: start})
        state = jax.lax.fori_loop(0, _STEPS, lambda _, s: svi.update(s, data)[0], state)
        return svi.get_params(state)

    return jax.jit(loop)


def _at_mode(
    task: Task, key: Key[Array, ""], after: Outcome | None, lanes: int, guide: str
) -> Outcome:
    """From the mode that Laplace's approximation found, or the origin where it found none."""
    start = jnp.zeros(task.target.dim, task.target.dtype(task.data))
    if after is not None and after.fit is not None and after.status == Status.CONVERGED.name:
        start = after.fit.lane(after.fit.best).phi.loc
    return _fitted(_svi_program(task.target, guide)(key, start, task.data))


def _as_it_comes(
    task: Task, key: Key[Array, ""], _: Outcome | None, lanes: int, guide: str
) -> Outcome:
    """`svi.run`, which compiles at every call, with the guide's own start and one particle."""
    import numpyro

    svi = svi_of(task.target, guide, numpyro.optim.Adam(PLAIN_RATE), 1)
    result = svi.run(key, PLAIN_STEPS, task.data, progress_bar=False)
    return _fitted(result.params)


def _fitted(params: Any) -> Outcome:
    """q of either guide; it says nothing of how it ended."""
    params = jax.block_until_ready(params)
    if "auto_loc" in params:
        loc, factor = params["auto_loc"], params["auto_scale_tril"]
    else:
        loc, factor = params["z_auto_loc"], jnp.diag(params["z_auto_scale"])

    def draw(key: Key[Array, ""], num: int) -> Array:
        return loc[None] + jax.random.normal(key, (num, loc.size), loc.dtype) @ factor.T

    return Outcome(draw, "-", moments=lambda: (loc, factor @ factor.T))


def _guide(guide: str, name: str, words: str) -> tuple[Method, Method]:
    return (
        Method(
            f"numpyro_{name}_at_mode",
            f"NumPyro {words}, from the mode",
            partial(_at_mode, guide=guide),
            after="laplace",
            package="numpyro",
            evaluations=_STEPS * _PARTICLES,
        ),
        Method(
            f"numpyro_{name}",
            f"NumPyro {words}, svi.run",
            partial(_as_it_comes, guide=guide),
            package="numpyro",
            evaluations=PLAIN_STEPS,
            repeats=0,  # each compiles anew
        ),
    )


PEERS = {
    method.name: method
    for method in (
        Method("blackjax_path", "BlackJAX Pathfinder", _path, package="blackjax"),
        Method(
            "blackjax_paths",
            f"BlackJAX Pathfinder, {PATHS} resampled",
            _multi_path,
            package="blackjax",
        ),
        *_guide("AutoNormal", "normal", "AutoNormal"),
        *_guide("AutoMultivariateNormal", "dense", "AutoMultivariateNormal"),
    )
}
