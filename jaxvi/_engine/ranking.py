"""Ranking of restarts by fresh estimates of their bounds, on draws common to all."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvi._compilation import Lowering
from jaxvi._engine.lanes import lane_results
from jaxvi._engine.setup import Setup
from jaxvi._numerics import Keys, fold_in
from jaxvi._sampling import draw_with_log_weights, draws_each, lower_draws
from jaxvi._status import Status
from jaxvi._types import Data, Phi

MAX_RANKED_TOGETHER = 256  # lanes in one call; of more, only the best so many get all draws
_NUM_ROUGH_DRAWS = 256  # on which very many lanes are ranked first
_BOUND_PENALTY_SE = 4.0  # subtracted from a bound before it is ranked
_MAX_SAME_OPTIMUM_GAP_NATS = 0.2  # that optimisation may leave between lanes at one optimum
_MAX_TIE_ERROR_NATS = 1.0  # largest allowance for noise between lanes that tie
_MAX_SHARP_MCSE_NATS = 0.03  # of a bound that needs no more draws
_MAX_CONTENDER_GAP_NATS = 5.0  # below the best bound; lanes further down don't matter


class RankedDraws(NamedTuple):
    """The best lane's draws, unconstrained and as flat constrained parameters."""

    z: Float[np.ndarray, "draws dim"]
    params: Float[np.ndarray, "draws params"]


class Ranking(NamedTuple):
    """Fresh bounds of all lanes on common draws.

    `difference_mcse` is the standard error of a lane's bound minus the best lane's, which common
    draws make smaller than that of two separate bounds.
    """

    bound: Float[np.ndarray, "lanes"]
    mcse: Float[np.ndarray, "lanes"]
    difference_mcse: Float[np.ndarray, "lanes"]
    num_bad: Int[np.ndarray, "lanes"]  # draws where the log density was not finite
    best: int
    log_weights: Float[np.ndarray, "draws"]  # of the best lane: log p - log q
    draws: RankedDraws | None = None  # of the best lane, where lanes are ranked by rows of data


