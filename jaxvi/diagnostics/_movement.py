"""Do draws of q stay where they are when the density moves them?"""

from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jaxvi._compilation import side_by_side
from jaxvi._numerics import fold_in
from jaxvi._sampling import (
    advance_chains,
    draw_and_weigh,
    draws_each,
    features,
    start_chains,
    tiled,
)
from jaxvi._types import Data, Phi
from jaxvi.families import Bijector, Family, Transformed
from jaxvi.target import Target, pullback, push

_DENSE_UP_TO = 500
_GROUPS = 4  # of chains, on a processor
KEPT = 8  # states, after as many transitions to settle
CLEAR = 3.0  # standard errors
_CHANCE = 3.0  # standard errors of a correlation, of hundreds of which the largest counts
_TOLD = 0.08  # standard error of a log sd; of normals that of 80 draws


class Drift(NamedTuple):
    """How far marginals moved, a row for every coordinate: of z first, then of the parameters.

    `mean` is in q's standard deviations, `log_sd` the log of the ratio of standard deviations;
    each with its standard error. `memory` is the largest correlation, of ranks of values or of
    distances from the median, between where chains started and where they are, less what chance
    gives: 0 where they have forgotten. `sd_told` is false for parameters whose tails are so heavy
    that so many draws don't tell their sd.
    """

    mean: Float[np.ndarray, "coordinates"]
    mean_mcse: Float[np.ndarray, "coordinates"]
    log_sd: Float[np.ndarray, "coordinates"]
    log_sd_mcse: Float[np.ndarray, "coordinates"]
    memory: Float[np.ndarray, "coordinates"]
    sd_told: Bool[np.ndarray, "coordinates"]

    def at_least(self, errors: float = CLEAR) -> tuple[float, float]:
        """Lower bounds, so many standard errors off, on the largest of means and log sds."""
        mean = np.abs(self.mean) - errors * self.mean_mcse
        log_sd = np.abs(self.log_sd) - errors * self.log_sd_mcse
        return float(np.nanmax([0.0, *mean])), float(np.nanmax([0.0, *log_sd[self.sd_told]]))

    def at_most(self) -> tuple[float, float]:
        """The same, three standard errors on: what can't be ruled out. NaN where nothing can."""
        mean = np.abs(self.mean) + CLEAR * self.mean_mcse
        log_sd = np.abs(self.log_sd) + CLEAR * self.log_sd_mcse
        return float(np.max(mean)), float(np.max(log_sd[self.sd_told]))

    def less_sure(self, other: "Drift") -> "Drift":
        """With the standard errors of another, independent one added."""
        mean = np.hypot(self.mean_mcse, other.mean_mcse)
        return self._replace(
            mean_mcse=mean, log_sd_mcse=np.hypot(self.log_sd_mcse, other.log_sd_mcse)
        )


Groups: TypeAlias = tuple[Any, ...]
"""All chains: on a processor in parts that threads move, so that one program serves any of them.

Each is a `Chains` or of another kind that has its fields z, value, log_step and acceptance.
"""


