"""Stage `weight_check`: whether importance weights vouch for the draws, and for which.

Looks at q and its weights, and applies once for each q. Weights see only where q's draws fall:
unless they are nearly uniform, a heavy-tailed proposal about q must see the same. Where weights can
tell, it leaves the errors that the draws may have, and weighted draws where these are better.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from jaxvi._numerics import on_device
from jaxvi._sampling import has_heavy_tailed_draws
from jaxvi.autopilot._base import Context, Stage, State, percent
from jaxvi.diagnostics import (
    MAX_NEGLIGIBLE_DRIFT_SD,
    MIN_RELATIVE_ESS,
    UNIFORM_RELATIVE_ESS,
    ImportanceWeights,
    drift_from,
    importance_weights,
    is_small,
)
from jaxvi.families import Transformed
from jaxvi.hierarchical import Nested
from jaxvi.results import CorrectedDraws, errors_of

_EXACT_RELATIVE_ESS = 0.99  # of a q that has no tails to look for
_QUADRATIC_RELATIVE_ESS = 0.999  # of draws of a log density that is quadratic in the latents
_MIN_VALUES_RELATIVE_ESS = 0.5  # of values of hyperparameters
_MIN_HEAVY_RELATIVE_ESS = 0.75  # of heavy-tailed draws, where q's own weights are not uniform
_GOOD_KHAT = 0.5  # of q's own draws; of heavy-tailed ones, where q's own are above it
_MAX_BAD_SHARE = 0.01  # of heavy-tailed draws, at which the log density is not finite
_UNCLEAR_SE = 2.0  # standard errors of a drift below which nothing is seen


@dataclass(frozen=True)
class WeightCheck(Stage):
    """Whether weights, of q's draws or of heavy-tailed ones, say how far the draws are off.

    Args:
        heavy_max_dim: largest dimension in which heavy-tailed draws are of use.
    """

    name: ClassVar[str] = "weight_check"
    is_brief: ClassVar[bool] = True

    heavy_max_dim: int = 30

    def applies(self, state: State) -> bool:
        """Where q has weights, and nobody has asked."""
        return state.weights is not None and not state.checked

    def run(self, context: Context, state: State) -> State:
        """Ask q's own weights; where they can't tell alone, those of heavy-tailed draws."""
        weights = state.weights
        assert weights is not None
        q, state = state.fit.q, replace(state, checked=True)
        if state.nested is not None:
            return _by_nested_weights(state, state.nested)
        # the neck of a funnel is too narrow to be met by draws, but in coordinates where it is none
        in_funnel = bool(state.hyperparameters) and not isinstance(q.family, Transformed)
        if weights.bad_share or in_funnel:
            return state
        if weights.ok and (weights.relative_ess >= _EXACT_RELATIVE_ESS or state.num_modes > 1):
            return _by_weights(state, weights)
        inner = q.family.family if isinstance(q.family, Transformed) else q.family
        if context.target.dim > self.heavy_max_dim or not has_heavy_tailed_draws(inner):
            uniform = weights.ok and weights.relative_ess >= UNIFORM_RELATIVE_ESS
            return _by_weights(state, weights) if uniform else state
        if weights.relative_ess < MIN_RELATIVE_ESS:
            return state
        return self._by_heavy_tails(context, state, weights)

    def _by_heavy_tails(self, context: Context, state: State, weights: ImportanceWeights) -> State:
        """What draws of q with heavier tails see, where these can tell."""
        q = state.fit.q
        at = (context.key(self.name), context.target, q.family, q.phi, context.data)
        heavy = importance_weights(*at, num_batches=state.num_batches, heavy_tailed=True)
        note = f"heavy-tailed draws: relative effective sample size {percent(heavy.relative_ess)}"
        context.record(self.name, weights, note, khat=heavy.khat)
        if not can_tell(weights, heavy):
            return state
        drift = drift_from(weights, heavy)
        if (
            weights.relative_ess >= UNIFORM_RELATIVE_ESS
            and max(drift.at_least(_UNCLEAR_SE)) < MAX_NEGLIGIBLE_DRIFT_SD
        ):
            return replace(state, errors=errors_of(drift, "weights"), draws=None)
        errors = errors_of(heavy.error, "weights")
        return replace(state, errors=errors, draws=weighted_draws(heavy))


def can_tell(weights: ImportanceWeights, heavy: ImportanceWeights) -> bool:
    """Whether heavy-tailed draws may replace q's.

    The limit is lower if q's own weights are nearly uniform, stricter if q's k-hat exceeds 0.5:
    both have then seen the same tail.
    """
    uniform = weights.relative_ess >= UNIFORM_RELATIVE_ESS
    limit = heavy.khat_limit if weights.khat <= _GOOD_KHAT else _GOOD_KHAT
    enough = heavy.relative_ess >= (MIN_RELATIVE_ESS if uniform else _MIN_HEAVY_RELATIVE_ESS)
    # so far out densities may overflow, which is for these draws to see and not for q's
    return enough and heavy.khat <= limit and heavy.bad_share < _MAX_BAD_SHARE


def _by_weights(state: State, weights: ImportanceWeights) -> State:
    """Plain draws where weights would change nothing that matters, else weighted ones."""
    if is_small(weights.drift):
        return replace(state, errors=errors_of(weights.drift, "weights"), draws=None)
    return replace(state, errors=errors_of(weights.error, "weights"), draws=weighted_draws(weights))


def _by_nested_weights(state: State, nested: Nested) -> State:
    """Draws of a nested Laplace approximation that is exact but for so many values.

    Where log p is quadratic in the latents, weights are uniform wherever the hyperparameters are.
    Where it isn't, weights see only where the conditionals have mass, and chains had better look.
    """
    weights, values = nested.weighed, nested.of_values
    quadratic = weights.relative_ess >= _QUADRATIC_RELATIVE_ESS and weights.bad_share == 0.0
    if not quadratic or values.relative_ess < _MIN_VALUES_RELATIVE_ESS:
        return state
    return replace(state, errors=errors_of(values.error, "weights"), draws=weighted_draws(values))


def weighted_draws(weights: ImportanceWeights) -> CorrectedDraws:
    """Draws with their weights, to hand out."""
    return CorrectedDraws(on_device(weights.z), on_device(weights.log_weights), "weights")
