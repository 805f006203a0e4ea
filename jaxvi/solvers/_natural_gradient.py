"""Natural gradients for Gaussian families, from expected Hessians or from gradients alone."""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxvi._arguments import check_field, integer, number, one_of
from jaxvi._numerics import Flat, pytrees
from jaxvi._status import Status
from jaxvi._types import Noise, Phi, Scalar
from jaxvi.families import Family, FullRank, LowRank, MeanField, transform_and_log_prob
from jaxvi.noise import Antithetic, NoiseSource
from jaxvi.objectives import ELBO, Objective
from jaxvi.solvers._base import BlockTrace, Defaults, Problem, Solver, StepInfo
from jaxvi.solvers._gaussian.convergence import (
    Monitor,
    WindowOutcome,
    close_window,
    rate,
    record,
    start_monitor,
)
from jaxvi.solvers._gaussian.hessian_sparsity import Sparsity, find_sparsity
from jaxvi.solvers._gaussian.step_control import (
    TrustRegion,
    accept_or_undo,
    bound_and_error,
    start_trust_region,
    update_trust_region,
)
from jaxvi.solvers._gaussian.updates import update_for

_BLOCK_STEPS = 5
_MAX_FULL_RANK_DIM = 500  # of the default family
_MAX_FEW_DRAWS_DIM = 50  # above it the default is twice as many draws, and sparsity is searched
_MIN_HESSIANS, _HESSIAN_PRODUCTS = 4, 100  # in a step
_MAX_COORDINATE = 1e10  # no posterior in reasonable units has mass beyond
_KINK_STANDARD_ERRORS = 5.0  # between the two estimates of the curvature


class NaturalGradientState(NamedTuple):
    """State of a lane: q, the q before, trust region, monitor and curvature estimates."""

    phi: Flat
    last: Flat  # before the last step
    trust: TrustRegion
    monitor: Monitor
    estimates: "Estimates | None"  # None where gradients serve from the start


class Estimates(NamedTuple):
    """Comparison of the curvature's estimates by Hessians and by gradients, and which is used."""

    sums: Float[Array, "5 dim"]  # over the window, see `_tally`
    apart: Bool[Array, "dim"]  # where the two disagreed in the last window
    by_gradient: Bool[Array, ""]  # whether gradients are used


