"""`jaxvi.fit`: checks its arguments and runs the default call's stages, or one solver."""

import os
from collections.abc import Sequence
from typing import Any

from jaxtyping import Array

from jaxvi import _arguments
from jaxvi._engine import Reporter
from jaxvi._fitting import Layout, Request, RunOptions, check_reporter, checked, fit_restarts
from jaxvi._persistence import Checkpoints, as_folder
from jaxvi._types import Data
from jaxvi.autopilot import Stage, run_stages, with_default_numbers
from jaxvi.data import Minibatch
from jaxvi.families import Family
from jaxvi.mesh import writes
from jaxvi.noise import NoiseSource
from jaxvi.objectives import Objective
from jaxvi.results import Fit
from jaxvi.solvers import Solver
from jaxvi.target import Target


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
    stages: Sequence[Stage] | None = None,
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
    gradients from several random starts and checked by importance weights. If these are poor and
    few coordinates set the scales of others, a nested Laplace approximation is tried, then a
    Gaussian in non-centred coordinates and, if the dimension is low, a flow. If weights still
    don't vouch for the draws, short Hamiltonian chains from q's draws show whether they drift, and
    run until they don't. Separate modes of comparable mass become a mixture. `fit.log` has a line
    for every stage, `fit.verdict` and `fit.reasons` say how good the draws are, `fit.q` is the
    variational approximation, and `fit.sample` gives the best draws available.

    With any of them: that solver alone (other parts default to what suits it), many restarts in
    one compiled batch, the best chosen by a fresh bound on draws common to all; `fit.verdict` then
    follows from the importance weights alone.

    Equal specs with data of equal shapes share compiled programs. Ctrl-C returns the result so far.
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
            which weighs the best one anyway, takes fewer if bounds are known to 0.03 nats by then.
        effort: of the autopilot: "quick" stops at the Gaussian and runs chains for a short time
            only, "thorough" asks for more.
        max_seconds: time after which nothing new is begun; what runs ends soon after.
        polish: whether chains correct the draws: "auto" runs them if they drift, True in any
            case, False never.
        stages: the stages of the default call, in their order, in place of
            `jaxvi.autopilot.default_stages(effort, polish=polish)`.
        pool: lanes that run at once where there are more restarts: one that has ended makes room
            for the next, which runs as it would in a lane of its own. None runs up to 64
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
        checkpoint_seconds: seconds between checkpoints, which a killed run loses at most. Writing
            takes at most 2 % of the time: if it is slow, checkpoints are less frequent. Every batch
            of lanes has one at its beginning and one at its end, also on Ctrl-C or a time limit.
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
    request = checked(
        Request(
            key,
            target,
            family=family,
            objective=objective,
            solver=solver,
            noise=noise,
            minibatch=minibatch,
            data=data,
            num_restarts=num_restarts,
            start=start,
            start_scale=start_scale,
            max_steps=max_steps,
            num_eval_draws=num_eval_draws,
            layout=Layout(pool, race, mesh),
            effort=effort,
            polish=polish,
            stages=None if stages is None else _checked_stages(stages),
        )
    )
    if request.is_default_call:
        request = with_default_numbers(request)
    _arguments.number("checkpoint_seconds", checkpoint_seconds, above=0.0)
    kept = None
    if checkpoint is not None:
        folder = as_folder("checkpoint", checkpoint)
        kept = Checkpoints(folder, checkpoint_seconds, request.describe, data, writes=writes(mesh))
    return launch(request, max_seconds, progress, kept)


def launch(
    request: Request,
    max_seconds: float | None,
    progress: bool | Reporter | None,
    checkpoints: Checkpoints | None,
) -> Fit:
    """Run a request, from the beginning or from its last checkpoint."""
    check_reporter("progress", progress)
    if max_seconds is not None:
        _arguments.number("max_seconds", max_seconds, above=0.0)
    if request.is_default_call:
        return run_stages(
            request, max_seconds=max_seconds, progress=progress, checkpoints=checkpoints
        )
    kept = None if checkpoints is None else checkpoints.next_lane_file()
    return fit_restarts(request, RunOptions(max_seconds, progress, kept))


def _checked_stages(stages: Any) -> tuple[Stage, ...]:
    """The stages as a tuple, checked; a class in place of an instance raises."""
    found = tuple(stages) if isinstance(stages, Sequence) else ()
    if not found or not all(isinstance(stage, Stage) for stage in found):
        raise TypeError(
            f"stages: expected a sequence of jaxvi.autopilot.Stage; got {stages!r:.120}; try "
            "jaxvi.autopilot.default_stages()."
        )
    return found