def lower_ranking(
    keys: Keys, lanes: Any, data: Data, *, setup: Setup, num_draws: int
) -> list[Lowering]:
    """The programs of `rank_phis` for `lanes` of these shapes, without those of its noise."""
    num = lanes.status.shape[0]
    phis = jax.eval_shape(partial(lane_results, setup=setup), lanes)
    arguments = (keys.ranking, phis, data, setup.target, setup.family)
    rows = ranking_rows(num, setup.target.dim, num_draws)
    return [partial(lower_draws, *arguments, some // num) for some in rows]


def ranking_rows(num_lanes: int, dim: int, num_draws: int) -> list[int]:
    """Numbers of rows of noise that `rank_phis` draws, if it ranks all lanes together."""
    each = min(draws_each(num_lanes, dim), num_draws)
    return [] if num_lanes > MAX_RANKED_TOGETHER else [num_lanes * each]


def rank_phis(
    keys: Keys,
    phis: Phi,
    status: Int[np.ndarray, "lanes"],
    data: Data,
    *,
    setup: Setup,
    num_draws: int,
    stop_when_sharp: bool = False,
) -> Ranking:
    """Bounds of every lane's parameters on fresh draws common to all.

    The best lane is the one with the largest finite bound minus four standard errors; if none is
    finite, the one with the fewest draws of non-finite log density. More than 256 lanes are first
    ranked on few draws, and then the best 256 on `num_draws`. Otherwise, with `stop_when_sharp`,
    draws stop when standard errors near the best bound are below 0.03 nats.
    """
    if len(status) <= MAX_RANKED_TOGETHER:
        enough = partial(is_sharp, status) if stop_when_sharp else None
        choices: dict[str, Any] = {"setup": setup, "num_draws": num_draws}
        return ranking_of(log_weights(keys, phis, data, **choices, enough=enough), status)
    few = min(num_draws, _NUM_ROUGH_DRAWS)
    rough = ranking_of(log_weights(keys, phis, data, setup=setup, num_draws=few), status)
    order = np.argsort(-np.nan_to_num(rough.bound, nan=-np.inf), kind="stable")
    lead = np.unique(np.append(order[: MAX_RANKED_TOGETHER - 1], rough.best))
    some = jax.tree.map(lambda leaf: leaf[lead], phis)
    fine = ranking_of(log_weights(keys, some, data, setup=setup, num_draws=num_draws), status[lead])
    # all draws are common, so that what moves the leader's bound moves all
    rough.bound[:] += fine.bound[fine.best] - rough.bound[lead[fine.best]]
    for all_, theirs in zip(rough[:4], fine[:4], strict=True):
        all_[lead] = theirs
    return rough._replace(best=int(lead[fine.best]), log_weights=fine.log_weights)


def is_sharp(status: Int[np.ndarray, "lanes"], weights: Float[np.ndarray, "lanes draws"]) -> bool:
    """Whether the bounds of the best lane and of those near it have standard errors below 0.03."""
    ranking = ranking_of(weights, status)
    with np.errstate(invalid="ignore"):
        near = ranking.bound > ranking.bound[ranking.best] - _MAX_CONTENDER_GAP_NATS
        errors = ranking.mcse[near | (np.arange(len(status)) == ranking.best)]
    return bool((errors < _MAX_SHARP_MCSE_NATS).all())


def log_weights(
    keys: Keys,
    phis: Phi,
    data: Data,
    *,
    setup: Setup,
    num_draws: int,
    enough: Callable[[Float[np.ndarray, "lanes draws"]], bool] | None = None,
) -> Float[np.ndarray, "lanes draws"]:
    """log p - log q of every lane at draws made of common noise, at most 256 lanes at a time."""
    num_lanes = len(jax.tree.leaves(phis)[0])
    together = min(num_lanes, MAX_RANKED_TOGETHER)
    found = []
    for first in range(0, num_lanes, together):
        some = np.minimum(np.arange(first, first + together), num_lanes - 1)
        group = phis
        if num_lanes > together:
            group = jax.tree.map(lambda leaf, some=some: leaf[some], phis)

        def weigh(call: int, num: int, group: Phi = group) -> Array:
            return draw_with_log_weights(
                fold_in(keys.ranking, call),
                group,
                data,
                target=setup.target,
                family=setup.family,
                num=num,
                common=True,
            ).log_weights

        weights = in_calls(weigh, together, setup.target.dim, num_draws, enough)
        found.append(weights[: num_lanes - first])
    return np.concatenate(found)


def in_calls(
    weigh: Callable[[int, int], Any],
    num_lanes: int,
    dim: int,
    num_draws: int,
    enough: Callable[[Float[np.ndarray, "lanes draws"]], bool] | None = None,
) -> Float[np.ndarray, "lanes draws"]:
    """`weigh(call, num)` of fresh draws, as many in a call as fit, until there are `enough`."""
    each = min(draws_each(num_lanes, dim), num_draws)
    seen = np.asarray(weigh(0, each))
    for call in range(1, -(-num_draws // each)):
        if enough is not None and enough(seen):
            break
        seen = np.concatenate([seen, np.asarray(weigh(call, each))], axis=1)
    return seen[:, :num_draws]


def ranking_of(
    weights: Float[np.ndarray, "lanes draws"], status: Int[np.ndarray, "lanes"]
) -> Ranking:
    """The ranking by log p - log q at draws common to all lanes.

    Lanes are ranked by their bounds minus four standard errors: if a density is numerically broken,
    one absurd value within q's reach makes a bound absurd. A lane that has not converged is best
    only if its bound is higher by more than the standard deviation of its log weights, which is
    large for a q that fits badly. One with the status `NOT_FINITE` is best only if none has
    converged.
    """
    started = status != Status.NO_START
    finite = np.isfinite(weights)
    num_bad = (~finite).sum(axis=-1)
    root = weights.shape[1] ** 0.5
    with np.errstate(invalid="ignore", over="ignore"):
        bound = weights.mean(axis=-1)
        mcse = weights.std(axis=-1, ddof=1) / root
        converged = status == Status.CONVERGED
        sure = bound - mcse * np.where(
            converged, _BOUND_PENALTY_SE, np.maximum(_BOUND_PENALTY_SE, root)
        )
        ranked = np.where(started & (num_bad == 0) & np.isfinite(sure), sure, -np.inf)
        if np.isfinite(ranked[converged]).any():
            ranked[status == Status.NOT_FINITE] = -np.inf
        fallback = np.argmin(np.where(started, num_bad, weights.shape[1] + 1))
        best = int(np.argmax(ranked) if np.isfinite(ranked).any() else fallback)
        error = (weights - weights[best][None]).std(axis=-1, ddof=1) / root
        reach = _MAX_SAME_OPTIMUM_GAP_NATS + np.minimum(3.0 * error, _MAX_TIE_ERROR_NATS)
        level = converged & (ranked >= ranked[best] - reach)
        if level.any() and np.isfinite(ranked[best]):
            best = int(np.argmax(np.where(level, ranked, -np.inf)))
            error = (weights - weights[best][None]).std(axis=-1, ddof=1) / root
        return Ranking(
            bound=np.where(started, bound, np.nan),
            mcse=mcse,
            difference_mcse=error,
            num_bad=num_bad,
            best=best,
            log_weights=weights[best],
        )
