"""Stage `gaussian`: many restarts of a full-rank Gaussian by natural gradients.

It applies first, and sets the restarts: every lane, ranked by a fresh bound on common draws.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from jaxvi._fitting import Request
from jaxvi._sampling import draws_each
from jaxvi.autopilot._base import Context, Stage, State, best_status
from jaxvi.results import Fit
from jaxvi.solvers import NaturalGradient

GAUSSIAN_STEPS = 3_000
_WIDE_STARTS_MAX_DIM, _HALF_RESTARTS_MAX_DIM = 50, 100
_WIDE_START_SCALE = 3.0  # of most starts
_FAR_START_EVERY, _FAR_START_SCALE, _FARTHEST_START_SCALE = 4, 7.0, 15.0
# steps of the slowest lanes over the median of the converged ones, at most
_PATIENCE_STEP_RATIO = 4.0
_TIGHT_MAX_DIM, _WIDE_TOLERANCE_SD = 50, 0.1


@dataclass(frozen=True)
class Gaussian(Stage):
    """Restarts of a Gaussian: the solver and starts of the request, else the default ones.

    Args:
        chains_follow: whether chains may correct what a wider tolerance leaves in high dimension.
    """

    name: ClassVar[str] = "gaussian"
    is_brief: ClassVar[bool] = True  # there is nothing to return without it

    chains_follow: bool = True

    def applies(self, state: State) -> bool:
        """Whether there are no restarts yet."""
        return state.restarts is None

    def run(self, context: Context, state: State) -> State:
        """Run the restarts; programs of later stages are compiled with theirs."""
        request = replace(context.request, key=context.key(self.name))
        fit = gaussian_restarts(context, request, self.chains_follow)
        context.record(self.name, fit, _agreement_note(fit))
        return replace(state, restarts=fit, fits=(fit,), interrupted=fit.interrupted)


def gaussian_restarts(context: Context, request: Request, chains_follow: bool) -> Fit:
    """Run restarts of a Gaussian with the key and the starts of a request."""
    return context.carry_out(
        replace(request, solver=gaussian_solver(request.target.dim, chains_follow)),
        patience=_PATIENCE_STEP_RATIO,
        stop_when_sharp=True,
        compile_also=context.programs,
    )


def gaussian_solver(dim: int, chains_follow: bool) -> NaturalGradient:
    """The solver: in high dimension with a wide tolerance, if chains correct the rest later."""
    wide = dim > _TIGHT_MAX_DIM and chains_follow
    return NaturalGradient(tolerance=_WIDE_TOLERANCE_SD) if wide else NaturalGradient()


def with_default_numbers(request: Request) -> Request:
    """A default call's request, with default restarts, start scales, steps and draws."""
    num, scale, dim = request.num_restarts, request.start_scale, request.target.dim
    num = _default_restarts(dim) if num is None else num
    if scale is None:
        scale = _default_start_scales(num) if dim <= _WIDE_STARTS_MAX_DIM else 1.0
    draws, steps = request.num_eval_draws, request.max_steps
    return replace(
        request,
        num_restarts=num,
        start_scale=scale,
        num_eval_draws=max(2_000, draws_each(num, dim)) if draws is None else draws,
        max_steps=GAUSSIAN_STEPS if steps is None else steps,
    )


def _default_restarts(dim: int) -> int:
    """Default number of restarts: more in low dimension, since few would miss modes too easily."""
    return 16 if dim <= _WIDE_STARTS_MAX_DIM else 8 if dim <= _HALF_RESTARTS_MAX_DIM else 2


def _default_start_scales(num_restarts: int) -> np.ndarray:
    """Default scales of starts: most near the origin, a few far out to find distant modes."""
    far = num_restarts // _FAR_START_EVERY // 2 * 2
    near = np.geomspace(1.0, _WIDE_START_SCALE, num_restarts - far)
    scales = np.linspace(_FAR_START_SCALE, _FARTHEST_START_SCALE, far // 2)
    return np.concatenate([near, np.repeat(scales, 2)])


def _agreement_note(fit: Fit) -> str:
    """A note for the log: family, restarts at the best optimum, status of the best."""
    sizes = fit.agreement.sizes
    best = int(sizes[0]) if len(sizes) else 0
    restarts = f"{best} of {fit.num_restarts} restarts at the best"
    return f"{fit.setup.family!r}, {restarts}; {best_status(fit).text}"
