"""Nested Laplace approximations: hyperparameters by importance sampling, then the latents."""

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
from jaxvi.hierarchical._proposals import Proposal, worth
from jaxvi.target import Target

_TRIED = 512  # of them in a round
_MOST, _MOST_NUMBERS = 4_096, 2**25  # in the last one: 256 MiB of float64
_LAST = 3  # proposals that draw the last values: one alone may miss a tail
_GOOD, _LOST = 0.5, 0.01  # share of values with a mode at least; of their mass lost at most
_NEAR = 2.0  # sds within which a value without a mode is as likely as one that has one
_LEAST, _ROUNDS, _EVEN = 3, 8, 0.35  # rounds; efficiency at which the last one follows


class Nested(NamedTuple):
    """What `nested_laplace` found.

    `found` are the conditionals at the values of the hyperparameters in `phi`, `weighed` draws of q
    with their weights against log p, `which` and `noise` the values and the normals that they were
    made of, `value` log p there. `of_values` are draws at all values, weighted by Laplace's masses:
    what so many values leave unsure of q's own marginals is its `error`.
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

    The marginal $\tilde p(\phi)$ of the hyperparameters is sampled by importance: in rounds of 512
    values, each drawn from Student t's around 100 values of those before (West 1993), until all are
    worth a third as many draws; then 4,096 of them (fewer where their conditionals would take more
    than 256 MiB). Draws of q, weighed against log p, tell how far the latents are from Gaussian.
    See `NestedLaplace` for the formula.

    Args:
        key: a random key.
        target: the log density.
        phi: parameters of `FullRank`.
        hyperparameters: numbers of the coordinates to be given, a few, as by
            `jaxvi.hierarchical.find_hyperparameters`.
        data: handed to the log density.
        go_on: asked before each round; where it says no, the last one follows.

    Returns:
        A `Nested`; None where the latents have no mode that Newton's method finds, at half of the
        values or at some that matter.

    Raises:
        TypeError, ValueError: no key, no target, hyperparameters that are not coordinates.

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
    own = (factor @ factor.T)[np.ix_(chosen, chosen)]
    num = max(min(_MOST, _MOST_NUMBERS // len(at.loc) ** 2 // BLOCK * BLOCK), BLOCK)

    find = Search(target, at, data)
    first = Proposal.around(loc[chosen], own)
    proposals = _adapted(generator, first, own, find, min(_TRIED, num), go_on)
    if proposals is None:
        return None
    last = proposals[-_LAST:]
    parts = [each.draw(generator, -(-num // len(last))) for each in last]
    values = np.concatenate(parts)[:num].astype(loc.dtype)
    found = find(values)
    weights = _kept_weights(last, values, found, np.asarray(at.sd))
    if weights is None:
        return None
    return _weighed(fold_in(key, 1), target, at, values, found, weights, data)


def _checked(hyperparameters: Any, dim: int) -> Int[np.ndarray, "hyperparameters"]:
    """Numbers of some coordinates, not of all."""
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
    own: Float[np.ndarray, "hyperparameters hyperparameters"],
    find: Search,
    num: int,
    go_on: Callable[[], bool],
) -> list[Proposal] | None:
    """Proposals, each made from all values that those before it have drawn."""
    proposals = [first]
    values = np.empty((0, len(own)))
    masses = np.empty(0)
    for round_ in range(1, _ROUNDS + 1):
        drawn = proposals[-1].draw(generator, num)
        found = find(drawn)
        if np.mean(found.good) < _GOOD:
            return None
        values = np.concatenate([values, drawn])
        masses = np.concatenate([masses, np.where(found.indefinite, -math.inf, found.mass)])
        weights = _weights(proposals, values, masses)
        proposals.append(Proposal.of(generator, values, weights, own))
        if not go_on() or (round_ >= _LEAST and worth(weights) >= _EVEN * len(weights)):
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
    """Draws of q, as many as there are values, weighed against log p."""
    generator, num = generator_of(key), len(values)
    share = relative_weights(weights)
    log_evidence = float(weights.max()) + math.log(share.mean())
    # systematic: every value as often as it weighs, but for one
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
    """Draws at given values of the hyperparameters, their noise, their parameters."""
    spread = np.asarray(found.scale)
    noise = generator.normal(size=(len(which), spread.shape[1])).astype(values.dtype)
    latents = np.asarray(found.mode)[which]
    for i in range(0, len(which), BLOCK):  # not all spreads copied at a time
        rows = slice(i, i + BLOCK)
        latents[rows] += np.einsum("bij,bj->bi", spread[which[rows]], noise[rows])
    z = values[which] @ np.asarray(at.pick) + latents @ np.asarray(at.rest)
    return z, noise, features(target, z)[:, z.shape[1] :]


def _masses(
    values: Float[np.ndarray, "values hyperparameters"],
    found: Conditional,
    sd: Float[np.ndarray, "hyperparameters"],
) -> Float[np.ndarray, "values"]:
    """Laplace's masses; of what lies far out there may be none.

    Where the latents are lost Newton's method may have ended anywhere. Such a value near another
    that isn't lost is taken to have no less than its mass.
    """
    mass = np.array(found.mass, float)
    lost = np.flatnonzero(found.indefinite)
    if 0 < lost.size < len(values):
        known = values[~found.indefinite]
        which = nearest(known, values[lost], sd)
        near = np.linalg.norm((values[lost] - known[which]) / sd, axis=1) < _NEAR
        mass[lost[near]] = np.maximum(mass[lost], mass[~found.indefinite][which])[near]
    return mass


def _kept_weights(
    proposals: "list[Proposal]",
    values: Float[np.ndarray, "values hyperparameters"],
    found: Conditional,
    sd: Float[np.ndarray, "hyperparameters"],
) -> Float[np.ndarray, "values"] | None:
    """Log weights; None where values at which the conditional is lost matter."""
    weights = _weights(proposals, values, _masses(values, found, sd))
    if not np.isfinite(weights.max()):
        return None
    share = relative_weights(weights)
    if share[found.indefinite].sum() > _LOST * share.sum():
        return None
    return np.where(found.indefinite, -math.inf, weights)


def _weights(
    proposals: "list[Proposal]",
    values: Float[np.ndarray, "values hyperparameters"],
    masses: Float[np.ndarray, "values"],
) -> Float[np.ndarray, "values"]:
    """Log weights of values, of which each proposal has drawn as many as each other."""
    each = [proposal.log_density(values) for proposal in proposals]
    return masses - np.logaddexp.reduce(each, axis=0) + math.log(len(each))
