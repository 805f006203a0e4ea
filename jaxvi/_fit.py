"""The entry: the solver that is asked for, else a strategy that finds, checks and mends q."""

import os
from typing import Any

import numpy as np
from jaxtyping import Array

from jaxvi import _arguments
from jaxvi._engine import Reporter
from jaxvi._fitting import Layout, Parts, Request, check_reporter, default_draws, fit_restarts
from jaxvi._persistence import Checkpoints, as_folder
from jaxvi._sampling import draws_each
from jaxvi._types import Data
from jaxvi.autopilot import EFFORTS, GAUSSIAN_STEPS, Pilot
from jaxvi.data import Minibatch
from jaxvi.families import (
    Family,
)
from jaxvi.mesh import check_mesh, processes, writes
from jaxvi.noise import NoiseSource
from jaxvi.objectives import Objective
from jaxvi.results import Fit
from jaxvi.solvers import Solver
from jaxvi.target import Target

_WIDE_UP_TO, _MANY_UP_TO = 50, 100  # dimensions
_WIDE = 3.0  # of most starts
_FAR_ONES, _FAR, _FARTHEST = 4, 7.0, 15.0  # one in so many is further out


def fit(
    key: Array,
    target: Target,
    family: Family | None = None,
    *,
    objective: Objective | None = None,
    solver: Solver | None = None,
    noise: NoiseSource | None = None,
    data: Data = None,
    num_restarts: int | None = None,
    start: Any = None,
    start_scale: Any = None,
    max_steps: int | None = None,
    num_eval_draws: int | None = None,
    effort: str = "normal",
    max_seconds: float | None = None,
    polish: bool | str = "auto",
    pool: int | None = None,
    race: bool = False,
    minibatch: Minibatch | None = None,
    progress: bool | Reporter | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    mesh: Any = None,
) -> Fit:
    """Fit a posterior, check the fit, and say how far it can be trusted.

    With no family, objective, solver or noise: the autopilot. A Gaussian is fitted by natural
    gradients from several random starts and weighed against the density; where the weights ask
    for it and few coordinates set the scales of others, these are given and the others Laplace's;
    else a Gaussian in non-centred coordinates, and where the dimension allows a flow, are fitted
    from there; where weights can't mend what is left, short Hamiltonian chains from q's draws look
    whether they drift, and where they do, run until they don't. Separate modes of comparable mass
    become a mixture. `fit.log` has a line for every stage, `fit.verdict` and `fit.reasons` what
    came out, `fit.q` what variational inference gave, and `fit.sample` the best draws there are.

    With any of them: that solver alone (what isn't given is what suits it), many restarts in one
    compiled batch, the winner by a fresh bound on draws common to all; `fit.verdict` then rests
    on the importance weights alone.

    Equal specs with data of equal shapes share compiled programs. Ctrl-C returns what there is.
    The same key gives the same numbers again, bit for bit, on the same machine with the same
    versions, unless a time limit cuts the run elsewhere.

    Args:
        key: a random key, typed (`jax.random.key(0)`) or raw.
        target: the log density with its supports.
        family: the variational family.
        objective: `ELBO(...)`, by default as suits the solver.
        solver: `Stochastic()` where only something else is given.
        noise: where base noise comes from.
        data: a pytree of arrays handed to the log density; its floating dtype is the engine's.
        num_restarts: number of lanes; by default 8, with the autopilot 16, 8 and 2 up to and above
            dimensions 50 and 100.
        start: parameters to start from, a pytree like the target's supports, constrained. One
            point is where lane 0 starts and around which the others scatter; a leading axis of
            `num_restarts` on every leaf gives each lane its own. None draws them. A `Fit` of the
            same target starts every lane at its best lane's q: as it is where the family is the
            same, else at the family's member nearest to the Gaussian of its mean and covariance.
        start_scale: standard deviation of drawn starts, in unconstrained units: one for all, or
            one for each restart; every second one mirrors the one before. By default 1; with the
            autopilot from 1 to 3, and of every fourth 7 and 15, so that modes are found that are
            far apart, but 1 above dimension 50.
        max_steps: step limit of the solver; by default 20,000, with the autopilot 3,000.
        num_eval_draws: fresh draws by which lanes are ranked; by default 2,000. The autopilot,
            which weighs the best one anyway, takes fewer where they tell bounds to 0.03 nats.
        effort: of the autopilot: "quick" stops at the Gaussian and runs chains for a short time
            only, "thorough" asks for more.
        max_seconds: time after which nothing new is begun; what runs ends soon after.
        polish: whether chains mend the draws: "auto" where it is called for; True runs them in any
            case, False never.
        pool: lanes that run at once where there are more restarts: one that has ended makes room
            for the next, which sees what it would see in a lane of its own. None runs up to 64
            restarts together, and of more as many as fit in memory easily and are kept busy.
        race: drop restarts that are behind the best by more than they can be expected to make up,
            and give their lanes to others. Needs a family, solver, objective or noise, and steps
            on all rows.
        minibatch: `jaxvi.Minibatch(size)` for steps on some rows of the data at a time, of a target
            with a `log_likelihood`; `data` may then be a `jaxvi.Stream`. The solver is
            `Stochastic`. The last bounds are taken on all rows, with fewer draws where rows are
            many, and importance weights of the same draws are the verdict's.
        progress: None or True for a bar on a terminal and a line every ten seconds elsewhere,
            False for silence, or a callable that takes a `Progress`.
        checkpoint: a folder where the run is kept as it goes, for `jaxvi.resume`; None keeps
            nothing. It must not hold a checkpoint yet. Of several processes the first one writes
            for all, to a folder that all of them see.
        checkpoint_seconds: what a kill may lose. Writing takes at most 2 % of the time: where one
            takes more than a fiftieth of this, they come less often. One more is at the beginning
            and one at the end of every batch of lanes, also where that is Ctrl-C or the budget's.
        mesh: devices to run on, see `make_mesh`: restarts are dealt out along its axis "lanes",
            rows of data along "data", for a target of a log prior and a log likelihood. Answers
            are those of one device up to rounding. With several processes all of them make the
            same call and get the same fit; the first one reports progress. Of the autopilot the
            Gaussian's restarts are spread, on the devices of one process.

    Returns:
        A `Fit`. Numerical failure raises nothing: each lane's status says what became of it.

    Raises:
        TypeError, ValueError: an argument that can't be used, or a log density that is not
            finite at any start.

    Example:
        >>> fit = jaxvi.fit(jax.random.key(0), target, jaxvi.MeanField(), data=X)
        >>> draws = fit.sample(jax.random.key(1), 4000)
    """
    key = _arguments.typed_key(key)
    _arguments.instance("target", target, Target, "jaxvi.Target(log_density, supports)")
    _arguments.one_of("effort", effort, EFFORTS)
    _arguments.one_of("polish", polish, ("auto", True, False))
    check_reporter("progress", progress)
    _arguments.number("checkpoint_seconds", checkpoint_seconds, above=0.0)
    parts = Parts(family, objective, solver, noise, minibatch)
    auto = all(part is None for part in parts)
    if num_restarts is None:
        num_restarts = _restarts_for(target.dim) if auto else 8
    num_restarts = _arguments.integer("num_restarts", num_restarts, 1)
    if start_scale is None:
        wide = auto and target.dim <= _WIDE_UP_TO
        start_scale = _start_scales(num_restarts) if wide else 1.0
    if num_eval_draws is None:
        num_eval_draws = max(2_000, draws_each(num_restarts, target.dim)) if auto else 2_000
        if minibatch is not None and target.has_rows:
            num_eval_draws = default_draws(data, num_restarts)
    if max_steps is None:
        max_steps = GAUSSIAN_STEPS if auto else 20_000
    run: dict[str, Any] = {
        "data": data,
        "num_restarts": num_restarts,
        "start": start,
        "start_scale": start_scale,
        "max_steps": max_steps,
        "num_eval_draws": num_eval_draws,
    }
    pool = None if pool is None else _arguments.integer("pool", pool, 1)
    layout = Layout(pool, _arguments.flag("race", race), mesh)
    if auto and mesh is not None and len(processes(check_mesh(mesh))) > 1:
        raise ValueError(
            "expected a family or a solver with a mesh of several processes, since stages after "
            "the restarts run on one; got none; try solver=jaxvi.NaturalGradient()."
        )
    if auto and race:
        raise ValueError(
            "race: expected False with the default call, whose restarts look for separate modes; "
            "got True; try a family or a solver with it, such as jaxvi.FullRank()."
        )
    call = Request(key, target, parts, run, effort, polish, layout)
    if checkpoint is None:
        return launch(call, max_seconds, progress, None)
    folder = as_folder("checkpoint", checkpoint)
    kept = Checkpoints(folder, checkpoint_seconds, call.describe, data, writes=writes(mesh))
    return launch(call, max_seconds, progress, kept)


