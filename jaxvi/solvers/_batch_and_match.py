"""Batch and match: score-based variational inference with a closed-form Gaussian update."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxvi._arguments import check_field, number
from jaxvi._numerics import pytrees
from jaxvi._status import Status
from jaxvi._types import Noise, Phi, Scalar
from jaxvi.families import (
    Family,
    FullRank,
    FullRankParams,
    LowRank,
    LowRankParams,
    transform_and_log_prob,
)
from jaxvi.noise import Antithetic, NoiseSource
from jaxvi.objectives import ELBO, Objective
from jaxvi.solvers._base import BlockTrace, Defaults, Problem, Solver, StepInfo
from jaxvi.solvers._gaussian.convergence import Monitor, close_window, rate, record, start_monitor
from jaxvi.solvers._gaussian.factor_analysis import em_step, inverse_products
from jaxvi.solvers._gaussian.step_control import (
    TrustRegion,
    accept_or_undo,
    bound_and_error,
    share,
    start_trust_region,
    update_trust_region,
)
from jaxvi.solvers._gaussian.updates import update_for

_BLOCK_STEPS = 5
_MAX_FULL_RANK_DIM = 300  # of the default family
_EM_STEPS = 10  # in a projection to low rank
_MAX_COORDINATE = 1e10  # no posterior in reasonable units has mass beyond
_MIN_REMAINING_RATE = 1e-3
# predicted gain in nats a dimension above which q is too far for a match: three standard deviations
_MAX_MATCHED_GAIN_NATS = 4.5
# curvatures relative to q's precision: from here on of the wrong sign, and the least of a peak
_MIN_CONVEX_CURVATURE = 0.25
_MIN_PEAK_CURVATURE = 0.2


class BatchAndMatchState(NamedTuple):
    """State of a lane: q, the q before, trust region, convergence monitor and schedule."""

    phi: Phi
    last: Phi  # before the last step
    trust: TrustRegion
    monitor: Monitor
    strength: Scalar  # lambda of the schedule


class _CentredDraws(NamedTuple):
    """Centred draws and scores, each divided by sqrt(number of draws), and their means."""

    draws: Float[Array, "draws dim"]
    scores: Float[Array, "draws dim"]
    draw: Float[Array, "dim"]
    score: Float[Array, "dim"]


@dataclass(frozen=True)
class BatchAndMatch(Solver):
    r"""Matches a Gaussian's scores to the target's on batches of draws; gradients only.

    Each step minimises a score-based divergence on the batch plus 2 / lambda times the KL
    divergence from the last q, in closed form (Cai et al. 2024): with draws of mean zbar and
    covariance C, scores of mean gbar and covariance Gamma,

    $$U = \lambda \Gamma + \tfrac{\lambda}{1 + \lambda} \bar g \bar g^T, \quad
      V = \Sigma + \lambda C + \tfrac{\lambda}{1+\lambda} (m - \bar z)(m - \bar z)^T, \quad
      \Sigma' U \Sigma' + \Sigma' = V,$$

    $$m' = \tfrac{1}{1+\lambda} m + \tfrac{\lambda}{1+\lambda} (\Sigma' \bar g + \bar z).$$

    Exact for Gaussian targets, whatever their condition; on others it is close to the ELBO's
    optimum but not the same, since another divergence is minimised. lambda starts at
    `num_draws * dim` and falls as 1 / steps; once q no longer drifts it falls so that later
    steps average. With `LowRank` the new covariance, which has as many extra directions as
    draws, is brought back by EM steps of factor analysis (Modi, Cai and Saul 2025), in time
    linear in the dimension.

    Cost of a step: `num_draws` gradients and O(dim^3), or O(dim (rank + num_draws)^2).

    Args:
        tolerance: standard deviations of q, for means and log standard deviations.

    Raises:
        TypeError: a family other than `FullRank` and `LowRank`.
        ValueError: tolerance not above 0.

    Example:
        >>> fit = jaxvi.fit(key, target, solver=jaxvi.BatchAndMatch())
    """

    tolerance: float = 0.03

    guards_itself = True

    def __post_init__(self) -> None:
        check_field(self, "tolerance", number, above=0.0)

    @property
    def block_steps(self) -> int:
        """Five, few since a step costs far more than a review."""
        return _BLOCK_STEPS

    def defaults(self, family: Family | None, dim: int) -> Defaults:
        """Full rank up to dimension 300, low rank above; 64 mirrored draws."""
        dense = FullRank() if dim <= _MAX_FULL_RANK_DIM else LowRank(20)
        return Defaults(family or dense, ELBO(num_draws=64), Antithetic())

    def check(self, family: Family, objective: Objective, noise: NoiseSource, dim: int) -> None:
        """Raise unless the family is a Gaussian with covariances, and draws are at least two."""
        if not isinstance(family, FullRank | LowRank):
            raise TypeError(
                f"BatchAndMatch: expected FullRank() or LowRank(); got {family!r}; try "
                "NaturalGradient(), which drives MeanField() as well."
            )
        if objective.num_draws < 2:
            raise ValueError(
                "BatchAndMatch: expected at least 2 draws, to have a covariance; got "
                f"{objective.num_draws}; try ELBO(num_draws=64)."
            )

    def init(self, phi: Phi, problem: Problem) -> BatchAndMatchState:
        """A state with an empty window, and lambda at num_draws * dim."""
        dtype = jax.tree.leaves(phi)[0].dtype
        strength = jnp.full((), problem.objective.num_draws * problem.dim, dtype)
        monitor = start_monitor(5 * problem.dim, dtype)
        return BatchAndMatchState(phi, phi, start_trust_region(dtype), monitor, strength)

    def step(
        self, state: BatchAndMatchState, noise: Noise, problem: Problem
    ) -> tuple[BatchAndMatchState, StepInfo]:
        """One match of scores; if a draw is not finite, a narrower q instead."""
        family = problem.family
        z, log_q = jax.vmap(lambda row: transform_and_log_prob(family, state.phi, row))(noise)
        values, gradients = problem.values_and_gradients(z)
        good = jnp.isfinite(values) & jnp.isfinite(gradients).all(axis=-1)
        bound, error = bound_and_error(values - log_q)
        trust, fell = update_trust_region(state.trust, bound, error)
        step_rate = rate(state.monitor)
        averaging = step_rate / jnp.maximum(1.0 - step_rate, _MIN_REMAINING_RATE)
        strength = trust.step_fraction * jnp.minimum(state.strength, averaging)
        match = _match_dense if isinstance(family, FullRank) else _match_low_rank
        batch = _centred(z - state.phi.loc[None], gradients)
        matched, innovation = match(state.phi, batch, strength, trust.radius)
        # far from the optimum one batch's scores do not determine the curvature, and a match would
        # narrow q along their mean; natural gradients by Stein's identity bring q near
        update = update_for(family)
        curvature = update.from_gradients(state.phi, noise, gradients)
        natural_step, _, predicted_gain = update.apply(
            state.phi, batch.score, curvature, trust.step_fraction, trust.radius
        )
        far = predicted_gain > _MAX_MATCHED_GAIN_NATS * z.shape[1]
        moved = pytrees.where(far, natural_step, matched)
        predicted_gain = jnp.where(far, predicted_gain, 0.0)
        usable = good.all() & pytrees.all_finite((moved, innovation))
        bad = 1.0 - good.mean(dtype=values.dtype)
        narrower = update.narrow(state.phi, jnp.exp(-0.1 - bad))
        here, seen = (state.phi, state.last, trust), (usable, fell, bound, error, predicted_gain)
        phi, last, trust = accept_or_undo(here, moved, narrower, seen)
        monitor = record(state.monitor, innovation, usable)
        start = float(len(noise) * z.shape[1])
        strength = start / (start / state.strength + 1.0)
        return BatchAndMatchState(phi, last, trust, monitor, strength), StepInfo(bound)

    def review(
        self, state: BatchAndMatchState, trace: BlockTrace
    ) -> tuple[BatchAndMatchState, Int[Array, ""]]:
        """Stop, or decrease the rate so that steps average, at the end of a window."""
        monitor, seen = close_window(state.monitor, self.tolerance)
        largest = jnp.abs(trace.problem.family.transform(state.phi, trace.noise[0, 0])).max()
        status = jnp.where(seen.converged, Status.CONVERGED, Status.RUNNING)
        status = jnp.where(largest > _MAX_COORDINATE, Status.UNBOUNDED, status)
        status = jnp.where(seen.lost, Status.NOT_FINITE, status)
        return state._replace(monitor=monitor), status.astype(jnp.int32)

    def result(self, state: BatchAndMatchState) -> Phi:
        """The last q, which is an average since lambda decreases."""
        return state.phi


def _centred(z: Float[Array, "draws dim"], scores: Float[Array, "draws dim"]) -> _CentredDraws:
    """Centre and scale draws and scores; z is relative to q's mean."""
    root = len(z) ** 0.5
    draw, score = z.mean(axis=0), scores.mean(axis=0)
    return _CentredDraws((z - draw[None]) / root, (scores - score[None]) / root, draw, score)


