"""Nested Laplace approximation: a few coordinates by importance sampling, the others given them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Int, Key

from jaxvi._arguments import instance, typed_key
from jaxvi._blas import one_thread
from jaxvi._conditionals import Conditional, Split, conditional, conditionals, split
from jaxvi._random import fold_in, generator_of
from jaxvi._restarts import values_of
from jaxvi._tree import on_device
from jaxvi._types import Data, Scalar
from jaxvi.diagnostics import Weighing
from jaxvi.diagnostics._movement import features
from jaxvi.diagnostics._weighing import weighing_of, without_lost
from jaxvi.families import FullRankParams
from jaxvi.families._base import NormalNoiseFamily
from jaxvi.families._full_rank import scale_tril_on_host
from jaxvi.target import Target

_BLOCK = 256  # values of the drivers for which the others are found in one call
_TRIED = 512  # of them in a round
_MOST, _MOST_NUMBERS = 4_096, 2**25  # in the last one: 256 MiB of float64
_LAST = 3  # proposals that draw the last values: one alone may miss a tail
_LEAST, _ROUNDS, _EVEN = 3, 8, 0.35  # rounds; efficiency at which the last one follows
_KERNELS, _WIDE_KERNELS, _LONG_KERNELS = 100, 8, 30  # of a proposal
_DF, _WIDE_DF = 5.0, 2.0  # of their t's
_WIDER, _LONG = 1.3, 4.0  # sds of all values that these are wide, and long in one driver
_FEW = 20.0  # effective values, below which their own covariance is not believed


class NestedLaplaceParams(NamedTuple):
    """Values of the drivers with their log weights, and how the others are found for them."""

    drivers: Float[Array, "values drivers"]
    log_weights: Float[Array, "values"]
    log_evidence: Scalar
    at: Split
    data: Data


@dataclass(frozen=True)
class NestedLaplace(NormalNoiseFamily):
    r"""q(drivers) q(others | drivers), as integrated nested Laplace approximations have it.

    $q(z) = \tilde p(\phi) / \hat Z \cdot N(\theta;\, m(\phi),\, H(\phi)^{-1})$ with m the mode
    of log p in the others $\theta$ at given drivers $\phi$, -H the Hessian there and
    $\tilde p(\phi) = p(\phi, m) (2\pi)^{n/2} |H|^{-1/2}$ (Rue, Martino and Chopin 2009). Where log
    p is quadratic in the others it is the posterior, funnels and all. Drivers are drawn from the
    weighted values of `nested_laplace`, which makes its parameters. A draw or a density costs
    Newton's method: some Hessians and Cholesky factors in as many dimensions as there are others.

    Args:
        target: the log density.
    """

    target: Target

    def init(
        self, key: Key[Array, ""], dim: int, *, start: Float[Array, "dim"] | None = None
    ) -> NestedLaplaceParams:
        """None: it is found, not optimised.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "NestedLaplace: expected parameters from jaxvi.nested.nested_laplace; there is none to "
            "start an optimisation from; try jaxvi.fit(key, target) or another family."
        )

    def noise_size(self, dim: int) -> int:
        """One that picks the drivers, and more than enough for the others."""
        return 1 + dim

    def transform(
        self, phi: NestedLaplaceParams, noise: Float[Array, "noise"]
    ) -> Float[Array, "dim"]:
        """The others drawn given the drivers that the first normal picks."""
        return self.transform_and_log_prob(phi, noise)[0]

    def transform_and_log_prob(
        self, phi: NestedLaplaceParams, noise: Float[Array, "noise"]
    ) -> tuple[Float[Array, "dim"], Scalar]:
        """z and log q(z)."""
        shares = jnp.cumsum(jax.nn.softmax(phi.log_weights))
        drivers = phi.drivers[jnp.searchsorted(shares / shares[-1], ndtr(noise[0]))]
        found = conditional(self.target, phi.at, drivers, phi.data)
        own = noise[1 : 1 + len(found.mode)]
        z = phi.at.whole(drivers, found.mode + found.spread @ own)
        return z, found.peak - phi.log_evidence - 0.5 * jnp.sum(own**2)

    def log_prob(self, phi: NestedLaplaceParams, z: Float[Array, "dim"]) -> Scalar:
        """log q(z)."""
        drivers, others = phi.at.pick @ z, phi.at.rest @ z
        found = conditional(self.target, phi.at, drivers, phi.data)
        own = jnp.linalg.solve(found.spread, others - found.mode)
        return found.peak - phi.log_evidence - 0.5 * jnp.sum(own**2)


