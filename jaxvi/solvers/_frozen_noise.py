"""Deterministic variational inference: maximising the bound on frozen noise to convergence."""

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
from jaxvi.solvers._deterministic.trust_region import (
    TrustRegionSearch,
    is_certain,
    start_trust_region_search,
    trust_region_step,
)

_MAX_IDLE_STEPS = 20  # steps in a row without a gain
_MAX_SPREAD = 1e12  # of q, and of the bound: beyond any posterior's
_MAX_RELATIVE_SPREAD = 1e4  # to that of the frozen draws: beyond, q grows between them
_SPREAD_DRAWS = 8  # fresh draws that measure q's spread
_NUM_PAIRS = 20  # of L-BFGS
_MAX_FAILURES = 3  # line searches of L-BFGS in a row that ended where they began
_LBFGS_TOLERANCE_FACTOR = 0.01  # since the pairs show less curvature than there is
_MIN_CALM_POINTS = 3  # accepted points in a row within the tolerance by L-BFGS's estimate


class FrozenNoiseState(NamedTuple):
    """State of a lane: phi, the search, the bound, and counts of idle steps and of work.

    `work` counts evaluations of the whole batch of draws: a gradient or a Hessian-vector
    product is one.
    """

    phi: Phi
    search: TrustRegionSearch | Lbfgs
    bound: Scalar
    done: Bool[Array, ""]
    idle: Int[Array, ""]  # steps without a gain
    calm: Int[Array, ""]  # accepted points in a row within the tolerance; L-BFGS
    finite: Bool[Array, ""]  # whether the last evaluation was
    flat: Bool[Array, ""]  # a direction without curvature was met
    work: Int[Array, ""]


