"""The optimum of a bound on frozen draws, and its Monte Carlo error by a jackknife."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from jaxvi._status import Status
from jaxvi._types import Data, Noise, Phi
from jaxvi.families import Family, HasMirror
from jaxvi.noise import Antithetic, Frozen, MomentMatched, NoiseSource, match_moments
from jaxvi.objectives import ELBO
from jaxvi.solvers import (
    Problem,
    TrustRegionSearch,
    check_num_draws,
    frozen_source,
    is_certain,
    local_map,
    num_draws_for,
    start_trust_region_search,
    trust_region_step,
)
from jaxvi.target import Target

_MIN_GROUPS = 16  # of draws, of which the jackknife leaves out one at a time
_MAX_NEWTON_STEPS = 30
_CONVERGED_NATS = 1e-4


@dataclass(frozen=True)
class Design:
    """A frozen bound: target, family, objective, and the noise source of its draws."""

    target: Target
    family: Family
    objective: ELBO
    source: NoiseSource

    def problem(self, data: Data) -> Problem:
        """The bound and the log density as a solver's problem."""
        return Problem(self.target, self.family, self.objective, data)

    def draw(self, key: Key[Array, ""], dtype: jnp.dtype) -> Noise:
        """The frozen draws' noise."""
        num, dim = self.objective.num_draws, self.target.dim
        return self.source.draw(key, 0, self.family, num, dim, dtype)

    @property
    def is_mirrored(self) -> bool:
        """Whether the second half of the noise mirrors the first."""
        return isinstance(self.source, Antithetic | MomentMatched)


class Optimum(NamedTuple):
    """phi at the maximum of the frozen bound, the noise, and how the search ended."""

    phi: Phi
    noise: Noise
    status: Int[Array, ""]


def design_of(owner: str, fit: Any, num_draws: int | None) -> Design:
    """The fit's own frozen bound, or one on the best frozen noise that its family allows.

    Raises:
        TypeError, ValueError: an objective that is no ELBO, or too few draws.
    """
    setup = fit.setup
    if not isinstance(setup.objective, ELBO):
        raise TypeError(
            f"{owner}: expected a fit by jaxvi.ELBO(...), whose maximum answers to a change of the "
            f"log density as is needed here; got one by {setup.objective!r}; try jaxvi.fit(..., "
            "objective=jaxvi.ELBO())."
        )
    frozen = isinstance(setup.noise, Frozen)
    source = setup.noise if frozen else frozen_source(setup.family)
    dim = setup.target.dim
    if num_draws is None:
        own = setup.objective.num_draws if frozen else 0
        num_draws = own or num_draws_for(setup.family, source, dim)
    objective = ELBO(
        num_draws, None if setup.objective.stick_the_landing else setup.objective.entropy
    )
    source.check(setup.family, num_draws)
    check_num_draws(owner, setup.family, num_draws, source, dim)
    return Design(setup.target, setup.family, objective, source.source)


def find_optimum(design: Design, phi: Phi, key: Key[Array, ""], data: Data) -> Optimum:
    """Maximise the frozen bound from phi by Newton steps; few if phi was fitted to these draws."""
    problem = design.problem(data)
    noise = design.draw(key, jax.tree.leaves(phi)[0].dtype)
    enough = 10.0 * float(jnp.finfo(noise.dtype).eps)

    def step(carry: tuple[Array, TrustRegionSearch]) -> tuple[Array, TrustRegionSearch]:
        search = trust_region_step(
            carry[1],
            lambda phi: problem.loss(phi, noise),
            lambda phi: local_map(design.family, phi, noise),
            jnp.zeros((), bool),
        )
        return carry[0] + 1, search

    def unfinished(carry: tuple[Array, TrustRegionSearch]) -> Array:
        steps, search = carry
        return (steps < _MAX_NEWTON_STEPS) & ~is_certain(search, enough)

    _, search = lax.while_loop(
        unfinished, step, (jnp.zeros((), jnp.int32), start_trust_region_search(phi))
    )
    status = jnp.where(search.flat, Status.SINGULAR, Status.STALLED)
    status = jnp.where(is_certain(search, _CONVERGED_NATS), Status.CONVERGED, status)
    status = jnp.where(search.started, status, Status.NOT_FINITE)
    return Optimum(search.phi, noise, status.astype(jnp.int32))


def leave_out(design: Design, noise: Noise) -> tuple[Float[Array, "groups left noise"], float]:
    """Jackknife samples of the noise, and the factor of the jackknife's variance.

    Each sample leaves out one group of draws. Mirrored pairs stay together, and moments are matched
    again, since the matching is part of the estimator. There are no samples if too few draws would
    be left.
    """
    mirrored, matched = design.is_mirrored, isinstance(design.source, MomentMatched)
    rows = noise[: len(noise) // 2] if mirrored else noise
    num, size = rows.shape
    least = size if matched and num >= size else 2
    group = max(1, min(num // _MIN_GROUPS, num - least))
    groups = num // group
    if num - group < least:
        return jnp.zeros((0, *noise.shape), noise.dtype), 0.0
    index = jnp.arange(num - group)
    first = group * jnp.arange(groups)

    def without(first: Int[Array, ""]) -> Float[Array, "left noise"]:
        left = rows[jnp.where(index < first, index, index + group)]
        left = match_moments(left) if matched else left
        if not mirrored:
            return left
        assert isinstance(design.family, HasMirror)
        return jnp.concatenate([left, design.family.mirror(left)])

    # rows in no group never vary, which the factor corrects
    factor = (num - group) / (group * groups)
    return jax.vmap(without)(first), factor


def jackknife_error(values: Float[Array, "groups size"], factor: float) -> Float[Array, "size"]:
    """Jackknife standard errors from estimates without each group; NaN if there are no groups."""
    if values.shape[0] == 0:
        return jnp.full(values.shape[1:], jnp.nan, values.dtype)
    return jnp.sqrt(factor * jnp.sum((values - values.mean(axis=0)[None]) ** 2, axis=0))