def _widening(bend: Float[Array, "dim"]) -> Float[Array, "dim"]:
    """Relative variance to add in directions in which the log density is convex.

    `bend` is the curvature, -1 where q is right. Covariances of scores do not distinguish a saddle
    from a peak; products of scores with draws do. Where q is far from right, a concave density may
    look convex in some direction, but then less so than it looks concave in another.
    """
    least = jnp.maximum(_MIN_CONVEX_CURVATURE, 0.5 * jnp.max(-bend))
    return jnp.where(bend > least, 1.0, 0.0).astype(bend.dtype)


def _innovation(
    batch: _CentredDraws,
    covariance_times: Float[Array, "draws dim"],
    pull: Float[Array, "dim"],
    variance: Float[Array, "dim"],
    convexity: Float[Array, "dim"],
    inner: Float[Array, "twice"],
) -> Float[Array, "innovations"]:
    """Innovations: changes that a step with lambda at infinity would make, and signs of convexity.

    The mean would change by C gbar + zbar - m. The covariance would change until C' Gamma C' is
    that of the draws, so that a standard deviation changes by a quarter of the ratio's excess.
    `inner` holds the same along q's narrow directions, which marginals do not show.
    """
    seen = jnp.sum(covariance_times**2, axis=0)  # diag(C Gamma C)
    own = jnp.maximum(jnp.sum(batch.draws**2, axis=0), 1e-30)
    wrong = jnp.maximum(convexity, 0.0)
    return jnp.concatenate([pull / jnp.sqrt(variance), 0.25 * (seen / own - 1.0), wrong, inner])