def launch(
    call: Request,
    max_seconds: float | None,
    progress: bool | Reporter | None,
    checkpoints: Checkpoints | None,
) -> Fit:
    """What the call asks for, from the beginning or from where its checkpoints have it."""
    if max_seconds is not None:
        _arguments.number("max_seconds", max_seconds, above=0.0)
    if any(part is not None for part in call.parts):
        kept = None if checkpoints is None else checkpoints.batch()
        return fit_restarts(
            call.key,
            call.target,
            **call.parts._asdict(),
            **call.run,
            max_seconds=max_seconds,
            progress=progress,
            checkpoint=kept,
            layout=call.layout,
        )
    pilot = Pilot(
        call.key,
        call.target,
        call.run["data"],
        call.effort,
        call.polish,
        max_seconds,
        progress,
        checkpoints,
    )
    return pilot.fly(call.run | {"layout": call.layout})


def _restarts_for(dim: int) -> int:
    """More where they cost little; modes are missed by all of few lanes too easily."""
    return 16 if dim <= _WIDE_UP_TO else 8 if dim <= _MANY_UP_TO else 2


def _start_scales(num_restarts: int) -> np.ndarray:
    """Most starts near, for where posteriors usually are, and some far, for where others may be."""
    far = num_restarts // _FAR_ONES // 2 * 2
    near = np.geomspace(1.0, _WIDE, num_restarts - far)
    return np.concatenate([near, np.repeat(np.linspace(_FAR, _FARTHEST, far // 2), 2)])