class Space(NamedTuple):
    """Where chains move: the target's own coordinates, or those of the family within q's.

    Where q is `Transformed`, chains move in x and are seen in z = f(x).
    """

    target: Target
    family: Family
    phi: Phi
    data: Data
    outer: tuple[Bijector, Any] | None = None  # f and its parameters

    @classmethod
    def of(cls, target: Target, family: Family, phi: Phi, data: Data) -> "Space":
        """That of q."""
        if not isinstance(family, Transformed):
            return cls(target, family, phi, data)
        within = pullback(target, family.bijector)
        outer = family.bijector, phi.bijector
        return cls(within, family.family, phi.inner, (phi.bijector, data), outer)

    def seen(self, x: Float[Array | np.ndarray, "*rows dim"]) -> Float[Array, "*rows dim"]:
        """In the target's coordinates."""
        x = jnp.asarray(x)
        return x if self.outer is None else push(self.outer[0], self.outer[1], x)

    def start(self, x: Float[Array, "chains dim"], scale: Float[Array, "..."]) -> Groups:
        """Chains at the rows of x."""
        num = _GROUPS if on_processor(x) and len(x) % _GROUPS == 0 else 1
        starts = [
            partial(start_chains, self.target, some, scale, self.data, num_kept=KEPT)
            for some in jnp.split(x, num)
        ]
        return starts[0](), *side_by_side(starts[1:])  # the first has the program compiled

    def advance(
        self, key: Key[Array, ""], groups: Groups, scale: Float[Array, "..."], thin: int = 1
    ) -> tuple[Groups, Float[Array, "kept chains dim"]]:
        """States of every chain, `thin` transitions apart; as they are, not as they are seen."""
        calls = [
            partial(
                advance_chains,
                fold_in(key, i),
                chains,
                scale,
                self.data,
                target=self.target,
                num_kept=KEPT,
                thin=thin,
            )
            for i, chains in enumerate(groups)
        ]
        ends, states = zip(*side_by_side(calls), strict=True)
        return ends, jnp.concatenate(states, axis=1) if len(states) > 1 else states[0]


def on_processor(x: Array) -> bool:
    """Not on an accelerator."""
    return all(device.platform == "cpu" for device in x.devices())


class Movement(NamedTuple):
    """What chains that start at draws of q do.

    `drift` is of their last states against q, `x` those states (kept, chains, dim) where the
    chains move, `start` where they began, both in `space`; `acceptance` is the mean over chains
    in the last transition, `num_bad` counts draws of q that had no finite density, `groups` is
    where they are, `scale` what whitened them.
    """

    drift: Drift
    x: Float[Array, "kept chains dim"]
    start: Float[Array, "chains dim"]
    acceptance: float
    num_bad: int
    groups: Groups
    scale: Float[Array, "..."]
    space: Space


def movement(
    key: Key[Array, ""],
    target: Target,
    family: Family,
    phi: Phi,
    data: Data = None,
    *,
    num_chains: int = 500,
    num_batches: int = 1,
) -> Movement:
    r"""Start short Hamiltonian chains at draws of q, and see whether their marginals drift.

    Where q is the posterior, draws of it stay so under transitions that leave the posterior as it
    is. The change of a mean or standard deviation is a lower bound on q's error there, up to its
    Monte Carlo error (Wang, Kasprzak and Huggins 2023). Importance weights fail in high dimension,
    where they condemn every q; this doesn't. It sees nothing of modes that q has missed.

    8 transitions of 2 to 8 leapfrog steps settle, the states of 8 more are compared with q. Where q
    is `Transformed`, the chains move in the coordinates of the family within.

    Args:
        key: a random key.
        target: the log density.
        family: q's family.
        phi: q's parameters.
        data: handed to the log density.
        num_chains: chains; standard errors fall with their root.
        num_batches: of which draws of q are made, as for `weigh`, whose program serves.

    Example:
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> moved = jaxvi.diagnostics.movement(key, target, fit.q.family, fit.q.phi)
        >>> max(moved.drift.at_least()) < 0.1
        True
    """
    space = Space.of(target, family, phi, data)
    keys = [fold_in(key, i) for i in range(3)]
    drawn = draw_and_weigh(
        keys[0],
        tiled(space.phi, num_batches),
        space.data,
        target=space.target,
        family=space.family,
        num=draws_each(num_batches, target.dim),
    )
    pool = np.asarray(drawn.z).reshape(-1, target.dim)
    start = jnp.asarray(pool[:num_chains])
    return move((keys[1], keys[2]), target, space, pool, start, whitening(pool))


def move(
    keys: tuple[Key[Array, ""], Key[Array, ""]],
    target: Target,
    space: Any,
    pool: Float[np.ndarray, "pool dim"],
    start: Float[Array, "chains dim"],
    scale: Float[Array, "..."],
) -> Movement:
    """Chains from some draws, held against all of them; `space` is a `Space` or one like it."""
    groups = space.start(start, scale)
    num_bad = sum(int(np.sum(~np.isfinite(np.asarray(chains.value)))) for chains in groups)
    groups, _ = space.advance(keys[0], groups, scale)
    groups, x = space.advance(keys[1], groups, scale)
    drift = compare(target, *(space.seen(rows) for rows in (pool, start, x)))
    return Movement(drift, x, start, acceptance(groups), num_bad, groups, scale, space)


