"""What the solvers benchmark runs: jaxvi's solvers, one function a row."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

import jaxvi
from jaxvi import FullRank, LowRank, MeanField, Status, Stochastic
from jaxvi.diagnostics import linear_response
from jaxvi.families import CouplingFlow, Family
from jaxvi.noise._antithetic import Antithetic
from jaxvi.results._fit_result import FitError
from jaxvi.results._resample import importance_resample
from jaxvi.solvers import (
    BatchAndMatch,
    FrozenNoise,
    Laplace,
    NaturalGradient,
    Pathfinder,
    Solver,
)

PATHS = 16
_RESAMPLED = 4_000
FLOW_STEPS, FLOW_DRAWS, _FLOW_RATE, _FLOW_CLIP = 3_000, 128, 3e-3, 10.0
Draw = Callable[[Key[Array, ""], int], Float[Array, "draws dim"]]


@dataclass(frozen=True, eq=False)
class Task:
    """A log density with its data, and what a fit of it may cost."""

    name: str
    target: jaxvi.Target
    data: Any = None
    max_steps: int = 20_000
    eval_draws: int = 2_000


@dataclass(eq=False)
class Outcome:
    """What a method found: how to draw unconstrained z from it, and what it says of itself.

    `evaluations` are those that the method counted itself; `facts()`, for the cell, may take time.
    """

    draw: Draw | None
    status: str
    fit: jaxvi.Fit | None = None
    moments: Callable[[], tuple[Any, Any]] | None = None  # mean and covariance of q, if Gaussian
    bound: float | None = None
    key: Any = None  # of the fit
    evaluations: int | None = None
    facts: Callable[[], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Method:
    """A row: `run(task, key, outcome of "after", lanes)`; `after` has been run with this task.

    `counted` is False where the number of evaluations is a plain product, `evaluations`, so that
    no run is spent on it. `repeats` overrides how often a warm run is timed. `unless` names a
    method after which this is not run where that one's draws, or an earlier one's, were within.
    """

    name: str
    title: str
    run: Callable[[Task, Key[Array, ""], Outcome | None, int], Outcome]
    after: str | None = None
    package: str | None = None
    evaluations: int | None = None
    repeats: int | None = None
    unless: str | None = None


def of_fit(fit: jaxvi.Fit, key: Key[Array, ""]) -> Outcome:
    """The best lane's q."""
    phi, family = fit.lane(fit.best).phi, fit.setup.family

    def moments() -> tuple[Any, Any]:
        return family.moments(phi).mean, family.covariance(phi)  # type: ignore[attr-defined]

    return Outcome(
        draw=fit.sample_unconstrained,
        status=Status(int(fit.status[fit.best])).name,
        fit=fit,
        moments=moments if hasattr(family, "covariance") else None,
        bound=fit.bound,
        key=key,
    )


def _fit(
    task: Task,
    key: Key[Array, ""],
    _after: Outcome | None,
    lanes: int,
    *,
    solver: Solver,
    family: Family | None = None,
    **choices: Any,
) -> Outcome:
    choices = {"max_steps": task.max_steps, **choices}
    fit = jaxvi.fit(
        key,
        task.target,
        family,
        solver=solver,
        data=task.data,
        num_restarts=lanes,
        num_eval_draws=task.eval_draws,
        progress=False,
        **choices,
    )
    jax.block_until_ready(fit.phi)
    return of_fit(fit, key)


def _from_fit(
    task: Task, key: Key[Array, ""], after: Outcome | None, lanes: int, **choices: Any
) -> Outcome:
    """A fit that starts where the one before ended."""
    assert after is not None
    if after.fit is None or not np.isfinite(after.fit.bound):
        return Outcome(None, f"no start: {after.status}")
    return _fit(task, key, None, lanes, start=after.fit, **choices)


def _pathfinder(task: Task, key: Key[Array, ""], _: Outcome | None, lanes: int) -> Outcome:
    """One path for one lane of the lanes' comparison; sixteen where its accuracy is asked."""
    return _fit(task, key, None, lanes, solver=Pathfinder())


def _paths(task: Task, key: Key[Array, ""], _: Outcome | None, lanes: int) -> Outcome:
    return _fit(task, key, None, PATHS, solver=Pathfinder())


