"""Pathfinder: the best Gaussian along a quasi-Newton path to a mode."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxvi._arguments import check_field, integer, number
from jaxvi._numerics import pytrees
from jaxvi._status import Status
from jaxvi._types import Noise, Phi
from jaxvi.families import Family, FullRank, HasGaussianInit, HasMoments, LowRank, NormalNoiseFamily
from jaxvi.noise import Antithetic, Fresh, Frozen, NoiseSource
from jaxvi.objectives import ELBO, Objective
from jaxvi.solvers._base import BlockTrace, Defaults, Problem, Solver, StepInfo
from jaxvi.solvers._deterministic.lbfgs import Lbfgs, absorb, start_search, trial_point
from jaxvi.solvers._deterministic.path_gaussian import (
    PathGaussian,
    conjugate_pairs,
    draw_path,
    family_member,
    path_gaussian,
)

_BLOCK_STEPS = 10  # evaluations between two comparisons of Gaussians
_MAX_QUIET_STEPS = 3  # steps in a row that gain less than the tolerance
_MAX_FAILURES = 2  # line searches in a row that fail
_MAX_STALE_BLOCKS = 20  # in a row without a better Gaussian, as on a path to an infinite density
_MAX_FULL_RANK_DIM = 300  # of the default family
_MIN_PAIRS, _MAX_PAIRS = 10, 30  # of the default memory
_DIRECTION_PAIRS = 5  # last pairs that define the path's direction
_SCORE_STANDARD_ERRORS = 4.0  # subtracted from a bound, lest a bad Gaussian win by luck


class Trail(NamedTuple):
    """Iterates of a block, with their pairs of steps and gradient changes.

    Rows of `steps` and `changes` are the `memory` pairs from before the block, then the block's
    own `num_pairs`. `newest` is the number of the block's pairs before an iterate, and `usable`
    says which rows hold an iterate with a pair.
    """

    z: Float[Array, "block dim"]
    grad: Float[Array, "block dim"]
    diagonal: Float[Array, "block dim"]
    newest: Int[Array, "block"]
    usable: Bool[Array, "block"]
    steps: Float[Array, "pairs dim"]
    changes: Float[Array, "pairs dim"]
    num_pairs: Int[Array, ""]
    row: Int[Array, ""]


class PathfinderState(NamedTuple):
    """State of a lane: the path's search, the block's iterates, and the best Gaussian so far."""

    phi: Phi  # the family's member for the best; the start if there is none
    search: Lbfgs
    trail: Trail
    best: PathGaussian
    bound: Float[Array, ""]  # of the best; log p at the path's end before there is one
    score: Float[Array, ""]  # of the best: its bound less four standard errors
    found: Bool[Array, ""]
    last: Bool[Array, ""]  # the best is one of the last block's
    paired: Bool[Array, ""]  # whether any pair was found
    felt: Bool[Array, "dim"]  # coordinates whose slope was ever non-zero
    quiet: Int[Array, ""]  # steps in a row that gained less than the tolerance
    stale: Int[Array, ""]  # blocks in a row without a new best
    gone: Bool[Array, ""]  # a coordinate is beyond any reasonable scale
    level: Bool[Array, ""]  # log p is no lower far beyond the path's end
    ended: Bool[Array, ""]


@dataclass(frozen=True)
class Pathfinder(Solver):
    r"""The best Gaussian along a quasi-Newton path to a mode.

    Each lane climbs log p by L-BFGS from its start. At every iterate z the pairs seen so far make
    an inverse Hessian H, and with it the Gaussian $N(z + H \nabla \log p(z), H)$; the bounds of all
    of them are estimated by Monte Carlo on common draws, and the best is kept (Zhang, Carpenter,
    Gelman and Vehtari 2022). Where a mode is narrow or infinite, the best lies before it.

    Two things are added. Each iterate has a second H, by conjugate combinations of its pairs, which
    is exact on a Gaussian target once they span all coordinates, where updates by the pairs
    themselves may be far off. And bounds are compared less four standard errors, since of many
    noisy bounds of bad Gaussians one would win by luck.

    One step is one gradient of the log density; every 10 steps the iterates among them are
    evaluated at once, at 20 num_draws points a lane (lower it where memory is short). A path takes
    tens to hundreds of steps. The overhead is O(memory dim) a step and O(memory^2 dim) an iterate;
    only the best of `FullRank` is made dense.

    q is as good as H, which knows curvature only along `memory` steps. In up to 30 dimensions the
    default is enough for every direction; above, or with a smaller memory, posteriors of strong
    correlation are fitted badly. Resample by `jaxvi.resample.importance_resample`, which tells how
    bad, or start a `Stochastic` fit from it.

    Families: `FullRank` (by default up to dimension 300) is exact; `LowRank` (the default above)
    and `MeanField` keep means and marginal variances; others take their nearest member. The
    objective's `num_draws` is the number of draws; its estimator doesn't matter.

    A lane ends CONVERGED when the path gains less than `tolerance` three times in a row, can't
    move, or has seen no better Gaussian for 200 steps, and some Gaussian had a finite bound;
    UNBOUNDED when the path runs off and the bound rises with it, or log p has not fallen a
    hundred standard deviations beyond the path's end; SINGULAR when no curvature was seen, or a
    coordinate had no slope all along; NOT_FINITE when every Gaussian reaches into where the
    density is not finite. Fails silently on a slanting direction in which log p is flat, sometimes
    where log p levels off beside other directions, and where log p has an infinite peak of infinite
    mass, which looks as a funnel does.

    Args:
        num_draws: draws for each bound; mirrored where even.
        memory: pairs that make an inverse Hessian; None for twice the dimension, from 10 to 30.
        tolerance: gain in log p, nats, that a step must have to count.

    Raises:
        ValueError: num_draws or memory below 1, or a tolerance not above 0.

    Example:
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.solvers.Pathfinder())
    """

    num_draws: int = 32
    memory: int | None = None
    tolerance: float = 1e-10

    guards_itself: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_field(self, "num_draws", integer)
        check_field(self, "memory", integer, optional=True)
        check_field(self, "tolerance", number, above=0.0)

    @property
    def block_steps(self) -> int:
        """Evaluations between two comparisons of Gaussians."""
        return _BLOCK_STEPS

    def defaults(self, family: Family | None, dim: int) -> Defaults:
        """Full rank up to dimension 300; one set of mirrored draws for all iterates."""
        if family is None:
            family = FullRank() if dim <= _MAX_FULL_RANK_DIM else LowRank(self._memory(dim))
        source = Fresh() if self.num_draws % 2 else Antithetic()
        return Defaults(family, ELBO(self.num_draws), Frozen(source))

    def _memory(self, dim: int) -> int:
        """Number of pairs that are kept."""
        return self.memory or min(max(2 * dim, _MIN_PAIRS), _MAX_PAIRS)

    def check(self, family: Family, objective: Objective, noise: NoiseSource, dim: int) -> None:
        """Raise unless the family has normal noise and can be set to a Gaussian, by the ELBO."""
        normal = isinstance(family, NormalNoiseFamily) and family.noise_size(dim) >= dim
        if not (normal and isinstance(family, HasGaussianInit) and isinstance(family, HasMoments)):
            raise TypeError(
                "Pathfinder: expected a family on normal noise with init_gaussian and moments; got "
                f"{family!r}; try family=jaxvi.FullRank()."
            )
        if not isinstance(objective, ELBO):
            raise TypeError(
                "Pathfinder: expected objective=jaxvi.ELBO(...), by which it chooses; got "
                f"{objective!r}; try leaving it out."
            )

    def init(self, phi: Phi, problem: Problem) -> PathfinderState:
        """A path that starts at the mean of q."""
        assert isinstance(problem.family, HasMoments)  # `check` has ensured it
        z = problem.family.moments(phi).mean
        value, grad = (rows[0] for rows in problem.values_and_gradients(z[None]))
        memory = self._memory(problem.dim)
        search = start_search(z, value, grad, memory)
        empty = jnp.zeros((memory, z.size), z.dtype)
        no, zero = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
        return PathfinderState(
            phi=phi,
            search=search,
            trail=_empty_trail(search, memory),
            best=PathGaussian(z, jnp.ones_like(z), empty, empty, jnp.zeros((), z.dtype)),
            bound=value,
            score=value,
            found=no,
            last=no,
            paired=no,
            felt=grad != 0.0,
            quiet=zero,
            stale=zero,
            gone=no,
            level=no,
            ended=no,
        )

    def step(
        self, state: PathfinderState, noise: Noise, problem: Problem
    ) -> tuple[PathfinderState, StepInfo]:
        """One evaluation of the density and its gradient, and a step of the path if accepted."""
        old = state.search
        values, grads = problem.values_and_gradients(trial_point(old)[None])
        new = absorb(old, values[0], grads[0])
        small = self._gains_little(old, new)
        quiet = jnp.where(new.accepted, jnp.where(small, state.quiet + 1, 0), state.quiet)
        limit = float(jnp.finfo(new.at.z.dtype).eps) ** -1.25  # 5e8, 4e19
        moved = state._replace(
            search=new,
            trail=_record(state.trail, old, new),
            bound=jnp.where(state.found, state.bound, new.at.value),
            paired=state.paired | _has_new_pair(old, new),
            felt=state.felt | (new.at.grad != 0.0),
            quiet=quiet.astype(jnp.int32),
            gone=jnp.max(jnp.abs(new.at.z)) > limit,
        )
        ended = (quiet >= _MAX_QUIET_STEPS) | (new.failures >= _MAX_FAILURES) | moved.gone
        state = pytrees.where(state.ended, state, moved._replace(ended=ended))
        return state, StepInfo(state.bound)

    def _gains_little(self, old: Lbfgs, new: Lbfgs) -> Bool[Array, ""]:
        """Whether the step gained less than the tolerance, as the next one will by its slope."""
        to_come = 0.5 * (new.direction @ new.at.grad)
        gained = new.at.value - old.at.value
        rounding = 2.0 * jnp.finfo(gained.dtype).eps * jnp.maximum(jnp.abs(new.at.value), 1.0)
        least = jnp.maximum(rounding, self.tolerance)
        return (gained < least) & (to_come < least)

    def review(
        self, state: PathfinderState, trace: BlockTrace
    ) -> tuple[PathfinderState, Int[Array, ""]]:
        """Estimate the bounds of the block's Gaussians in one batch, and keep the best so far."""
        trail, problem = state.trail, trace.problem
        candidates = jax.vmap(partial(_gaussians, trail))(jnp.arange(_BLOCK_STEPS))
        candidates = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), candidates)
        noise = trace.noise[0][:, : problem.dim]
        z, log_q = jax.vmap(draw_path, (0, None))(candidates, noise)
        probe, aimed = _beyond(state.search)
        points = jnp.concatenate([z.reshape(-1, problem.dim), probe[None]])
        values = problem.log_probs(points)
        log_p, beyond = values[:-1].reshape(log_q.shape), values[-1]
        bounds = jnp.mean(log_p - log_q, axis=-1)
        errors = jnp.std(log_p - log_q, axis=-1) / len(noise) ** 0.5
        # a bound is finite only where all parts of its Gaussian are
        usable = jnp.repeat(trail.usable, 2) & jnp.isfinite(bounds)
        scores = jnp.where(usable, bounds - _SCORE_STANDARD_ERRORS * errors, -jnp.inf)
        first = jnp.argmax(scores)
        better = usable[first] & (~state.found | (scores[first] > state.score))
        best = pytrees.where(better, jax.tree.map(lambda leaf: leaf[first], candidates), state.best)
        state = state._replace(
            phi=_member_where(better, problem.family, best, state.phi),
            trail=_next_trail(state),
            best=best,
            bound=jnp.where(better, bounds[first], state.bound),
            score=jnp.where(better, scores[first], state.score),
            found=state.found | better,
            stale=jnp.where(better | ~state.found, 0, state.stale + 1).astype(jnp.int32),
            last=jnp.where(trail.usable.any(), better, state.last),
            level=jnp.where(aimed, beyond > state.search.at.value - 1.0, state.level),
        )
        status = jnp.where(trace.failed, Status.NOT_FINITE, _status(state))
        return state, status.astype(jnp.int32)

    def result(self, state: PathfinderState) -> Phi:
        """The family's member for the best Gaussian, or the start if there is none."""
        return state.phi


