"""A fair ranking of restarts: fresh bounds on draws common to all."""

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

MOST_RANKED = 256  # lanes at a time, and lanes that are ranked on all draws
_FEW_DRAWS = 256
_SURELY = 4.0  # standard errors
_LEVEL = 0.2  # nats that optimisation may leave between two lanes at one optimum
_TOLD = 1.0  # nats of error with which a bound still says where its lane is
_SHARP = 0.03  # nats of error of bounds that more draws need not tell better
_NEAR = 5.0  # nats below the best bound: lanes further down don't matter


class RankedDraws(NamedTuple):
    """The best lane's draws, unconstrained, and the parameters that they stand for."""

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
    """The program of `rank_phis`, of `lanes` of these shapes, but for that of its noise."""
    num = lanes.status.shape[0]
    phis = jax.eval_shape(partial(lane_results, setup=setup), lanes)
    arguments = (keys.ranking, phis, data, setup.target, setup.family)
    rows = ranking_rows(num, setup.target.dim, num_draws)
    return [partial(lower_draws, *arguments, some // num) for some in rows]


def ranking_rows(num_lanes: int, dim: int, num_draws: int) -> list[int]:
    """Rows of its noise, where lanes are few."""
    each = min(draws_each(num_lanes, dim), num_draws)
    return [] if num_lanes > MOST_RANKED else [num_lanes * each]


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

    The best lane is the one with the largest finite bound, less four standard errors; where none is
    finite, the one with the fewest draws of non-finite log density. Of very many lanes all are
    ranked on few draws, and on `num_draws` those that lead. Otherwise, with `stop_when_sharp`, on
    no more draws than tell the bounds of those that matter to 0.03 nats.
    """
    if len(status) <= MOST_RANKED:
        enough = partial(is_sharp, status) if stop_when_sharp else None
        choices: dict[str, Any] = {"setup": setup, "num_draws": num_draws}
        return ranking_of(log_weights(keys, phis, data, **choices, enough=enough), status)
    few = min(num_draws, _FEW_DRAWS)
    rough = ranking_of(log_weights(keys, phis, data, setup=setup, num_draws=few), status)
    order = np.argsort(-np.nan_to_num(rough.bound, nan=-np.inf), kind="stable")
    lead = np.unique(np.append(order[: MOST_RANKED - 1], rough.best))
    some = jax.tree.map(lambda leaf: leaf[lead], phis)
    fine = ranking_of(log_weights(keys, some, data, setup=setup, num_draws=num_draws), status[lead])
    # all draws are common, so that what moves the leader's bound moves all
    rough.bound[:] += fine.bound[fine.best] - rough.bound[lead[fine.best]]
    for all_, theirs in zip(rough[:4], fine[:4], strict=True):
        all_[lead] = theirs
    return rough._replace(best=int(lead[fine.best]), log_weights=fine.log_weights)


def is_sharp(status: Int[np.ndarray, "lanes"], weights: Float[np.ndarray, "lanes draws"]) -> bool:
    """Whether draws tell the bounds of the best lane and of those near it well enough."""
    ranking = ranking_of(weights, status)
    with np.errstate(invalid="ignore"):
        near = ranking.bound > ranking.bound[ranking.best] - _NEAR
        errors = ranking.mcse[near | (np.arange(len(status)) == ranking.best)]
    return bool((errors < _SHARP).all())


def log_weights(
    keys: Keys,
    phis: Phi,
    data: Data,
    *,
    setup: Setup,
    num_draws: int,
    enough: Callable[[Float[np.ndarray, "lanes draws"]], bool] | None = None,
) -> Float[np.ndarray, "lanes draws"]:
    """log p - log q of every lane at draws made of common noise, some lanes at a time."""
    num_lanes = len(jax.tree.leaves(phis)[0])
    together = min(num_lanes, MOST_RANKED)
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

    Bounds are ranked less four standard errors: where a density is numerically broken, one absurd
    value in q's reach makes a bound as absurd. A lane that ended otherwise than converged is the
    best only where its bound is clearly higher, beyond the spread of its weights: a q that fits
    nothing has weights of all sizes. One that ended where nothing is finite is so only where none
    has converged.
    """
    started = status != Status.NO_START
    finite = np.isfinite(weights)
    num_bad = (~finite).sum(axis=-1)
    root = weights.shape[1] ** 0.5
    with np.errstate(invalid="ignore", over="ignore"):
        bound = weights.mean(axis=-1)
        mcse = weights.std(axis=-1, ddof=1) / root
        converged = status == Status.CONVERGED
        sure = bound - mcse * np.where(converged, _SURELY, np.maximum(_SURELY, root))
        ranked = np.where(started & (num_bad == 0) & np.isfinite(sure), sure, -np.inf)
        if np.isfinite(ranked[converged]).any():
            ranked[status == Status.NOT_FINITE] = -np.inf
        fallback = np.argmin(np.where(started, num_bad, weights.shape[1] + 1))
        best = int(np.argmax(ranked) if np.isfinite(ranked).any() else fallback)
        error = (weights - weights[best][None]).std(axis=-1, ddof=1) / root
        reach = _LEVEL + np.minimum(3.0 * error, _TOLD)
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