@dataclass(frozen=True)
class FrozenNoise(Solver):
    r"""Maximises the bound on noise that is drawn once, by Newton's method or L-BFGS.

    With frozen noise the bound is a deterministic function (sample average approximation; as DADVI
    by Giordano, Ingram and Broderick 2024): it is maximised to many digits in a few steps,
    convergence can be verified, and `linear_response` gives corrected covariances. What remains is
    the error of the frozen draws, O(1 / sqrt(num_draws)) and far less with `MomentMatched()`, the
    default: `frozen_error` estimates it.

    "newton" takes trust-region steps by conjugate gradients on Hessian-vector products, in
    coordinates relative to q itself: a dense family's progress does not depend on scales or
    correlations. "lbfgs" needs gradients only, for log densities whose second derivatives are
    missing or expensive; on correlated posteriors it takes several times the evaluations, and its
    stopping rule is a heuristic.

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
        """One Newton step, which costs far more than a review, or eight evaluations of L-BFGS."""
        return 1 if self.method == "newton" else 8

    def defaults(self, family: Family | None, dim: int) -> Defaults:
        """Frozen draws, moment-matched if noise is normal, and enough of them for the family."""
        family = default_family(dim) if family is None else family
        source = frozen_source(family)
        return Defaults(family, ELBO(num_draws=num_draws_for(family, source, dim)), source)

    def check(self, family: Family, objective: Objective, noise: NoiseSource, dim: int) -> None:
        """Raise unless noise is frozen, the loss has its own gradient, and draws are enough."""
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
        """A state with nothing evaluated yet, since noise comes with the first step."""
        flat = ravel_pytree(phi)[0]
        zero, count, no = jnp.zeros((), flat.dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        newton = self.method == "newton"
        still = jnp.zeros_like(flat)
        return FrozenNoiseState(
            phi=phi,
            search=start_trust_region_search(phi)
            if newton
            else start_search(flat, zero, still, _NUM_PAIRS),
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
        """Status: converged, unbounded, singular, stalled, not finite, or still running."""
        elsewhere, here = _spreads(state.phi, trace.noise[0], trace.problem)
        runaway = (
            (elsewhere > _MAX_SPREAD)
            | (state.bound > _MAX_SPREAD)
            | (elsewhere > _MAX_RELATIVE_SPREAD * here)
        )
        why = jnp.where(state.flat, Status.SINGULAR, Status.STALLED)
        why = jnp.where(state.finite, why, Status.NOT_FINITE)
        status = jnp.where(state.idle >= _MAX_IDLE_STEPS, why, Status.RUNNING)
        status = jnp.where(state.done, Status.CONVERGED, status)
        return state, jnp.where(runaway, Status.UNBOUNDED, status).astype(jnp.int32)

    def result(self, state: FrozenNoiseState) -> Phi:
        """The phi of the last accepted step."""
        return state.phi

    def _tolerance(self, loss: Scalar, share: float = 1.0) -> Scalar:
        """The tolerance times `share`, or the rounding error of the loss if that is larger."""
        rounding = 10.0 * jnp.finfo(loss.dtype).eps * (1.0 + jnp.abs(loss))
        return jnp.maximum(share * self.tolerance, rounding)

    def _newton(self, state: FrozenNoiseState, noise: Noise, problem: Problem) -> FrozenNoiseState:
        """One trust-region Newton step."""
        assert isinstance(state.search, TrustRegionSearch)
        search = trust_region_step(
            state.search,
            lambda phi: problem.loss(phi, noise),
            lambda phi: local_map(problem.family, phi, noise),
            state.done,
        )
        tolerance = self._tolerance(search.loss)
        # the trial predicted to be within the tolerance has now been evaluated
        done = is_certain(state.search, tolerance)
        idle = jnp.where(search.started, state.idle + 1, _MAX_IDLE_STEPS)
        return state._replace(
            phi=search.phi,
            search=search,
            bound=search.bound,
            done=done,
            idle=jnp.where(search.actual_gain > 0.01 * tolerance, 0, idle).astype(jnp.int32),
            finite=search.finite,
            flat=search.flat,
            work=search.num_products + state.work - state.search.num_products + 1,
        )

    def _evaluate(
        self, state: FrozenNoiseState, noise: Noise, problem: Problem
    ) -> FrozenNoiseState:
        """One evaluation of L-BFGS, which maximises minus the loss over phi as one flat vector."""
        before = state.search
        assert isinstance(before, Lbfgs)
        _, unravel = ravel_pytree(state.phi)

        def value(flat: Float[Array, "size"]) -> tuple[Scalar, Scalar]:
            estimate = problem.loss(unravel(flat), noise)
            return -estimate.loss, estimate.bound

        (negative_loss, bound), grad = jax.value_and_grad(value, has_aux=True)(trial_point(before))
        first, finite = state.work == 0, jnp.isfinite(negative_loss) & jnp.isfinite(grad).all()
        started = start_search(before.at.z, negative_loss, grad, _NUM_PAIRS)
        search = pytrees.where(first & finite, started, absorb(before, negative_loss, grad))
        phi = unravel(search.at.z)
        ended = search.accepted | (search.failures > before.failures)
        slopes = jax.vjp(local_map(problem.family, phi, noise), jnp.zeros_like(grad))[1]
        nats = 0.5 * jnp.sum(slopes(unravel(search.at.grad))[0] ** 2)
        nats = jnp.maximum(
            nats, 0.5 * search.at.grad @ inverse_product(search.pairs, search.at.grad)
        )
        lost = (
            (search.failures >= _MAX_FAILURES) | (first & ~finite) | (state.idle >= _MAX_IDLE_STEPS)
        )
        good = (nats < self._tolerance(search.at.value, _LBFGS_TOLERANCE_FACTOR)) & ~lost
        calm = jnp.where(ended, jnp.where(good, state.calm + 1, 0), state.calm)
        return state._replace(
            phi=phi,
            search=search,
            bound=jnp.where(search.accepted | first, _finite_or(bound, state.bound), state.bound),
            done=calm >= _MIN_CALM_POINTS,
            idle=jnp.where(lost, _MAX_IDLE_STEPS, 0).astype(jnp.int32),
            calm=calm.astype(jnp.int32),
            finite=finite,
            work=state.work + 1,
        )


def _finite_or(value: Scalar, other: Scalar) -> Scalar:
    """The value, or the other one if it is not finite, since a state must be finite."""
    return jnp.where(jnp.isfinite(value), value, other)


def _spreads(phi: Phi, noise: Noise, problem: Problem) -> tuple[Scalar, Scalar]:
    """Largest distances among a few fresh draws of q, and among the frozen draws."""
    others = problem.family.draw_noise(jax.random.key(0), _SPREAD_DRAWS, problem.dim, noise.dtype)
    z = jax.vmap(problem.family.transform, (None, 0))(phi, jnp.concatenate([others, noise]))
    far = jnp.max(jnp.abs(z - z[:1]), axis=1)
    return jnp.max(far[:_SPREAD_DRAWS]), jnp.max(jnp.abs(z[_SPREAD_DRAWS:] - z[_SPREAD_DRAWS:][:1]))
