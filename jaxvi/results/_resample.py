"""Importance resampling: draws of all restarts' q together, weighted towards the target."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, Key

from jaxvi._arguments import flag, instance, integer, typed_key
from jaxvi._engine import Setup
from jaxvi._status import Status
from jaxvi._types import Data, Phi, Scalar
from jaxvi.data import in_memory
from jaxvi.diagnostics import ParetoSmoothed, agreement, khat_threshold, pareto_smooth
from jaxvi.families import transform_and_log_prob
from jaxvi.results._fit_result import Fit, FitError
from jaxvi.target import log_probs

_USABLE = (Status.CONVERGED, Status.STEP_LIMIT, Status.STALLED, Status.INTERRUPTED)


@dataclass(frozen=True, eq=False, repr=False)
class Resampled:
    """Draws resampled by importance weights, with diagnostics of the weights.

    Attributes:
        params: the parameters' pytree, constrained, draws leading.
        z: the same draws, flat and unconstrained.
        lane: which lane's q proposed each draw.
        khat: shape of the weights' Pareto tail, smaller is better; inf where it has no estimate.
        khat_limit: limit of khat with this many proposals.
        ess: effective sample size of the weighted proposals; too large where khat is above its
            limit.
        num_unique: distinct proposals among the draws.
        num_proposals: proposals of all lanes together.
        num_bad: proposals at which the log density was NaN or +inf. They are left out, and khat
            is inf where there are any.
        log_evidence: log of the mean weight, an estimate of log p(data).
        log_evidence_mcse: its standard error, by the delta method; too small where khat is above
            its limit.
        lanes: the lanes that proposed.
        ignored: the other lanes and their statuses.
    """

    params: Any
    z: Float[Array, "draws dim"]
    lane: Int[np.ndarray, "draws"]
    khat: float
    khat_limit: float
    ess: float
    num_unique: int
    num_proposals: int
    num_bad: int
    log_evidence: float
    log_evidence_mcse: float
    lanes: tuple[int, ...]
    ignored: dict[int, Status]

    @property
    def ok(self) -> bool:
        """Whether k-hat is at most its limit, so that the weights can be trusted."""
        return self.khat <= self.khat_limit

    def __repr__(self) -> str:
        verdict = "good" if self.ok else "too large: these draws do not stand for the target"
        lines = [
            f"Resampled: {len(self.z)} draws, {self.num_unique} distinct, of {self.num_proposals} "
            f"proposals by {len(self.lanes)} lanes ({len(self.ignored)} ignored)",
            f"  khat      {self.khat:.2f}, at most {self.khat_limit:.2f} ({verdict})",
            f"  ess       {self.ess:.0f}",
            f"  evidence  {self.log_evidence:.3f} +- {self.log_evidence_mcse:.3f} nats (log)",
        ]
        if self.num_unique > 0.5 * self.ess:
            lines.append("  warning   more distinct draws than half the ess: they lean towards q")
        if self.num_bad:
            lines.append(f"  warning   the log density is NaN or +inf at {self.num_bad} proposals")
        return "\n".join(lines)


def importance_resample(
    key: Array,
    fit: Any,
    num: Any,
    *,
    num_proposals: Any = 1_000,
    lanes: str | Sequence[int] = "all",
    replace: bool = False,
    smooth: bool = True,
) -> Resampled:
    r"""Draws of all lanes' q together, resampled by their importance weights.

    Every lane proposes equally many draws, and each is weighed against the mixture of all,
    $w = p(z) / (\frac1L \sum_l q_l(z))$, whatever lane it came from (the balance heuristic of Veach
    and Guibas 1995). A mode that was found by ten lanes then has the same mass as if by one,
    which weights by each lane's own q get wrong, and a q that is too narrow does no harm where
    another covers it. The weights are Pareto smoothed (Vehtari et al. 2024).

    Zhang, Carpenter, Gelman and Vehtari (2022) proposed it for Pathfinder; here it takes any family
    and solver. A region that every q misses leaves no trace in the weights.

    Without replacement no draw comes twice, and draws are closer to q than to the target unless
    `num` is well below `ess`; with replacement `num_unique` tells how many are distinct.

    Cost, for L lanes and n proposals each: L n log densities, L^2 n values of log q.

    Args:
        key: a random key, typed (`jax.random.key(0)`) or raw.
        fit: any `Fit`.
        num: number of draws wanted.
        num_proposals: proposals of each lane.
        lanes: "all", every lane with a finite bound that did not fail; "distinct", the best of
            each group of `fit.agreement`, which takes modes of equal bound for one; or indices.
        replace: draw with replacement.
        smooth: whether to Pareto smooth the weights; khat is computed in any case.

    Raises:
        ValueError: a count below 1, or more draws asked for without replacement than there are
            proposals with a weight above zero.
        FitError: no lane can propose, or no proposal has a weight above zero.

    Example:
        >>> from jaxvi.results import importance_resample
        >>> draws = importance_resample(jax.random.key(1), fit, 500)
        >>> draws.ok, draws.num_unique, draws.log_evidence > fit.bound - 0.1
        (True, 500, True)
    """
    key = typed_key(key)
    instance("fit", fit, Fit, "what jaxvi.fit returns")
    num, num_proposals = integer("num", num), integer("num_proposals", num_proposals)
    flag("replace", replace)
    flag("smooth", smooth)
    data = in_memory(fit.data, "importance_resample")
    chosen = _choose(fit, lanes)
    total = num_proposals * len(chosen)
    if not replace and num > total:
        raise _too_few(num, total, "proposals")
    rows = np.asarray(chosen)
    phis = jax.tree.map(lambda leaf: leaf[rows], fit.phi)
    drawn = _resample(
        key, phis, data, setup=fit.setup, num=num, num_proposals=num_proposals,
        replace=replace, smooth=smooth,
    )  # fmt: skip
    positive = int(drawn.num_positive)
    if positive == 0:
        raise FitError(
            f"No proposal has a weight above zero: the log density is not finite at any of {total} "
            f"draws of {len(chosen)} lanes. {Status.NOT_FINITE.remedy}"
        )
    if not replace and num > positive:
        raise _too_few(num, positive, "proposals with a weight above zero")
    places, bad = np.asarray(drawn.places), int(drawn.num_bad)
    return Resampled(
        params=drawn.params,
        z=drawn.z,
        lane=rows[places // num_proposals],
        khat=float("inf") if bad else float(drawn.smoothed.khat),
        khat_limit=khat_threshold(max(total, 2)),
        ess=float(drawn.smoothed.ess),
        num_unique=len(np.unique(places)),
        num_proposals=total,
        num_bad=bad,
        log_evidence=float(drawn.smoothed.log_mean),
        log_evidence_mcse=float(drawn.mcse),
        lanes=tuple(chosen),
        ignored={
            lane: Status(int(code))
            for lane, code in enumerate(fit.status)
            if lane not in set(chosen)
        },
    )


def _too_few(num: int, available: int, what: str) -> ValueError:
    return ValueError(
        f"num: expected at most the {available} {what}, since none is drawn twice; got {num}; "
        "try a larger num_proposals, or replace=True."
    )


def _choose(fit: Fit, lanes: Any) -> list[int]:
    """Indices of the lanes that propose, by the argument `lanes` of `importance_resample`."""
    usable = np.isfinite(fit.bounds) & np.isin(fit.status, _USABLE)
    if isinstance(lanes, str) and lanes in ("all", "distinct"):
        chosen = [int(lane) for lane in np.flatnonzero(usable)]
        if lanes == "distinct":
            bounds = np.where(usable, fit.bounds, np.nan)
            groups = agreement(bounds, fit.difference_mcse).optimum
            best = {groups[lane]: lane for lane in sorted(chosen, key=lambda i: fit.bounds[i])}
            chosen = sorted(best.values())
    else:
        given = np.zeros(0)
        with contextlib.suppress(
            TypeError, ValueError
        ):  # random keys and ragged lists are no arrays
            given = np.asarray([] if lanes is None else lanes)
        whole_numbers = given.dtype.kind in "iu" and given.ndim == 1
        chosen = [int(lane) for lane in given] if whole_numbers else []
        inside = all(0 <= lane < fit.num_restarts for lane in chosen)
        if not chosen or not inside or len(set(chosen)) < len(chosen):
            raise ValueError(
                'lanes: expected "all", "distinct", or different indices from 0 to '
                f"{fit.num_restarts - 1}; got {lanes!r:.80}."
            )
    if not chosen:
        raise FitError(
            "No lane can propose: none ended with a finite bound. "
            f"{Status(int(fit.status[fit.best])).remedy}"
        )
    return chosen


class _Drawn(NamedTuple):
    """Resampled draws, the weights of all proposals and what was counted of them."""

    params: Any
    z: Float[Array, "draws dim"]
    places: Int[Array, "draws"]  # lane * num_proposals + proposal
    smoothed: ParetoSmoothed
    mcse: Scalar
    num_positive: Int[Array, ""]
    num_bad: Int[Array, ""]


@partial(jax.jit, static_argnames=("setup", "num", "num_proposals", "replace", "smooth"))
def _resample(
    key: Key[Array, ""],
    phis: Phi,
    data: Data,
    *,
    setup: Setup,
    num: int,
    num_proposals: int,
    replace: bool,
    smooth: bool,
) -> _Drawn:
    family, target = setup.family, setup.target
    key_noise, key_choice = jax.random.split(key)
    num_lanes = jax.tree.leaves(phis)[0].shape[0]
    dtype = jax.tree.leaves(phis)[0].dtype

    def propose(lane: tuple[Phi, Array]) -> tuple[Array, Array]:
        phi, key = lane
        noise = family.draw_noise(key, num_proposals, target.dim, dtype)
        z = jax.vmap(lambda row: transform_and_log_prob(family, phi, row)[0])(noise)
        return z, log_probs(target, z, data)

    # lane by lane, so that memory is that of one lane's proposals
    z, log_p = lax.map(propose, (phis, jax.random.split(key_noise, num_lanes)))
    z, log_p = z.reshape(-1, target.dim), log_p.reshape(-1)
    log_q = lax.map(lambda phi: jax.vmap(family.log_prob, (None, 0))(phi, z), phis)
    log_weights = log_p - logsumexp(log_q, axis=0) + jnp.log(float(num_lanes)).astype(dtype)
    bad = jnp.isnan(log_weights) | (log_weights == jnp.inf)
    log_weights = jnp.where(bad, -jnp.inf, log_weights)
    smoothed = pareto_smooth(log_weights, smooth=smooth)
    places = _choice(key_choice, smoothed.log_weights, num, replace)
    by_lane = smoothed.log_weights.reshape(num_lanes, num_proposals)
    return _Drawn(
        jax.vmap(target.constrain)(z[places]),
        z[places],
        places,
        smoothed,
        _mcse(by_lane - smoothed.log_mean),
        jnp.sum(smoothed.log_weights > -jnp.inf),
        jnp.sum(bad),
    )


def _choice(
    key: Key[Array, ""], log_weights: Float[Array, "proposals"], num: int, replace: bool
) -> Int[Array, "draws"]:
    """Indices of proposals, sampled in proportion to their weights."""
    if replace:
        return jax.random.categorical(key, log_weights, shape=(num,))
    # Gumbel top-k: the largest of log weights plus Gumbel noise are drawn without replacement
    noisy = log_weights + jax.random.gumbel(key, log_weights.shape, log_weights.dtype)
    return lax.top_k(noisy, num)[1]


def _mcse(log_ratios: Float[Array, "lanes proposals"]) -> Scalar:
    """Standard error of the log of the mean weight, with each lane as one stratum."""
    lanes, proposals = log_ratios.shape
    variances = jnp.var(jnp.exp(log_ratios), axis=-1, ddof=1 if proposals > 1 else 0)
    return jnp.sqrt(jnp.sum(variances) / proposals) / lanes