def _gaussians(trail: Trail, row: Array) -> PathGaussian:
    """Two Gaussians of one iterate: by its pairs, and by conjugate combinations of them."""
    memory = len(trail.steps) - _BLOCK_STEPS
    pairs = tuple(
        lax.dynamic_slice_in_dim(rows, trail.newest[row], memory)
        for rows in (trail.steps, trail.changes)
    )
    both = jax.tree.map(lambda *kinds: jnp.stack(kinds), pairs, conjugate_pairs(*pairs))
    point = trail.z[row], trail.grad[row], trail.diagonal[row]
    return jax.vmap(partial(path_gaussian, *point))(*both)


def _member_where(better: Bool[Array, ""], family: Family, best: PathGaussian, phi: Phi) -> Phi:
    """The family's member for `best` if better, else phi; a loop skips the work where not."""

    def change(carry: tuple[Array, Phi]) -> tuple[Array, Phi]:
        return jnp.zeros((), bool), family_member(family, best)

    return lax.while_loop(lambda carry: carry[0], change, (better, phi))[1]


def _beyond(search: Lbfgs) -> tuple[Float[Array, "dim"], Bool[Array, ""]]:
    """A point a hundred standard deviations beyond the path's end, and whether there is one.

    The direction is that of the last pairs together: single steps may deviate where log p is flat
    in one direction and not in others.
    """
    pairs = search.pairs
    used = pairs.products[-_DIRECTION_PAIRS:] > 0.0
    steps = jnp.where(used[:, None], pairs.steps[-_DIRECTION_PAIRS:], 0.0)
    way, change = steps.sum(axis=0), pairs.changes[-_DIRECTION_PAIRS:].sum(axis=0)
    products = jnp.where(used, pairs.products[-_DIRECTION_PAIRS:], jnp.inf)
    newest = jnp.argmax(jnp.where(used, jnp.arange(len(used)), -1))
    last = jnp.linalg.norm(steps[newest]) / jnp.sqrt(products[newest])
    length, bend = jnp.linalg.norm(way), way @ change
    along = length / jnp.sqrt(jnp.where(bend > 0.0, bend, jnp.inf))
    far = 100.0 * jnp.maximum(along, last) / jnp.where(length > 0.0, length, 1.0)
    return search.at.z + far * way, used.any() & (length > 0.0)


