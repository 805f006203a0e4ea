"""Nested Laplace approximations: importance sampling over hyperparameters, Laplace for latents."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxvi._arguments import instance, typed_key
from jaxvi._compilation import one_thread
from jaxvi._numerics import fold_in, generator_of, on_device, relative_weights
from jaxvi._sampling import features, values_of
from jaxvi._types import Data
from jaxvi.diagnostics import ImportanceWeights, importance_weights_of, zero_weightless_draws
from jaxvi.families import FullRankParams, scale_tril_on_host
from jaxvi.hierarchical._conditional_laplace import Conditional
from jaxvi.hierarchical._mode_search import BLOCK, Search, nearest
from jaxvi.hierarchical._nested_family import NestedLaplaceParams
from jaxvi.hierarchical._partition import Split, split
from jaxvi.hierarchical._proposals import Proposal, effective_sample_size
from jaxvi.target import Target

_VALUES_A_ROUND = 512  # values of the hyperparameters drawn in a round of adaptation
_MAX_VALUES = 4_096  # in the last round
_MAX_SCALE_NUMBERS = 2**25  # of all conditional scales in the last round: 256 MiB of float64
_NUM_LAST_PROPOSALS = 3  # that draw the last values: one alone may miss a tail
_MIN_SHARE_WITH_MODE = 0.5  # of the values in a round
_MAX_INDEFINITE_MASS = 0.01  # share of the mass at values with an indefinite Hessian
_MAX_NEIGHBOUR_SDS = 2.0  # within which an indefinite value is given its neighbour's mass
_MIN_ROUNDS, _MAX_ROUNDS = 3, 8
_MIN_RELATIVE_ESS = 0.35  # of the values, at which adaptation ends


class Nested(NamedTuple):
    """A nested Laplace approximation with its draws and their importance weights.

    `phi` are parameters of `NestedLaplace`; `found` are the Laplace approximations of the latents
    at the values of the hyperparameters in `phi`. `weighed` are draws of q with importance weights
    against log p; `which` and `noise` are the indices of the values and the normals that made them,
    `value` is log p there. `of_values` are draws at all values, weighted by Laplace's masses: its
    `error` is the Monte Carlo error of q's own marginals from finitely many values.
    """

    phi: NestedLaplaceParams
    found: Conditional
    weighed: ImportanceWeights
    which: Int[np.ndarray, "draws"]
    noise: Float[np.ndarray, "draws latents"]
    value: Float[np.ndarray, "draws"]
    of_values: ImportanceWeights


@one_thread()
def nested_laplace(
    key: Key[Array, ""],
    target: Target,
    phi: FullRankParams,
    hyperparameters: Any,
    data: Data = None,
    *,
    go_on: Callable[[], bool] = lambda: True,
) -> Nested | None:
    r"""The nested Laplace approximation of a posterior, from a dense Gaussian fit.

    The marginal $\tilde p(\phi)$ of the hyperparameters is importance sampled. Rounds of 512 values
    are drawn from mixtures of Student t's around 100 of the values before (West 1993), until the
    relative effective sample size of all values is 0.35. Then 4,096 values are drawn (fewer where
    the latents' scales would take more than 256 MiB). Importance weights of draws of q against
    log p tell how far the latents are from Gaussian. See `NestedLaplace` for the formula.

    Args:
        key: a random key.
        target: the log density.
        phi: parameters of `FullRank`.
        hyperparameters: indices of the few coordinates to condition on, such as
            `jaxvi.hierarchical.find_hyperparameters` finds.
        data: handed to the log density.
        go_on: called after each round; if it returns False, adaptation ends and the last values
            are drawn.

    Returns:
        A `Nested`. None where Newton's method finds a mode of the latents at fewer than half of a
        round's values, or where values with an indefinite Hessian have more than 1 % of the mass.

    Raises:
        TypeError, ValueError: not a key or a target; hyperparameters that are no coordinates.

    Example:
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> found = nested_laplace(key, target, fit.q.phi, [0])
        >>> round(found.weighed.relative_ess, 2)
        1.0
    """
    instance("target", target, Target, "jaxvi.Target(log_density, supports)")
    generator = generator_of(typed_key(key))
    loc, factor = np.asarray(phi.loc), scale_tril_on_host(phi.log_diag, phi.lower)
    chosen = _checked(hyperparameters, len(loc))
    at = split(target, chosen, loc, factor.astype(loc.dtype))
    covariance = (factor @ factor.T)[np.ix_(chosen, chosen)]
    num = max(min(_MAX_VALUES, _MAX_SCALE_NUMBERS // len(at.loc) ** 2 // BLOCK * BLOCK), BLOCK)

    find = Search(target, at, data)
    first = Proposal.around(loc[chosen], covariance)
    proposals = _adapted(generator, first, covariance, find, min(_VALUES_A_ROUND, num), go_on)
    if proposals is None:
        return None
    last = proposals[-_NUM_LAST_PROPOSALS:]
    parts = [each.draw(generator, -(-num // len(last))) for each in last]
    values = np.concatenate(parts)[:num].astype(loc.dtype)
    found = find(values)
    weights = _kept_weights(last, values, found, np.asarray(at.sd))
    if weights is None:
        return None
    return _weighed(fold_in(key, 1), target, at, values, found, weights, data)


def _checked(hyperparameters: Any, dim: int) -> Int[np.ndarray, "hyperparameters"]:
    """Sorted indices of the hyperparameters, checked: some coordinates, but not all."""
    chosen = np.unique(np.asarray(hyperparameters))
    whole = chosen.size > 0 and np.issubdtype(chosen.dtype, np.integer)
    if not (whole and chosen[0] >= 0 and chosen[-1] < dim and chosen.size < dim):
        raise ValueError(
            f"hyperparameters: expected numbers of coordinates, from 0 to {dim - 1}, at least one "
            f"and not all of them; got {hyperparameters!r:.80}; try "
            "jaxvi.hierarchical.find_hyperparameters."
        )
    return chosen


def _adapted(
    generator: np.random.Generator,
    first: Proposal,
    covariance: Float[np.ndarray, "hyperparameters hyperparameters"],
    find: Search,
    num: int,
    go_on: Callable[[], bool],
) -> list[Proposal] | None:
    """Proposals of all rounds, each adapted to the values before; None if too few have modes."""
    proposals = [first]
    values = np.empty((0, len(covariance)))
    masses = np.empty(0)
    for round_ in range(1, _MAX_ROUNDS + 1):
        drawn = proposals[-1].draw(generator, num)
        found = find(drawn)
        if np.mean(found.has_mode) < _MIN_SHARE_WITH_MODE:
            return None
        values = np.concatenate([values, drawn])
        masses = np.concatenate([masses, np.where(found.indefinite, -math.inf, found.mass)])
        weights = _weights(proposals, values, masses)
        proposals.append(Proposal.of(generator, values, weights, covariance))
        if not go_on() or (
            round_ >= _MIN_ROUNDS
            and effective_sample_size(weights) >= _MIN_RELATIVE_ESS * len(weights)
        ):
            break
    return proposals


def _weighed(
    key: Key[Array, ""],
    target: Target,
    at: Split,
    values: Float[np.ndarray, "values hyperparameters"],
    found: Conditional,
    weights: Float[np.ndarray, "values"],
    data: Data,
) -> Nested:
    """Draws of q, as many as there are values, with importance weights against log p."""
    generator, num = generator_of(key), len(values)
    share = relative_weights(weights)
    log_evidence = float(weights.max()) + math.log(share.mean())
    # systematic resampling: each value is taken as often as its weight says, give or take one
    places = (np.arange(num) + generator.uniform()) / num
    which = np.searchsorted(np.cumsum(share) / share.sum(), places)
    which = generator.permutation(np.minimum(which, num - 1))
    of_values = _rows(target, at, values, found, np.arange(num), generator)
    z, noise, params = _rows(target, at, values, found, which, generator)
    log_q = (
        np.asarray(found.log_prob_at_mode)[which] - log_evidence - 0.5 * np.sum(noise**2, axis=1)
    )
    value = values_of(target, z, data)
    raw = (value - log_q).astype(values.dtype)
    weights = weights.astype(values.dtype)
    numbers = (values, found.mode, weights, np.array(log_evidence, values.dtype))
    hyperparameters, modes, log_weights, evidence = (on_device(x) for x in numbers)
    phi = NestedLaplaceParams(hyperparameters, modes, log_weights, evidence, at, data)
    return Nested(
        phi,
        found,
        importance_weights_of(*zero_weightless_draws(z, params, raw), raw),
        which,
        noise,
        value,
        importance_weights_of(*zero_weightless_draws(of_values[0], of_values[2], weights), weights),
    )


def _rows(
    target: Target,
    at: Split,
    values: Float[np.ndarray, "values hyperparameters"],
    found: Conditional,
    which: Int[np.ndarray, "draws"],
    generator: np.random.Generator,
) -> tuple[Float[np.ndarray, "..."], ...]:
    """Draws of z at given values of the hyperparameters, their noise, their parameters."""
    scale = np.asarray(found.scale)
    noise = generator.normal(size=(len(which), scale.shape[1])).astype(values.dtype)
    latents = np.asarray(found.mode)[which]
    for i in range(0, len(which), BLOCK):  # so that not all scales are copied at once
        rows = slice(i, i + BLOCK)
        latents[rows] += np.einsum("bij,bj->bi", scale[which[rows]], noise[rows])
    z = values[which] @ np.asarray(at.pick) + latents @ np.asarray(at.rest)
    return z, noise, features(target, z)[:, z.shape[1] :]


def _masses(
    values: Float[np.ndarray, "values hyperparameters"],
    found: Conditional,
    sd: Float[np.ndarray, "hyperparameters"],
) -> Float[np.ndarray, "values"]:
    """Laplace's estimates of the log mass at each value of the hyperparameters.

    Where the Hessian is indefinite Newton's method may have ended anywhere, so that the mass may be
    far too small. Such a value is given at least the mass of the nearest definite one within 2 sds.
    """
    mass = np.array(found.mass, float)
    indefinite = np.flatnonzero(found.indefinite)
    if 0 < indefinite.size < len(values):
        definite = values[~found.indefinite]
        which = nearest(definite, values[indefinite], sd)
        distance = np.linalg.norm((values[indefinite] - definite[which]) / sd, axis=1)
        near = distance < _MAX_NEIGHBOUR_SDS
        larger = np.maximum(mass[indefinite], mass[~found.indefinite][which])
        mass[indefinite[near]] = larger[near]
    return mass


def _kept_weights(
    proposals: "list[Proposal]",
    values: Float[np.ndarray, "values hyperparameters"],
    found: Conditional,
    sd: Float[np.ndarray, "hyperparameters"],
) -> Float[np.ndarray, "values"] | None:
    """Log weights of values; None where indefinite ones have too much of the mass.

    Values with an indefinite Hessian are given a weight of zero.
    """
    weights = _weights(proposals, values, _masses(values, found, sd))
    if not np.isfinite(weights.max()):
        return None
    share = relative_weights(weights)
    if share[found.indefinite].sum() > _MAX_INDEFINITE_MASS * share.sum():
        return None
    return np.where(found.indefinite, -math.inf, weights)


def _weights(
    proposals: "list[Proposal]",
    values: Float[np.ndarray, "values hyperparameters"],
    masses: Float[np.ndarray, "values"],
) -> Float[np.ndarray, "values"]:
    """Log importance weights of values against the mixture of all proposals, in equal parts."""
    each = [proposal.log_density(values) for proposal in proposals]
    return masses - np.logaddexp.reduce(each, axis=0) + math.log(len(each))