def acceptance(groups: Groups) -> float:
    """The mean over all chains in the last transition."""
    return float(np.mean([float(chains.acceptance) for chains in groups]))


def whitening(pool: Float[np.ndarray, "pool dim"]) -> Float[Array, "..."]:
    """A factor of the covariance of draws; above dimension 500 their standard deviations."""
    sd = pool.std(axis=0)
    if pool.shape[1] > _DENSE_UP_TO or not np.isfinite(sd).all():
        return jnp.asarray(sd)
    covariance = np.cov(pool, rowvar=False).reshape(sd.size, sd.size)
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        factor = np.diag(sd)
    return jnp.asarray(factor.astype(pool.dtype))


def compare(
    target: Target,
    pool: Float[Array | np.ndarray, "pool dim"],
    start: Float[Array | np.ndarray, "chains dim"],
    z: Float[Array | np.ndarray, "kept chains dim"],
) -> Drift:
    """States `z` of chains from `start` against draws `pool` of q, all in the target's z.

    Chains are independent; states of one are not. On the host: as a program of its own this took
    0.5 s to compile, for each number of chains and states.
    """
    kept, num_chains, dim = z.shape
    of_q = features(target, pool)
    centre, scale = of_q.mean(axis=0), of_q.std(axis=0)
    constant = scale == 0.0  # as is a simplex of one part
    scale = np.where(constant, 1.0, scale)

    def standard(rows: Float[Array | np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows both"]:
        return (features(target, rows) - centre[None]) / scale[None]

    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        first, rows = standard(start), standard(z.reshape(-1, dim))
        mean = rows.mean(axis=0)
        square = (rows - mean[None]) ** 2
        by_chain = rows.reshape(kept, num_chains, -1).mean(axis=0)
        square_by_chain = square.reshape(kept, num_chains, -1).mean(axis=0)
        variance = np.where(constant, 1.0, square.mean(axis=0))
        own = ((of_q - centre[None]) / scale[None]) ** 2
        size, pool_size = float(num_chains), float(len(pool))
        mean_error = np.sqrt(by_chain.var(axis=0) / size + 1.0 / pool_size)
        spread = square_by_chain.var(axis=0) / variance**2 / size + own.var(axis=0) / pool_size
        last = rows.reshape(kept, num_chains, -1)[-1]
        memory = np.maximum(_memory(first, last), _memory(_folded(first), _folded(last)))
        memory = np.where(constant, 0.0, memory)
        log_sd_error = 0.5 * np.sqrt(spread)
        told = (log_sd_error < _TOLD) | (np.arange(memory.size) < dim)
        return Drift(mean, mean_error, 0.5 * np.log(variance), log_sd_error, memory, told)


def _folded(
    rows: Float[np.ndarray, "chains coordinates"],
) -> Float[np.ndarray, "chains coordinates"]:
    """Distances from the median."""
    return np.abs(rows - np.median(rows, axis=0)[None])


def _memory(
    one: Float[np.ndarray, "chains coordinates"], other: Float[np.ndarray, "chains coordinates"]
) -> Float[np.ndarray, "coordinates"]:
    """Correlation of ranks, which one chain far out doesn't decide, beyond that of chance."""
    num = len(one)

    def ranks(rows: np.ndarray) -> np.ndarray:
        order = np.argsort(rows, axis=0)
        found = np.empty_like(order)
        np.put_along_axis(found, order, np.arange(num)[:, None], axis=0)
        return found - 0.5 * (num - 1)

    one, other = ranks(one), ranks(other)
    found = np.sum(one * other, axis=0) / np.sum(one**2, axis=0)
    return np.sqrt(np.maximum(found**2 - _CHANCE**2 / num, 0.0))