def _status(state: PathfinderState) -> Int[Array, ""]:
    """Status of a path: how it has ended, or that it is still running."""
    off = (state.gone | state.search.overflowed) & (state.last | ~state.found)
    off |= state.level & state.paired
    flat = ~state.paired | ~state.felt.all()
    code = jnp.where(state.found, Status.CONVERGED, Status.NOT_FINITE)
    code = jnp.where(flat, Status.SINGULAR, code)
    code = jnp.where(off, Status.UNBOUNDED, code)
    return jnp.where(state.ended | (state.stale >= _MAX_STALE_BLOCKS), code, Status.RUNNING)


def _empty_trail(search: Lbfgs, memory: int) -> Trail:
    """A trail without iterates and pairs."""
    dim, dtype = search.at.z.size, search.at.z.dtype
    rows, pairs = (
        jnp.zeros((_BLOCK_STEPS, dim), dtype),
        jnp.zeros((memory + _BLOCK_STEPS, dim), dtype),
    )
    zero = jnp.zeros((), jnp.int32)
    return Trail(
        z=rows,
        grad=rows,
        diagonal=jnp.ones_like(rows),
        newest=jnp.zeros(_BLOCK_STEPS, jnp.int32),
        usable=jnp.zeros(_BLOCK_STEPS, bool),
        steps=pairs,
        changes=pairs,
        num_pairs=zero,
        row=zero,
    )