def _match_dense(
    phi: FullRankParams, batch: _CentredDraws, strength: Scalar, radius: Scalar
) -> tuple[FullRankParams, Float[Array, "innovations"]]:
    """Full-rank update and innovations, computed in coordinates whitened by the last q.

    With V = K K^T and Q diag(w) Q^T = I + 4 K^T U K, the solution is
    K Q diag(2 / (1 + sqrt(w))) Q^T K^T.
    """
    factor = FullRank().scale_tril(phi)
    dim = phi.loc.size
    draws = jax.scipy.linalg.solve_triangular(factor, batch.draws.T, lower=True).T
    draw = jax.scipy.linalg.solve_triangular(factor, batch.draw, lower=True)
    scores, score = batch.scores @ factor, batch.score @ factor
    part = strength / (1.0 + strength)
    u = strength * scores.T @ scores + part * jnp.outer(score, score)
    v = jnp.eye(dim, dtype=factor.dtype) + strength * draws.T @ draws
    root = jnp.linalg.cholesky(v + part * jnp.outer(draw, draw))
    spectrum, axes = jnp.linalg.eigh(root.T @ u @ root)
    spectrum = jnp.maximum(spectrum, 0.0)
    half = root @ axes * jnp.sqrt(2.0 / (1.0 + jnp.sqrt(1.0 + 4.0 * spectrum)))[None]
    cross = draws.T @ (scores + draws)
    bend, bent = jnp.linalg.eigh(0.5 * (cross + cross.T) - jnp.eye(dim, dtype=factor.dtype))
    half = jnp.concatenate([half, bent * jnp.sqrt(_widening(bend))[None]], axis=1)
    step = half @ (score @ half) + draw
    length = jnp.linalg.norm(step)
    step_share = share(length, part, radius, dim)
    lower = factor @ jnp.linalg.cholesky(half @ half.T)
    loc = phi.loc + step_share * factor @ step
    moved = FullRankParams(loc, jnp.log(jnp.diagonal(lower)), jnp.tril(lower, -1))
    variance = jnp.sum(factor**2, axis=-1)
    pull = factor @ (score + draw)
    convexity = _MIN_PEAK_CURVATURE + jnp.diagonal(cross) - 1.0
    ratio = jnp.sum(scores**2, axis=0) / jnp.maximum(jnp.sum(draws**2, axis=0), 1e-30)
    inner = jnp.concatenate([score + draw, 0.25 * (ratio - 1.0)])
    return moved, _innovation(batch, scores @ factor.T, pull, variance, convexity, inner)


