"""Stage `noncentering`: a Gaussian in non-centred coordinates.

It applies if q is a dense Gaussian with poor weights. If hyperparameters set the scales of other
coordinates, a Gaussian is fitted in non-centred coordinates. It sets the names of these
hyperparameters and, if the new Gaussian fits no worse, that one as q.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxvi._status import LOST
from jaxvi.autopilot._base import Context, Stage, State, best_status
from jaxvi.autopilot._comparison import MAX_BOUND_LOSS_NATS, is_poor, with_better_q
from jaxvi.autopilot._gaussian import GAUSSIAN_STEPS, gaussian_solver
from jaxvi.families import FullRank, Noncentering, NoncenteringParams
from jaxvi.hierarchical import find_noncentering, hyperparameter_names
from jaxvi.results import Fit
from jaxvi.target import pullback


@dataclass(frozen=True)
class NoncenteringStage(Stage):
    """A Gaussian in non-centred coordinates, if hyperparameters set the scales of others.

    Args:
        min_relative_ess: of q's weights, below which it is tried.
        even_if_vouched: whether it is tried though weights vouch for q's draws.
        chains_follow: as for `Gaussian`.
    """

    name: ClassVar[str] = "noncentering"

    min_relative_ess: float = 0.55
    even_if_vouched: bool = False
    chains_follow: bool = True

    def applies(self, state: State) -> bool:
        """Whether q is a dense Gaussian with poor weights."""
        poor = is_poor(state, self.min_relative_ess, self.even_if_vouched)
        return poor and state.q is None and isinstance(state.fit.setup.family, FullRank)

    def run(self, context: Context, state: State) -> State:
        """Find hyperparameters, fit in non-centred coordinates, take the fit if it is no worse."""
        gauss = state.fit
        key_search, key_fit = jax.random.split(context.key(self.name))
        phi = gauss.lane(gauss.best).phi
        params = find_noncentering(key_search, context.target, phi, context.data)
        if params is None:
            context.record(self.name, gauss, "no coordinate sets the scales of others")
            return state
        names = hyperparameter_names(context.target, params)
        dependents = int(np.asarray(params.rates).any(axis=1).sum())
        note = f"{', '.join(names[:3])} set the scales of {dependents} coordinates"
        context.record(self.name, gauss, note)
        fit = self._fit(context, gauss, params, key_fit)
        if fit is None:  # the posterior is a funnel all the same
            return replace(state, hyperparameters=names, checked=False, errors=None, draws=None)
        state = replace(state, interrupted=state.interrupted or fit.interrupted)
        is_funnel = fit.bound >= gauss.bound - MAX_BOUND_LOSS_NATS
        changes = {"hyperparameters": names, "noncentered": fit} if is_funnel else {}
        return with_better_q(context, state, fit, self.name, gauss, is_taken=is_funnel, **changes)

    def _fit(
        self, context: Context, gauss: Fit, params: NoncenteringParams, key: Key[Array, ""]
    ) -> Fit | None:
        """A Gaussian fitted to the target in non-centred coordinates; None if the fit failed."""
        bijector, target = Noncentering(), gauss.setup.target
        fit = context.fit(
            key,
            pullback(target, bijector),
            family=FullRank(),
            solver=gaussian_solver(target.dim, self.chains_follow),
            data=(params, gauss.data),
            start=bijector.inverse(params, gauss.lane(gauss.best).phi.loc)[0],
            max_steps=GAUSSIAN_STEPS,
        )
        good = best_status(fit) not in LOST and math.isfinite(fit.bound)
        return fit if good else None