def _has_new_pair(old: Lbfgs, new: Lbfgs) -> Bool[Array, ""]:
    """Whether the last step has added a pair."""
    return new.accepted & jnp.any(new.pairs.steps[-1] != old.pairs.steps[-1])


def _record(trail: Trail, old: Lbfgs, new: Lbfgs) -> Trail:
    """The trail with the new iterate, written by a select since lanes are at different rows."""
    memory = len(new.pairs.steps)
    added = _has_new_pair(old, new)
    place = jnp.arange(memory + _BLOCK_STEPS) == memory + trail.num_pairs
    num_pairs = trail.num_pairs + added.astype(jnp.int32)
    row = jnp.arange(_BLOCK_STEPS) == trail.row

    def write(rows: Array, value: Array) -> Array:
        return jnp.where(row[:, None], value[None], rows)

    return Trail(
        z=write(trail.z, new.at.z),
        grad=write(trail.grad, new.at.grad),
        diagonal=write(trail.diagonal, new.pairs.diagonal),
        newest=jnp.where(row, num_pairs, trail.newest),
        usable=jnp.where(row, added, trail.usable),
        steps=jnp.where((place & added)[:, None], new.pairs.steps[-1][None], trail.steps),
        changes=jnp.where((place & added)[:, None], new.pairs.changes[-1][None], trail.changes),
        num_pairs=num_pairs,
        row=trail.row + 1,
    )


def _next_trail(state: PathfinderState) -> Trail:
    """An empty trail for the next block, which keeps the last pairs."""
    trail = state.trail
    memory = len(trail.steps) - _BLOCK_STEPS
    empty = _empty_trail(state.search, memory)

    def carry(rows: Array, none: Array) -> Array:
        return none.at[:memory].set(lax.dynamic_slice_in_dim(rows, trail.num_pairs, memory))

    return empty._replace(
        steps=carry(trail.steps, empty.steps), changes=carry(trail.changes, empty.changes)
    )