@dataclass(frozen=True)
class NaturalGradient(Solver):
    r"""Natural-gradient ascent of the ELBO over Gaussians.

    With A = -E_q[Hessian of log p] and g = E_q[gradient], the natural gradient of the bound is

    $$P \leftarrow (1 - r) P + r A, \qquad m \leftarrow m + r P^{-1} g$$

    (Khan and Rue 2023). It does not depend on the coordinates, so it needs no tuning to them. The
    precision stays positive definite by the second-order update of Lin, Schmidt and Khan
    (2020), with its eigenvalues relative to the current ones bounded; steps of the mean are
    bounded too. Steps are full ones while q is far, then shorter, so that they average.

    The curvature is the mean of Hessians where the density is smooth. By Stein's identity it is
    also an expectation of gradients, E[(z - m) g^T], here with a control variate that leaves no
    noise where q is right. Where the two disagree beyond their noise the density has kinks, which
    Hessians don't see, and gradients take over; also where q is near and they are less noisy.

    A lane has converged when the mean innovations over a window (what full steps would change,
    in standard deviations of q) and their standard errors are below `tolerance`.

    Families: `FullRank`; `MeanField`, whose mean takes Newton's step by conjugate gradients, as
    the natural one there is Jacobi's iteration; and `LowRank` by a step of factor analysis
    towards the natural gradient's covariance, whose fixed points are those of the bound. Cost of
    a step: `num_draws` gradients, and for each of `num_hessians` draws `dim` Hessian-vector
    products (`FullRank`), the rank plus one (`LowRank`), or up to dimension 64 `dim`, above one,
    and up to 60 for the mean (`MeanField`). By default `FullRank` gets so many draws that
    gradients serve alone: on posteriors of dimension 20 to 300 they took less time than Hessians
    at fewer draws, and a smaller program. Where Hessians are asked for, or draws are fewer, zeros
    of the Hessian are looked for first above dimension 50: of blocks and arrows, as hierarchies
    have them, a draw costs only as many products as the columns have colours.

    Args:
        curvature: "hessian", "gradient" (Stein's identity), or "auto": gradients where there are
            twice as many draws as dimensions, else Hessians until gradients serve better.
        num_hessians: draws at which Hessians are taken; None takes as many as cost about
            what 100 gradients do, at least 4.
        sparsity: "auto" looks for zeros of the Hessian, None takes it for dense; what was found
            is `fit.setup.solver.sparsity`, and serves other fits of the same density.
        tolerance: standard deviations of q, for means and log standard deviations.

    Raises:
        TypeError: a family that is not Gaussian.
        ValueError: a number out of range.

    Example:
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.NaturalGradient())
    """

    curvature: Literal["auto", "hessian", "gradient"] = "auto"
    num_hessians: int | None = None
    tolerance: float = 0.03
    sparsity: Sparsity | Literal["auto"] | None = "auto"

    guards_itself = True

    def __post_init__(self) -> None:
        check_field(self, "curvature", one_of, ("auto", "hessian", "gradient"))
        check_field(self, "num_hessians", integer, optional=True)
        check_field(self, "tolerance", number, above=0.0)
        if not isinstance(self.sparsity, Sparsity):
            check_field(self, "sparsity", one_of, ("auto", None))

    @property
    def block_steps(self) -> int:
        """Five, few since a step costs far more than a review."""
        return _BLOCK_STEPS

    def defaults(self, family: Family | None, dim: int) -> Defaults:
        """Full rank up to dimension 500, low rank above; 32 mirrored draws, 64 above dimension 50.

        Of more coordinates the worst is noisier. A dense q gets at least two draws for every
        dimension: their gradients determine its curvature, and no Hessian is traced or evaluated.
        """
        family = family or (FullRank() if dim <= _MAX_FULL_RANK_DIM else LowRank(20))
        num_draws = 32 if dim <= _MAX_FEW_DRAWS_DIM else 64
        if isinstance(family, FullRank):
            num_draws = max(num_draws, 2 * dim)
        return Defaults(family, ELBO(num_draws=num_draws), Antithetic())

    def check(self, family: Family, objective: Objective, noise: NoiseSource, dim: int) -> None:
        """Raise unless the family is Gaussian, and the objective the ELBO."""
        if not isinstance(family, FullRank | MeanField | LowRank):
            raise TypeError(
                "NaturalGradient: expected FullRank(), MeanField() or LowRank(); got "
                f"{family!r}; try Stochastic(), which drives any family."
            )
        if not isinstance(objective, ELBO):
            raise TypeError(
                f"NaturalGradient: expected the objective ELBO(num_draws=...); got {objective!r}."
            )

    def prepare(self, problem: Problem, dtype: jnp.dtype) -> "NaturalGradient":
        """The solver with the Hessian's sparsity pattern, if that saves enough."""
        if self.sparsity != "auto":
            return self
        wanted = self.curvature != "gradient" and not self._by_gradients_alone(problem)
        wanted &= problem.dim > _MAX_FEW_DRAWS_DIM and not isinstance(problem.family, LowRank)
        return replace(self, sparsity=find_sparsity(problem, dtype) if wanted else None)

    def _by_gradients_alone(self, problem: Problem) -> bool:
        """Whether the curvature is estimated from gradients alone, from the start."""
        spans = not isinstance(problem.family, MeanField)
        many = spans and problem.objective.num_draws >= 2 * problem.dim
        return self.curvature == "gradient" or (self.curvature == "auto" and many)

    def init(self, phi: Phi, problem: Problem) -> NaturalGradientState:
        """A state with an empty window."""
        dtype = jax.tree.leaves(phi)[0].dtype
        num = update_for(problem.family).num_innovations(problem.dim)
        estimates = None
        if not self._by_gradients_alone(problem):
            zeros = jnp.zeros((5, problem.dim), dtype)
            estimates = Estimates(zeros, jnp.zeros(problem.dim, bool), jnp.zeros((), bool))
        return NaturalGradientState(
            Flat.of(phi),
            Flat.of(phi),
            start_trust_region(dtype),
            start_monitor(num, dtype),
            estimates,
        )

    def step(
        self, state: NaturalGradientState, noise: Noise, problem: Problem
    ) -> tuple[NaturalGradientState, StepInfo]:
        """One natural-gradient step; if a draw is not finite, a narrower q instead."""
        family, update = problem.family, update_for(problem.family, self._known_sparsity())
        at = state.phi.tree
        z, log_q = jax.vmap(lambda row: transform_and_log_prob(family, at, row))(noise)
        values, gradients = problem.values_and_gradients(z)
        good = jnp.isfinite(values) & jnp.isfinite(gradients).all(axis=-1)
        curvature, tally = self._curvature(state, z, noise, gradients, problem)
        bound, error = bound_and_error(values - log_q)
        trust, fell = update_trust_region(state.trust, bound, error)
        step_rate = trust.step_fraction * rate(state.monitor)
        moved, innovation, predicted_gain = update.apply(
            at, gradients.mean(axis=0), curvature, step_rate, trust.radius
        )
        moved = Flat.of(moved)
        usable = good.all() & pytrees.all_finite((moved, innovation))
        bad = 1.0 - good.mean(dtype=values.dtype)
        narrower = Flat.of(update.narrow(at, jnp.exp(-0.1 - bad)))
        here, seen = (state.phi, state.last, trust), (usable, fell, bound, error, predicted_gain)
        phi, last, trust = accept_or_undo(here, moved, narrower, seen)
        monitor = record(state.monitor, innovation, usable)
        estimates = state.estimates
        if estimates is not None and tally is not None:
            estimates = estimates._replace(sums=jnp.where(usable, estimates.sums + tally, 0.0))
        state = state._replace(
            phi=phi, last=last, trust=trust, monitor=monitor, estimates=estimates
        )
        return state, StepInfo(bound)

    def review(
        self, state: NaturalGradientState, trace: BlockTrace
    ) -> tuple[NaturalGradientState, Int[Array, ""]]:
        """At the end of a window, adapt the rate, choose the curvature's estimate, or stop."""
        monitor, seen = close_window(state.monitor, self.tolerance)
        switch, estimates = jnp.zeros((), bool), state.estimates
        if estimates is not None:
            switch, estimates = self._choose(estimates, state.monitor.clock.steps, seen, trace)
            clock = monitor.clock.replace(age=jnp.where(switch, 0.0, monitor.clock.age))
            monitor = monitor._replace(clock=clock)
        state = state._replace(monitor=monitor, estimates=estimates)
        largest = jnp.abs(trace.problem.family.transform(state.phi.tree, trace.noise[0, 0])).max()
        status = jnp.where(seen.converged & ~switch, Status.CONVERGED, Status.RUNNING)
        status = jnp.where(largest > _MAX_COORDINATE, Status.UNBOUNDED, status)
        return state, jnp.where(seen.lost, Status.NOT_FINITE, status).astype(jnp.int32)

    def result(self, state: NaturalGradientState) -> Phi:
        """The last q, which is an average since the rate decreases."""
        return state.phi.tree

    def _choose(
        self, estimates: Estimates, steps: Scalar, seen: WindowOutcome, trace: BlockTrace
    ) -> tuple[Bool[Array, ""], Estimates]:
        """Whether gradients take over because of kinks, and the estimates after a window's end."""
        apart, quieter = _compare(estimates.sums, steps, self.tolerance)
        kinked = jnp.any(apart & estimates.apart)  # one window may be chance
        # too few gradients leave directions without curvature, which the diagonal does not show
        num_draws, problem = trace.noise.shape[1], trace.problem
        spans = num_draws >= update_for(problem.family).num_axes(problem.dim)
        better = kinked | (quieter & seen.near & spans)
        better &= seen.ended & ~estimates.by_gradient & (self.curvature == "auto")
        after = Estimates(
            sums=jnp.where(seen.ended, 0.0, estimates.sums),
            apart=jnp.where(seen.ended, apart, estimates.apart),
            by_gradient=estimates.by_gradient | better,
        )
        return better & kinked, after

    def _curvature(
        self,
        state: NaturalGradientState,
        z: Float[Array, "draws dim"],
        noise: Noise,
        gradients: Float[Array, "draws dim"],
        problem: Problem,
    ) -> tuple[Any, Float[Array, "5 dim"] | None]:
        """Curvature from Hessians, or from gradients if those are chosen or Hessians not finite.

        Also the sums for comparing the two, None without Hessians.
        """
        update = update_for(problem.family, self._known_sparsity())
        slope = (gradients.mean(axis=0), state.trust.radius)
        phi = state.phi.tree
        by_gradient = update.from_gradients(phi, noise, gradients)
        if state.estimates is None:
            return by_gradient, None
        nothing = jnp.zeros_like(state.estimates.sums)

        def by_both(_: Any) -> tuple[Bool[Array, ""], Any, Float[Array, "5 dim"]]:
            by_hessian = update.from_hessians(phi, self._hessian_draws(z), noise, slope, problem)
            smooth = pytrees.all_finite(by_hessian)
            tally = _tally(update.diagonal(by_hessian), update.diagonal(by_gradient))
            chosen = pytrees.where(smooth, by_hessian, by_gradient)
            return jnp.zeros((), bool), chosen, jnp.where(smooth, tally, 0.0)

        # a loop of no or one turn: under `vmap` still skipped where no lane wants Hessians
        wanted = ~state.estimates.by_gradient
        _, chosen, tally = lax.while_loop(lambda c: c[0], by_both, (wanted, by_gradient, nothing))
        return chosen, tally

    def _known_sparsity(self) -> Sparsity | None:
        """The known sparsity pattern; None for a solver that was not prepared."""
        return None if self.sparsity == "auto" else self.sparsity

    def _hessian_draws(self, z: Float[Array, "draws dim"]) -> Float[Array, "some dim"]:
        """Draws at which Hessians are taken, in mirrored pairs: the first rows of both halves."""
        num, dim = z.shape
        sparsity = self._known_sparsity()
        products = dim if sparsity is None else sparsity.num_colours
        few = self.num_hessians or max(_MIN_HESSIANS, _HESSIAN_PRODUCTS // products)
        if few >= num:
            return z
        return jnp.concatenate([z[: (few + 1) // 2], z[num // 2 : num // 2 + few // 2]])


def _tally(h: Float[Array, "dim"], g: Float[Array, "dim"]) -> Float[Array, "5 dim"]:
    """Summands for means and variances of two estimates and of their difference."""
    return jnp.stack([h, g, h * h, g * g, (h - g) ** 2])


def _compare(
    sums: Float[Array, "5 dim"], steps: Scalar, tolerance: float
) -> tuple[Bool[Array, "dim"], Bool[Array, ""]]:
    """Where the two estimates disagree because of kinks, and whether gradients are less noisy."""
    h, g, hh, gg, gap = sums / jnp.maximum(steps, 1.0)
    error = jnp.sqrt(jnp.maximum(gap - (h - g) ** 2, 0.0) / jnp.maximum(steps, 1.0))
    apart = jnp.abs(h - g) > jnp.maximum(_KINK_STANDARD_ERRORS * error, 2.0 * tolerance)
    return apart, jnp.sum(gg - g * g) < jnp.sum(hh - h * h)
