"""A q that is a maximum on frozen draws, and how far those draws are to blame for where it is."""

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
    Newton,
    Problem,
    check_num_draws,
    frozen_source,
    is_certain,
    local_map,
    newton_step,
    num_draws_for,
    start_newton,
)
from jaxvi.target import Target

_GROUPS = 16  # of draws, at least, of which one at a time is left out
_MOST_STEPS = 30  # of the polish
_GOOD_ENOUGH = 1e-4  # nats


@dataclass(frozen=True)
class Design:
    """What is frozen: the bound of a family and a target, and how its draws are made."""

    target: Target
    family: Family
    objective: ELBO
    source: NoiseSource

    def problem(self, data: Data) -> Problem:
        """What may be evaluated."""
        return Problem(self.target, self.family, self.objective, data)

    def draw(self, key: Key[Array, ""], dtype: jnp.dtype) -> Noise:
        """The frozen draws."""
        num, dim = self.objective.num_draws, self.target.dim
        return self.source.draw(key, 0, self.family, num, dim, dtype)

    @property
    def is_mirrored(self) -> bool:
        """Whether the second half of the rows mirrors the first."""
        return isinstance(self.source, Antithetic | MomentMatched)


class Optimum(NamedTuple):
    """phi where the frozen bound is highest, the draws, coordinates around it, and how it went."""

    phi: Phi
    noise: Noise
    status: Int[Array, ""]


def design_of(owner: str, fit: Any, num_draws: int | None) -> Design:
    """The fit's own frozen draws, or the best that its family can take.

    Raises:
        TypeError, ValueError: an objective that is no ELBO, or draws that are too few.
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
    """A few Newton steps on the design's draws; none are needed where phi came from them."""
    problem = design.problem(data)
    noise = design.draw(key, jax.tree.leaves(phi)[0].dtype)
    enough = 10.0 * float(jnp.finfo(noise.dtype).eps)

    def step(carry: tuple[Array, Newton]) -> tuple[Array, Newton]:
        search = newton_step(
            carry[1],
            lambda phi: problem.loss(phi, noise),
            lambda phi: local_map(design.family, phi, noise),
            jnp.zeros((), bool),
        )
        return carry[0] + 1, search

    def unfinished(carry: tuple[Array, Newton]) -> Array:
        steps, search = carry
        return (steps < _MOST_STEPS) & ~is_certain(search, enough)

    _, search = lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), start_newton(phi)))
    status = jnp.where(search.flat, Status.SINGULAR, Status.STALLED)
    status = jnp.where(is_certain(search, _GOOD_ENOUGH), Status.CONVERGED, status)
    status = jnp.where(search.started, status, Status.NOT_FINITE)
    return Optimum(search.phi, noise, status.astype(jnp.int32))


def leave_out(design: Design, noise: Noise) -> tuple[Float[Array, "groups left noise"], float]:
    """The draws without one group of them at a time, and the factor of the jackknife's variance.

    Mirrored pairs stay together, and what is left is matched again: the matching is part of
    what is being judged. No groups, where what is left would be too few.
    """
    mirrored, matched = design.is_mirrored, isinstance(design.source, MomentMatched)
    rows = noise[: len(noise) // 2] if mirrored else noise
    num, size = rows.shape
    least = size if matched and num >= size else 2
    group = max(1, min(num // _GROUPS, num - least))
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

    # rows that are in no group never vary: the factor makes up for them
    factor = (num - group) / (group * groups)
    return jax.vmap(without)(first), factor


def jackknife_error(values: Float[Array, "groups size"], factor: float) -> Float[Array, "size"]:
    """Standard errors by the spread over left-out groups; NaN where there are none."""
    if values.shape[0] == 0:
        return jnp.full(values.shape[1:], jnp.nan, values.dtype)
    return jnp.sqrt(factor * jnp.sum((values - values.mean(axis=0)[None]) ** 2, axis=0))