def _match_low_rank(
    phi: LowRankParams, batch: _CentredDraws, strength: Scalar, radius: Scalar
) -> tuple[LowRankParams, Float[Array, "innovations"]]:
    """Low-rank update and innovations: the update by its products, then factor analysis.

    With U = Q Q^T and V = Psi + R R^T the solution is V - V Q T Q^T V, where
    T = (I/2 + (Q^T V Q + I/4)^1/2)^-2.
    """
    psi, factor = jnp.exp(2.0 * phi.log_scale), phi.factor
    part = strength / (1.0 + strength)
    q = jnp.concatenate([jnp.sqrt(strength) * batch.scores, jnp.sqrt(part) * batch.score[None]]).T
    r = jnp.concatenate(
        [factor, jnp.sqrt(strength) * batch.draws.T, jnp.sqrt(part) * batch.draw[:, None]], axis=1
    )
    vq = psi[:, None] * q + r @ (r.T @ q)
    spectrum, axes = jnp.linalg.eigh(q.T @ vq)
    weight = 1.0 / (0.5 + jnp.sqrt(jnp.maximum(spectrum, 0.0) + 0.25))
    removed = vq @ axes * weight[None]

    def solution_times(x: Float[Array, "dim k"]) -> Float[Array, "dim k"]:
        return psi[:, None] * x + r @ (r.T @ x) - removed @ (removed.T @ x)

    target_variance = psi + jnp.sum(r**2, axis=-1) - jnp.sum(removed**2, axis=-1)
    floor = 1e-6 * psi

    def em_iteration(_: Any, fitted: LowRankParams) -> LowRankParams:
        weights = inverse_products(fitted, fitted.factor)
        new_factor, new_psi = em_step(
            fitted.factor, weights, solution_times(weights), target_variance
        )
        return fitted._replace(
            log_scale=0.5 * jnp.log(jnp.maximum(new_psi, floor)), factor=new_factor
        )

    fitted = jax.lax.fori_loop(0, _EM_STEPS, em_iteration, phi)
    residual = batch.scores + inverse_products(phi, batch.draws.T).T
    bend = jnp.sum(batch.draws * residual, axis=0) - 1.0
    wider = 0.5 * jnp.log1p(_widening(bend))
    fitted = fitted._replace(log_scale=fitted.log_scale + wider)
    step = solution_times(batch.score[:, None])[:, 0] + batch.draw
    both = jnp.stack([step, batch.draw], axis=1)
    solved = inverse_products(phi, both)
    length = jnp.sqrt(jnp.maximum(step @ solved[:, 0], 0.0))
    step_share = share(length, part, radius, psi.size)
    variance = psi + jnp.sum(factor**2, axis=-1)
    through = psi[None] * batch.scores + (batch.scores @ factor) @ factor.T
    pull = psi * batch.score + factor @ (factor.T @ batch.score) + batch.draw
    moved = fitted._replace(loc=phi.loc + step_share * step)
    root = jnp.sqrt(psi)
    inner = jnp.concatenate([root * (batch.score + solved[:, 1]), jnp.zeros_like(psi)])
    return moved, _innovation(batch, through, pull, variance, _MIN_PEAK_CURVATURE + bend, inner)
