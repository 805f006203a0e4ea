"""Stage `weights`: importance weights of q against the log density.

It applies while q has no weights. It sets them: their k-hat, their relative effective sample size,
and how much weighting moves the moments.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from jaxvi.autopilot._base import Context, Stage, State, percent


@dataclass(frozen=True)
class Weights(Stage):
    """Importance weights of q; other stages compare theirs with them, on common draws."""

    name: ClassVar[str] = "weights"
    is_brief: ClassVar[bool] = True

    def applies(self, state: State) -> bool:
        """Whether restarts have ended and q has no weights."""
        return state.usable and not state.fit.interrupted and state.weights is None

    def run(self, context: Context, state: State) -> State:
        """Draw from q and compute the importance weights of the draws."""
        weights = context.weights(state.fit.q, state.fit.num_restarts)
        note = f"relative effective sample size {percent(weights.relative_ess)}"
        if weights.bad_share:
            note += f", not finite at {100.0 * weights.bad_share:.2g} % of draws"
        context.record(self.name, weights, note, khat=weights.khat)
        return replace(state, weights=weights)