def _resampled(task: Task, key: Key[Array, ""], after: Outcome | None, lanes: int) -> Outcome:
    """All paths' draws, resampled towards the target."""
    assert after is not None
    assert after.fit is not None
    try:
        found = importance_resample(key, after.fit, _RESAMPLED, replace=True)
    except FitError as error:
        return Outcome(None, f"no draws: {str(error).split(':')[0]}")
    z = jax.block_until_ready(found.z)
    status = f"khat {found.khat:.2f}" + ("" if found.ok else " (too large)")
    return Outcome(lambda key, num: z, status)


def _linear_response(task: Task, key: Key[Array, ""], after: Outcome | None, lanes: int) -> Outcome:
    """The Gaussian of the mean field's means and the covariances by linear response."""
    assert after is not None
    assert after.fit is not None
    fit = after.fit
    if int(fit.status[fit.best]) != Status.CONVERGED:
        return Outcome(None, f"not run: mean field {after.status}")
    found = linear_response(fit, key=after.key)  # for the fit's own draws
    mean = jnp.asarray(found.mean)
    covariance = jnp.asarray(found.covariance)

    def draw(key: Key[Array, ""], num: int) -> Float[Array, "draws dim"]:
        return jax.random.multivariate_normal(key, mean, covariance, (num,), method="eigh")

    return Outcome(draw, found.status.name, moments=lambda: (mean, covariance))


@cache
def _cosine(rate: float, steps: int) -> Any:
    """One schedule for all fits: schedules are compared by identity, and compile anew."""
    return optax.cosine_decay_schedule(rate, steps)


def _flow(
    task: Task, key: Key[Array, ""], after: Outcome | None, lanes: int, steps: int
) -> Outcome:
    rate = _cosine(_FLOW_RATE, steps)
    solver = Stochastic(optax.adam, learning_rate=rate, clip_norm=_FLOW_CLIP, tolerance=None)
    return _from_fit(
        task,
        key,
        after,
        lanes,
        solver=solver,
        family=CouplingFlow(),
        objective=jaxvi.ELBO(num_draws=FLOW_DRAWS, stick_the_landing=True),
        noise=Antithetic(),
        max_steps=steps,
    )


def _of(solver: Solver, family: Family | None = None) -> Callable[..., Outcome]:
    return partial(_fit, solver=solver, family=family)


METHODS = {
    method.name: method
    for method in (
        Method("laplace", "Laplace", _of(Laplace())),
        Method("natural_gradient", "natural gradient", _of(NaturalGradient(), FullRank())),
        Method(
            "flow",
            "flow from natural gradient",
            partial(_flow, steps=FLOW_STEPS),
            after="natural_gradient",
            evaluations=FLOW_STEPS * FLOW_DRAWS,
            repeats=0,  # it takes long enough: its run is the cold one without compiling
        ),
        Method("batch_and_match", "batch and match", _of(BatchAndMatch(), FullRank())),
        Method(
            "batch_and_match_laplace",
            "batch and match from Laplace",
            partial(_from_fit, solver=BatchAndMatch(), family=FullRank()),
            after="laplace",
        ),
        Method(
            "batch_and_match_low_rank",
            "batch and match, low rank",
            _of(BatchAndMatch(), LowRank(20)),
        ),
        Method("path", "Pathfinder, one path", _pathfinder),
        Method("paths", f"Pathfinder, best of {PATHS}", _paths),
        Method("paths_resampled", f"Pathfinder, {PATHS} resampled", _resampled, after="paths"),
        Method("frozen_full", "frozen Newton, dense", _of(FrozenNoise(), FullRank())),
        Method("frozen_mean_field", "frozen Newton, mean field", _of(FrozenNoise(), MeanField())),
        Method(
            "linear_response", "and linear response", _linear_response, after="frozen_mean_field"
        ),
        Method("adam_full", "Adam, dense", _of(Stochastic(), FullRank())),
        Method("adam_mean_field", "Adam, mean field", _of(Stochastic(), MeanField())),
        Method(
            "natural_gradient_mean_field",
            "natural gradient, mean field",
            _of(NaturalGradient(), MeanField()),
        ),
        Method("laplace_mean_field", "Laplace, mean field", _of(Laplace(), MeanField())),
    )
}