class Nested(NamedTuple):
    """What `nested_laplace` found.

    `found` are the conditionals at the values of the drivers in `phi`, `weighed` draws of q with
    their weights against log p, `which` and `noise` the values and the normals that they were made
    of, `value` log p there. `of_values` are draws at all values, weighted by Laplace's masses: what
    so many values leave unsure of q's own marginals is its `error`.
    """

    phi: NestedLaplaceParams
    found: Conditional
    weighed: Weighing
    which: Int[np.ndarray, "draws"]
    noise: Float[np.ndarray, "draws others"]
    value: Float[np.ndarray, "draws"]
    of_values: Weighing


@one_thread()
def nested_laplace(
    key: Key[Array, ""],
    target: Target,
    phi: FullRankParams,
    drivers: Any,
    data: Data = None,
    *,
    go_on: Callable[[], bool] = lambda: True,
) -> Nested | None:
    r"""The nested Laplace approximation of a posterior, from a dense Gaussian fit.

    The marginal $\tilde p(\phi)$ of the drivers is sampled by importance: in rounds of 512 values,
    each drawn from Student t's of 5 degrees of freedom around 100 values of the round before (West
    1993), until they are worth half as many draws; then 4,096 of them (fewer where their
    conditionals would take more than 256 MiB). Draws of q, weighed against log p, tell how
    far the others are from Gaussian. See `NestedLaplace` for the formula.

    Args:
        key: a random key.
        target: the log density.
        phi: parameters of `FullRank`.
        drivers: numbers of the coordinates to be given, a few, as by
            `jaxvi.noncentering.find_drivers`.
        data: handed to the log density.
        go_on: asked before each round; where it says no, the last one follows.

    Returns:
        A `Nested`; None where no value of the drivers has a finite mass.

    Example:
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> found = nested_laplace(key, target, fit.q.phi, [0])
        >>> found.weighed.efficiency.round(2)
        1.0
    """
    instance("target", target, Target, "jaxvi.Target(log_density, supports)")
    generator = generator_of(typed_key(key))
    loc, factor = np.asarray(phi.loc), scale_tril_on_host(phi.log_diag, phi.lower)
    drivers = np.asarray(drivers, int)
    at = split(drivers, loc, factor.astype(loc.dtype))
    own = (factor @ factor.T)[np.ix_(drivers, drivers)]
    proposals, values, masses = [_Proposal.around(loc[drivers], own)], [], []
    for round_ in range(_ROUNDS):
        values.append(proposals[-1].draw(generator, _TRIED).astype(loc.dtype))
        masses.append(_masses(_found(target, at, values[-1], data)))
        weights = _weights(proposals, np.concatenate(values), np.concatenate(masses))
        if not np.isfinite(weights.max()):
            return None
        proposals.append(_Proposal.of(generator, np.concatenate(values), weights, own))
        if not go_on() or (round_ + 1 >= _LEAST and _worth(weights) >= _EVEN * len(weights)):
            break
    num = min(_MOST, _MOST_NUMBERS // len(at.loc) ** 2 // _BLOCK * _BLOCK)
    last = proposals[-_LAST:]
    parts = [each.draw(generator, -(-num // len(last))) for each in last]
    drawn = np.concatenate(parts)[:num].astype(loc.dtype)
    found = _found(target, at, drawn, data)
    weights = _weights(last, drawn, _masses(found))
    if not np.isfinite(weights.max()):
        return None
    return _weighed(fold_in(key, 1), target, at, drawn, found, weights, data)


def _weighed(
    key: Key[Array, ""],
    target: Target,
    at: Split,
    values: Float[np.ndarray, "values drivers"],
    found: Conditional,
    weights: Float[np.ndarray, "values"],
    data: Data,
) -> Nested:
    """Draws of q, as many as there are values, weighed against log p."""
    generator, num = generator_of(key), len(values)
    share = np.exp(weights - weights.max())
    log_evidence = float(weights.max()) + math.log(share.mean())
    # systematic: every value as often as it weighs, but for one
    places = (np.arange(num) + generator.uniform()) / num
    which = np.searchsorted(np.cumsum(share) / share.sum(), places)
    which = generator.permutation(np.minimum(which, num - 1))
    of_values = _rows(target, at, values, found, np.arange(num), generator)
    z, noise, params = _rows(target, at, values, found, which, generator)
    log_q = np.asarray(found.peak)[which] - log_evidence - 0.5 * np.sum(noise**2, axis=1)
    value = values_of(target, z, data)
    raw = (value - log_q).astype(values.dtype)
    weights = weights.astype(values.dtype)
    numbers = (values, weights, np.array(log_evidence, values.dtype))
    drivers, log_weights, evidence = (on_device(x) for x in numbers)
    phi = NestedLaplaceParams(drivers, log_weights, evidence, at, data)
    return Nested(
        phi,
        found,
        weighing_of(*without_lost(z, params, raw), raw),
        which,
        noise,
        value,
        weighing_of(*without_lost(of_values[0], of_values[2], weights), weights),
    )


def _rows(
    target: Target,
    at: Split,
    values: Float[np.ndarray, "values drivers"],
    found: Conditional,
    which: Int[np.ndarray, "draws"],
    generator: np.random.Generator,
) -> tuple[Float[np.ndarray, "..."], ...]:
    """Draws at these values of the drivers, the noise they are made of, their parameters."""
    spread = np.asarray(found.spread)
    noise = generator.normal(size=(len(which), spread.shape[1])).astype(values.dtype)
    others = np.asarray(found.mode)[which]
    for i in range(0, len(which), _BLOCK):  # not all spreads copied at a time
        rows = slice(i, i + _BLOCK)
        others[rows] += np.einsum("bij,bj->bi", spread[which[rows]], noise[rows])
    z = values[which] @ np.asarray(at.pick) + others @ np.asarray(at.rest)
    return z, noise, features(target, z)[:, z.shape[1] :]


def _found(
    target: Target, at: Split, values: Float[np.ndarray, "values drivers"], data: Data
) -> Conditional:
    """The conditionals, block by block: one program serves any number of values.

    One at a time: two of these programs in threads kept each other from ending (jax 0.10, CPU).
    """
    parts = [
        jax.tree.map(np.asarray, conditionals(at, values[i : i + _BLOCK], data, target=target))
        for i in range(0, len(values), _BLOCK)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _masses(found: Conditional) -> Float[np.ndarray, "values"]:
    """Laplace's masses; none where the others have no mode that is one."""
    mass = np.asarray(found.mass, float)
    return np.where(np.asarray(found.concave) & np.isfinite(mass), mass, -math.inf)


def _weights(
    proposals: "list[_Proposal]",
    values: Float[np.ndarray, "values drivers"],
    masses: Float[np.ndarray, "values"],
) -> Float[np.ndarray, "values"]:
    """Log weights of values, of which each proposal has drawn as many as each other."""
    each = [proposal.log_density(values) for proposal in proposals]
    return masses - np.logaddexp.reduce(each, axis=0) + math.log(len(each))


def _worth(weights: Float[np.ndarray, "values"]) -> float:
    """How many equally weighted ones they are worth."""
    share = np.exp(weights - weights.max())
    return float(share.sum() ** 2 / np.sum(share**2))


class _Proposal(NamedTuple):
    """Student t's in equal parts, each with its centre, factor and degrees of freedom."""

    centres: Float[np.ndarray, "kernels drivers"]
    factors: Float[np.ndarray, "kernels drivers drivers"]
    df: Float[np.ndarray, "kernels"]

    @classmethod
    def around(
        cls, centre: Float[np.ndarray, "drivers"], covariance: Float[np.ndarray, "drivers drivers"]
    ) -> "_Proposal":
        """One, wider than a Gaussian fit, which is too narrow."""
        factor = _WIDER * np.linalg.cholesky(covariance)
        return cls(centre[None], factor[None], np.full(1, _DF))

    @classmethod
    def of(
        cls,
        generator: np.random.Generator,
        values: Float[np.ndarray, "values drivers"],
        weights: Float[np.ndarray, "values"],
        own: Float[np.ndarray, "drivers drivers"],
    ) -> "_Proposal":
        """From weighted values; `own` is the Gaussian fit's covariance.

        Most kernels are narrow. Some are wide, and some long in one driver alone: a log scale near
        zero has a long tail, on which other drivers are where they always are.
        """
        dim = values.shape[1]
        share = np.exp(weights - weights.max())
        share /= share.sum()
        mean = share @ values
        covariance = (share[:, None] * (values - mean)).T @ (values - mean)
        covariance += 1e-12 * np.diag(np.diagonal(own)) + (_worth(weights) < _FEW) * own
        width = (4.0 / ((dim + 2.0) * _KERNELS)) ** (1.0 / (dim + 4.0))
        centres = values[generator.choice(len(values), _KERNELS, p=share)]
        centres = mean + math.sqrt(1.0 - width**2) * (centres - mean)
        spread = np.repeat(width**2 * covariance[None], _KERNELS, axis=0)
        df = np.full(_KERNELS, _DF)
        wide, along = slice(_WIDE_KERNELS), np.arange(_WIDE_KERNELS, _WIDE_KERNELS + _LONG_KERNELS)
        centres[wide], spread[wide] = mean, _WIDER**2 * covariance
        which = along % dim
        spread[along, which, which] += _LONG**2 * covariance[which, which]
        df[wide], df[along] = _WIDE_DF, _WIDE_DF
        return cls(centres, np.linalg.cholesky(spread), df)

    def draw(self, generator: np.random.Generator, num: int) -> Float[np.ndarray, "num drivers"]:
        """Values."""
        kernel = generator.integers(len(self.centres), size=num)
        heavy = np.sqrt(self.df[kernel] / generator.chisquare(self.df[kernel]))
        normal = generator.normal(size=(num, self.centres.shape[1]))
        return self.centres[kernel] + np.einsum(
            "nij,nj->ni", self.factors[kernel], normal * heavy[:, None]
        )

    def log_density(
        self, values: Float[np.ndarray, "values drivers"]
    ) -> Float[np.ndarray, "values"]:
        """Normalised."""
        dim = values.shape[1]
        apart = values[None] - self.centres[:, None]
        square = np.sum((apart @ np.linalg.inv(self.factors).swapaxes(1, 2)) ** 2, axis=2)
        constant = [math.lgamma(0.5 * (df + dim)) - math.lgamma(0.5 * df) for df in self.df]
        diagonals = np.diagonal(self.factors, axis1=1, axis2=2)
        constant -= 0.5 * dim * np.log(math.pi * self.df) + np.log(diagonals).sum(axis=1)
        each = -0.5 * (self.df + dim)[:, None] * np.log1p(square / self.df[:, None])
        return np.logaddexp.reduce(constant[:, None] + each, axis=0) - math.log(len(self.df))
