"""Short-chain MCMC diagnostic: whether Hamiltonian chains from draws of q drift away from q."""

from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxvi._compilation import side_by_side
from jaxvi._numerics import fold_in
from jaxvi._sampling import (
    advance_chains,
    draw_with_log_weights,
    draws_each,
    start_chains,
    tiled,
)
from jaxvi._types import Data, Phi
from jaxvi.diagnostics._drift import Drift, compare
from jaxvi.families import Bijector, Family, Transformed
from jaxvi.target import Target, pullback, push

_MAX_DENSE_WHITENING_DIM = 500
_NUM_GROUPS = 4  # of chains, on a CPU
KEPT_STATES = 8  # of each chain, after as many transitions of warm-up
Groups: TypeAlias = tuple[Any, ...]
"""All chains, on a CPU in groups that run in parallel threads by one program.

Each group is a `Chains`, or another type with the fields z, value, log_step and acceptance.
"""


class Space(NamedTuple):
    """Coordinates in which chains run: the target's own, or those of the family within q's.

    Where q is `Transformed`, chains run in x and are reported in z = f(x).
    """

    target: Target
    family: Family
    phi: Phi
    data: Data
    outer: tuple[Bijector, Any] | None = None  # f and its parameters

    @classmethod
    def of(cls, target: Target, family: Family, phi: Phi, data: Data) -> "Space":
        """The coordinates for chains from a q."""
        if not isinstance(family, Transformed):
            return cls(target, family, phi, data)
        within = pullback(target, family.bijector)
        outer = family.bijector, phi.bijector
        return cls(within, family.family, phi.inner, (phi.bijector, data), outer)

    def seen(self, x: Float[Array | np.ndarray, "*rows dim"]) -> Float[Array, "*rows dim"]:
        """Points in the target's coordinates."""
        x = jnp.asarray(x)
        return x if self.outer is None else push(self.outer[0], self.outer[1], x)

    def start(self, x: Float[Array, "chains dim"], scale: Float[Array, "..."]) -> Groups:
        """Chains that start at the rows of x."""
        num = _NUM_GROUPS if is_on_cpu(x) and len(x) % _NUM_GROUPS == 0 else 1
        starts = [
            partial(start_chains, self.target, some, scale, self.data, num_kept=KEPT_STATES)
            for some in jnp.split(x, num)
        ]
        return starts[0](), *side_by_side(starts[1:])  # the first call compiles the program

    def advance(
        self, key: Key[Array, ""], groups: Groups, scale: Float[Array, "..."], thin: int = 1
    ) -> tuple[Groups, Float[Array, "kept chains dim"]]:
        """Chains after some transitions, and their states, `thin` apart, in this space."""
        calls = [
            partial(
                advance_chains,
                fold_in(key, i),
                chains,
                scale,
                self.data,
                target=self.target,
                num_kept=KEPT_STATES,
                thin=thin,
            )
            for i, chains in enumerate(groups)
        ]
        ends, states = zip(*side_by_side(calls), strict=True)
        return ends, jnp.concatenate(states, axis=1) if len(states) > 1 else states[0]


def is_on_cpu(x: Array) -> bool:
    """Whether an array lies on CPUs only."""
    return all(device.platform == "cpu" for device in x.devices())


class ShortChains(NamedTuple):
    """Result of short chains that started at draws of q.

    `drift` is that of their last states from q. `x` are those states (kept, chains, dim) and
    `start` the starting points, both in the coordinates of `space`. `acceptance` is the mean over
    chains in the last transition, `num_bad` the number of draws of q without a finite density,
    `groups` the chains' state, `scale` the factor that whitened them.
    """

    drift: Drift
    x: Float[Array, "kept chains dim"]
    start: Float[Array, "chains dim"]
    acceptance: float
    num_bad: int
    groups: Groups
    scale: Float[Array, "..."]
    space: Space


def short_chains(
    key: Key[Array, ""],
    target: Target,
    family: Family,
    phi: Phi,
    data: Data = None,
    *,
    num_chains: int = 500,
    num_batches: int = 1,
) -> ShortChains:
    r"""Start short Hamiltonian chains at draws of q, and test whether their marginals drift.

    If q is the posterior, its draws keep their distribution under transitions that leave the
    posterior invariant. The change of a mean or standard deviation is a lower bound on q's error
    there, up to its Monte Carlo error (Wang, Kasprzak and Huggins 2023). In high dimension
    importance weights reject every q; this diagnostic does not. It cannot find modes that q has
    missed.

    After 8 transitions of 2 to 8 leapfrog steps, the states of 8 more are compared with q. Where q
    is `Transformed`, the chains run in the coordinates of the family within.

    Args:
        key: a random key.
        target: the log density.
        family: q's family.
        phi: q's parameters.
        data: handed to the log density.
        num_chains: chains; standard errors fall with their root.
        num_batches: batches in which draws of q are made, as for `importance_weights`, whose
            program is used.

    Example:
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
        >>> chains = jaxvi.diagnostics.short_chains(key, target, fit.q.family, fit.q.phi)
        >>> max(chains.drift.at_least()) < 0.1
        True
    """
    space = Space.of(target, family, phi, data)
    keys = [fold_in(key, i) for i in range(3)]
    drawn = draw_with_log_weights(
        keys[0],
        tiled(space.phi, num_batches),
        space.data,
        target=space.target,
        family=space.family,
        num=draws_each(num_batches, target.dim),
    )
    pool = np.asarray(drawn.z).reshape(-1, target.dim)
    start = jnp.asarray(pool[:num_chains])
    return run_short_chains((keys[1], keys[2]), target, space, pool, start, whitening(pool))


def run_short_chains(
    keys: tuple[Key[Array, ""], Key[Array, ""]],
    target: Target,
    space: Any,
    pool: Float[np.ndarray, "pool dim"],
    start: Float[Array, "chains dim"],
    scale: Float[Array, "..."],
) -> ShortChains:
    """Run chains from `start`, and compare their states with the draws `pool`.

    `space` is a `Space`, or another object with its methods.
    """
    groups = space.start(start, scale)
    num_bad = sum(int(np.sum(~np.isfinite(np.asarray(chains.value)))) for chains in groups)
    groups, _ = space.advance(keys[0], groups, scale)
    groups, x = space.advance(keys[1], groups, scale)
    drift = compare(target, *(space.seen(rows) for rows in (pool, start, x)))
    return ShortChains(drift, x, start, acceptance(groups), num_bad, groups, scale, space)


def acceptance(groups: Groups) -> float:
    """Mean acceptance of all chains in the last transition."""
    return float(np.mean([float(chains.acceptance) for chains in groups]))


def whitening(pool: Float[np.ndarray, "pool dim"]) -> Float[Array, "..."]:
    """Cholesky factor of the draws' covariance; above dimension 500 their standard deviations."""
    sd = pool.std(axis=0)
    if pool.shape[1] > _MAX_DENSE_WHITENING_DIM or not np.isfinite(sd).all():
        return jnp.asarray(sd)
    covariance = np.cov(pool, rowvar=False).reshape(sd.size, sd.size)
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        factor = np.diag(sd)
    return jnp.asarray(factor.astype(pool.dtype))
