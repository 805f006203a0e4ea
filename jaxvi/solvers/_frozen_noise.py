"""Deterministic variational inference: the bound on frozen noise, maximised to the end."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from jaxvi._arguments import check_field, number, one_of
from jaxvi._numerics import pytrees
from jaxvi._status import Status
from jaxvi._types import Noise, Phi, Scalar
from jaxvi.families import Family
from jaxvi.noise import Frozen, NoiseSource
from jaxvi.objectives import ELBO, Objective
from jaxvi.solvers._base import BlockTrace, Defaults, Problem, Solver, StepInfo, default_family
from jaxvi.solvers._deterministic.frozen_draws import check_num_draws, frozen_source, num_draws_for
from jaxvi.solvers._deterministic.lbfgs import (
    Lbfgs,
    absorb,
    inverse_product,
    start_search,
    trial_point,
)
from jaxvi.solvers._deterministic.local_coordinates import local_map
from jaxvi.solvers._deterministic.trust_region import Newton, is_certain, newton_step, start_newton

_IDLE = 20  # steps without a gain after which nothing more will come
_FAR = 1e12  # spread of q, and bound, beyond any posterior's
_UNSEEN = 1e4  # times the frozen draws' spread: q grows where they don't see it
_WATCHED = 8  # draws that show q's spread
_MEMORY = 20  # pairs of L-BFGS
_FAILURES = 3  # line searches of L-BFGS in a row that ended where they began
_HEURISTIC = 0.01  # of the tolerance, as pairs see less curvature than there is
_CALM = 3  # accepted points in a row that L-BFGS must find good enough


class FrozenNoiseState(NamedTuple):
    """Where a lane is, and what its last steps were like.

    `work` counts evaluations of the whole batch of draws: a gradient or a Hessian-vector
    product is one.
    """

    phi: Phi
    search: Newton | Lbfgs
    bound: Scalar
    done: Bool[Array, ""]
    idle: Int[Array, ""]  # steps without a gain
    calm: Int[Array, ""]  # accepted points in a row that were good enough; L-BFGS
    finite: Bool[Array, ""]  # what the last step evaluated
    flat: Bool[Array, ""]  # a direction without curvature was met
    work: Int[Array, ""]


@dataclass(frozen=True)
class FrozenNoise(Solver):
    r"""Maximises the bound on noise that is drawn once, by Newton's method or L-BFGS.

    With frozen noise the bound is a plain function (sample average approximation; as DADVI by
    Giordano, Ingram and Broderick 2024): it is maximised to many digits in a few steps, no noise
    hides whether it has been, and `linear_response` then gives corrected covariances. What it
    misses is the error of the frozen draws, O(1 / sqrt(num_draws)) and far less with
    `MomentMatched()`, the default: `frozen_error` states it.

    "newton" takes trust-region steps by conjugate gradients on Hessian-vector products, in
    coordinates relative to q itself: a dense family's progress does not depend on scales or
    correlations. "lbfgs" wants gradients only, for log densities without second derivatives,
    or dear ones; on correlated posteriors it takes several times the evaluations, and its stop
    is a heuristic.

    Args:
        method: "newton" or "lbfgs".
        tolerance: nats by which the frozen bound may lie below its maximum. In float32, where
            rounding allows no more, ten units in the last place of the bound.

    Raises:
        ValueError: an unknown method, or a tolerance not above 0.

    Example:
        >>> fit = jaxvi.fit(key, target, jaxvi.MeanField(), solver=jaxvi.solvers.FrozenNoise())
    """

    method: Literal["newton", "lbfgs"] = "newton"
    tolerance: float = 1e-6

    guards_itself = True

    def __post_init__(self) -> None:
        check_field(self, "method", one_of, ("newton", "lbfgs"))
        check_field(self, "tolerance", number, above=0.0)

    @property
    def block_steps(self) -> int:
        """One Newton step, which costs far more than a review; a few evaluations of L-BFGS."""
        return 1 if self.method == "newton" else 8

    def defaults(self, family: Family | None, dim: int) -> Defaults:
        """Frozen draws, matched where noise is normal, and enough of them for the family."""
        family = default_family(dim) if family is None else family
        source = frozen_source(family)
        return Defaults(family, ELBO(num_draws=num_draws_for(family, source, dim)), source)

    def check(self, family: Family, objective: Objective, noise: NoiseSource, dim: int) -> None:
        """Frozen noise, a loss whose gradient is its gradient, and enough draws."""
        if not isinstance(noise, Frozen):
            raise TypeError(
                f"FrozenNoise: expected noise that is drawn once; got {noise!r}; try "
                f"noise=jaxvi.Frozen({noise!r})."
            )
        if getattr(objective, "stick_the_landing", False):
            raise ValueError(
                "FrozenNoise: expected a loss whose derivative is what is followed; got "
                f"{objective!r}, which drops a term; try stick_the_landing=False."
            )
        check_num_draws("FrozenNoise", family, objective.num_draws, noise, dim)

    def init(self, phi: Phi, problem: Problem) -> FrozenNoiseState:
        """Nothing evaluated yet: noise comes with the first step."""
        flat = ravel_pytree(phi)[0]
        zero, count, no = jnp.zeros((), flat.dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        newton = self.method == "newton"
        still = jnp.zeros_like(flat)
        return FrozenNoiseState(
            phi=phi,
            search=start_newton(phi) if newton else start_search(flat, zero, still, _MEMORY),
            bound=zero,
            done=no,
            idle=count,
            calm=count,
            finite=~no,
            flat=no,
            work=count,
        )

    def step(
        self, state: FrozenNoiseState, noise: Noise, problem: Problem
    ) -> tuple[FrozenNoiseState, StepInfo]:
        """One Newton step, or one evaluation of L-BFGS; a lane that is done stays."""
        take = self._newton if self.method == "newton" else self._evaluate
        stepped = take(state, noise, problem)
        state = pytrees.where(state.done, state, stepped)
        return state, StepInfo(state.bound)

    def review(
        self, state: FrozenNoiseState, trace: BlockTrace
    ) -> tuple[FrozenNoiseState, Int[Array, ""]]:
        """How the lane ended, if it did."""
        elsewhere, here = _spreads(state.phi, trace.noise[0], trace.problem)
        runaway = (elsewhere > _FAR) | (state.bound > _FAR) | (elsewhere > _UNSEEN * here)
        why = jnp.where(state.flat, Status.SINGULAR, Status.STALLED)
        why = jnp.where(state.finite, why, Status.NOT_FINITE)
        status = jnp.where(state.idle >= _IDLE, why, Status.RUNNING)
        status = jnp.where(state.done, Status.CONVERGED, status)
        return state, jnp.where(runaway, Status.UNBOUNDED, status).astype(jnp.int32)

    def result(self, state: FrozenNoiseState) -> Phi:
        """The last point."""
        return state.phi

    def _tolerance(self, loss: Scalar, share: float = 1.0) -> Scalar:
        """As asked for, or what rounding leaves of it."""
        rounding = 10.0 * jnp.finfo(loss.dtype).eps * (1.0 + jnp.abs(loss))
        return jnp.maximum(share * self.tolerance, rounding)

    def _newton(self, state: FrozenNoiseState, noise: Noise, problem: Problem) -> FrozenNoiseState:
        assert isinstance(state.search, Newton)
        search = newton_step(
            state.search,
            lambda phi: problem.loss(phi, noise),
            lambda phi: local_map(problem.family, phi, noise),
            state.done,
        )
        tolerance = self._tolerance(search.loss)
        # the trial that was to be the last has been evaluated
        due = is_certain(state.search, tolerance)
        idle = jnp.where(search.started, state.idle + 1, _IDLE)
        return state._replace(
            phi=search.phi,
            search=search,
            bound=search.bound,
            done=due,
            idle=jnp.where(search.gain > 0.01 * tolerance, 0, idle).astype(jnp.int32),
            finite=search.finite,
            flat=search.flat,
            work=search.num_products + state.work - state.search.num_products + 1,
        )

    def _evaluate(
        self, state: FrozenNoiseState, noise: Noise, problem: Problem
    ) -> FrozenNoiseState:
        """One evaluation of L-BFGS, which climbs minus the loss over phi as one flat vector."""
        before = state.search
        assert isinstance(before, Lbfgs)
        _, unravel = ravel_pytree(state.phi)

        def value(flat: Float[Array, "size"]) -> tuple[Scalar, Scalar]:
            estimate = problem.loss(unravel(flat), noise)
            return -estimate.loss, estimate.bound

        (height, bound), grad = jax.value_and_grad(value, has_aux=True)(trial_point(before))
        first, finite = state.work == 0, jnp.isfinite(height) & jnp.isfinite(grad).all()
        started = start_search(before.at.z, height, grad, _MEMORY)
        search = pytrees.where(first & finite, started, absorb(before, height, grad))
        phi = unravel(search.at.z)
        ended = search.accepted | (search.failures > before.failures)
        slopes = jax.vjp(local_map(problem.family, phi, noise), jnp.zeros_like(grad))[1]
        nats = 0.5 * jnp.sum(slopes(unravel(search.at.grad))[0] ** 2)
        nats = jnp.maximum(
            nats, 0.5 * search.at.grad @ inverse_product(search.pairs, search.at.grad)
        )
        lost = (search.failures >= _FAILURES) | (first & ~finite) | (state.idle >= _IDLE)
        good = (nats < self._tolerance(search.at.value, _HEURISTIC)) & ~lost
        calm = jnp.where(ended, jnp.where(good, state.calm + 1, 0), state.calm)
        return state._replace(
            phi=phi,
            search=search,
            bound=jnp.where(search.accepted | first, _finite_or(bound, state.bound), state.bound),
            done=calm >= _CALM,
            idle=jnp.where(lost, _IDLE, 0).astype(jnp.int32),
            calm=calm.astype(jnp.int32),
            finite=finite,
            work=state.work + 1,
        )


def _finite_or(value: Scalar, other: Scalar) -> Scalar:
    """A state holds finite numbers only."""
    return jnp.where(jnp.isfinite(value), value, other)


def _spreads(phi: Phi, noise: Noise, problem: Problem) -> tuple[Scalar, Scalar]:
    """How far a few other draws of q lie apart, and how far the frozen ones do."""
    others = problem.family.draw_noise(jax.random.key(0), _WATCHED, problem.dim, noise.dtype)
    z = jax.vmap(problem.family.transform, (None, 0))(phi, jnp.concatenate([others, noise]))
    far = jnp.max(jnp.abs(z - z[:1]), axis=1)
    return jnp.max(far[:_WATCHED]), jnp.max(jnp.abs(z[_WATCHED:] - z[_WATCHED:][:1]))
