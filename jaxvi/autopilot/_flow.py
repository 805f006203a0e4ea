"""Fits of one lane that begin at a Gaussian fit: in non-centred coordinates, or of a flow."""

import math
from typing import Any

import optax
from jaxtyping import Array, Key

from jaxvi._fitting import fit_restarts
from jaxvi._sampling import draws_each
from jaxvi._status import Status
from jaxvi.families import CouplingFlow, FullRank, Noncentering, NoncenteringParams
from jaxvi.noise import Antithetic
from jaxvi.objectives import ELBO
from jaxvi.results import Fit
from jaxvi.solvers import NaturalGradient, Stochastic
from jaxvi.target import pullback

LOST = (Status.UNBOUNDED, Status.SINGULAR, Status.NOT_FINITE, Status.NO_START)
_FLOW_STEPS, _FLOW_RATE, _FLOW_DRAWS = 1_000, 5e-3, 128  # of a cycle
_FLOW_SOLVER = Stochastic(
    optax.adam,
    learning_rate=optax.cosine_decay_schedule(_FLOW_RATE, _FLOW_STEPS),
    clip_norm=10.0,
    tolerance=None,
    average=False,
)


def noncentered_fit(
    key: Key[Array, ""],
    gauss: Fit,
    params: NoncenteringParams,
    solver: NaturalGradient,
    **run: Any,
) -> Fit | None:
    """A Gaussian where `params` take scales out, of a target pulled back; None where it is lost."""
    bijector, target = Noncentering(), gauss.setup.target
    fit = fit_restarts(
        key,
        pullback(target, bijector),
        FullRank(),
        solver=solver,
        data=(params, gauss.data),
        start=bijector.inverse(params, gauss.lane(gauss.best).phi.loc)[0],
        num_restarts=1,
        num_eval_draws=draws_each(1, target.dim),
        **run,
    )
    good = Status(int(fit.status[0])) not in LOST and math.isfinite(fit.bound)
    return fit if good else None


def flow_fit(key: Key[Array, ""], gauss: Fit, start: Fit, **run: Any) -> Fit:
    """A coupling flow of the Gaussian's target, in one cycle of a falling rate from `start`."""
    return fit_restarts(
        key,
        gauss.setup.target,
        CouplingFlow(),
        objective=ELBO(num_draws=_FLOW_DRAWS, stick_the_landing=True),
        solver=_FLOW_SOLVER,
        noise=Antithetic(),
        data=gauss.data,
        start=start,
        num_restarts=1,
        num_eval_draws=draws_each(1, gauss.setup.target.dim),
        max_steps=_FLOW_STEPS,
        **run,
    )
