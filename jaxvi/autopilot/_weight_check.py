"""Stage `weight_check`: whether importance weights vouch for q's draws or for weighted ones.

It applies once for each q. Weights see only where q's draws fall: unless they are nearly uniform,
a heavy-tailed proposal about q must agree. If weights are good enough, it sets the errors that the
draws may have, and weighted draws if these are better.
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

_EXACT_RELATIVE_ESS = 0.99  # of a q whose tails need no check
_QUADRATIC_RELATIVE_ESS = 0.999  # of draws of a log density that is quadratic in the latents
_MIN_VALUES_RELATIVE_ESS = 0.5  # of values of hyperparameters
_MIN_HEAVY_RELATIVE_ESS = 0.75  # of heavy-tailed draws, where q's own weights are not uniform
_STRICT_KHAT_LIMIT = 0.5  # of heavy-tailed draws, if q's own k-hat is above it
_MAX_BAD_SHARE = 0.01  # of heavy-tailed draws, at which the log density is not finite
_MIN_DRIFT_SE = 2.0  # of a drift that counts


@dataclass(frozen=True)
class WeightCheck(Stage):
    """Errors of q's draws by importance weights, its own or those of heavy-tailed draws.

    Args:
        heavy_max_dim: largest dimension in which heavy-tailed draws are tried.
    """

    name: ClassVar[str] = "weight_check"
    is_brief: ClassVar[bool] = True

    heavy_max_dim: int = 30

    def applies(self, state: State) -> bool:
        """Whether q has weights that have not been checked."""
        return state.weights is not None and not state.checked

    def run(self, context: Context, state: State) -> State:
        """Check q's own weights and, if they don't suffice, those of heavy-tailed draws."""
        weights = state.weights
        assert weights is not None
        q, state = state.fit.q, replace(state, checked=True)
        if state.nested is not None:
            return _by_nested_weights(state, state.nested)
        # draws miss the narrow neck of a funnel, unless q is in non-centred coordinates
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
        """Check by heavy-tailed draws, and take them if they are better than q's."""
        q = state.fit.q
        at = (context.key(self.name), context.target, q.family, q.phi, context.data)
        heavy = importance_weights(*at, num_batches=state.num_batches, heavy_tailed=True)
        note = f"heavy-tailed draws: relative effective sample size {percent(heavy.relative_ess)}"
        context.record(self.name, weights, note, khat=heavy.khat)
        if not may_replace(weights, heavy):
            return state
        drift = drift_from(weights, heavy)
        if (
            weights.relative_ess >= UNIFORM_RELATIVE_ESS
            and max(drift.at_least(_MIN_DRIFT_SE)) < MAX_NEGLIGIBLE_DRIFT_SD
        ):
            return replace(state, errors=errors_of(drift, "weights"), draws=None)
        errors = errors_of(heavy.error, "weights")
        return replace(state, errors=errors, draws=weighted_draws(heavy))


def may_replace(weights: ImportanceWeights, heavy: ImportanceWeights) -> bool:
    """Whether heavy-tailed draws may replace q's.

    The limit is lower if q's own weights are nearly uniform, stricter if q's k-hat exceeds 0.5:
    both have then seen the same tail.
    """
    uniform = weights.relative_ess >= UNIFORM_RELATIVE_ESS
    limit = heavy.khat_limit if weights.khat <= _STRICT_KHAT_LIMIT else _STRICT_KHAT_LIMIT
    enough = heavy.relative_ess >= (MIN_RELATIVE_ESS if uniform else _MIN_HEAVY_RELATIVE_ESS)
    # densities may overflow far out, where only heavy-tailed draws reach
    return enough and heavy.khat <= limit and heavy.bad_share < _MAX_BAD_SHARE


def _by_weights(state: State, weights: ImportanceWeights) -> State:
    """Keep q's draws if weights hardly move the moments, else take weighted ones."""
    if is_small(weights.drift):
        return replace(state, errors=errors_of(weights.drift, "weights"), draws=None)
    return replace(state, errors=errors_of(weights.error, "weights"), draws=weighted_draws(weights))


def _by_nested_weights(state: State, nested: Nested) -> State:
    """Take draws of a nested Laplace approximation if its weights show that it is exact.

    If log p is quadratic in the latents, weights are uniform whatever the hyperparameters.
    If not, weights see only where the conditionals have mass, and chains have to check.
    """
    weights, values = nested.weighed, nested.of_values
    quadratic = weights.relative_ess >= _QUADRATIC_RELATIVE_ESS and weights.bad_share == 0.0
    if not quadratic or values.relative_ess < _MIN_VALUES_RELATIVE_ESS:
        return state
    return replace(state, errors=errors_of(values.error, "weights"), draws=weighted_draws(values))


def weighted_draws(weights: ImportanceWeights) -> CorrectedDraws:
    """Weighted draws, as corrected draws of the fit."""
    return CorrectedDraws(on_device(weights.z), on_device(weights.log_weights), "weights")
