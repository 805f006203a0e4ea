"""The verdict on a fit: "ok", "caution" or "failed", with reasons in plain words."""

import math
from typing import Literal, NamedTuple

from jaxvi._status import Status
from jaxvi.diagnostics import MIN_RELATIVE_ESS

Level = Literal["ok", "caution", "failed"]
Level.__doc__ = "How far a fit may be trusted: `ok`, `caution` or `failed`."
# "ok" means that errors above these are ruled out: of a mean, in posterior standard deviations,
# and of the log of a standard deviation.
MAX_MEAN_ERROR_SDS, MAX_LOG_SD_ERROR = 0.25, 0.22
_MAX_START_CORRELATION = 0.3  # of chains with their starts: above it they have not mixed
_MIN_ACCEPTANCE = 0.4
_MAX_ROUNDING_NATS = 0.05  # of the log density
_MAX_RHAT = 1.1  # of the moments of restarts that reached one optimum
_MAX_FLOAT64_EPS = 1e-10  # machine epsilon above which float64 is advised
_FLOAT64 = 'enable float64 by jax.config.update("jax_enable_x64", True)'


class Errors(NamedTuple):
    """Lower and upper limits on the largest error of a mean and of a log standard deviation.

    `mean` is in posterior standard deviations. `by` says what the errors were measured by:
    "weights" (importance sampling) or "chains" (MCMC).
    """

    mean: tuple[float, float]
    log_sd: tuple[float, float]
    by: str


class Findings(NamedTuple):
    """Diagnostics of a fit's draws, from which its verdict follows.

    `errors` are limits on the errors of the draws that `Fit.sample` gives; None where they were
    not measured.
    """

    status: Status
    bound: float
    bound_mcse: float
    khat: float
    khat_limit: float
    relative_ess: float
    bad_share: float  # share of q's draws at which the log density was not finite
    lanes_at_best: int
    lanes: int
    broken_above: int  # lanes with a higher bound than the best, whose density is not finite
    modes: int
    rhat: float  # of the moments of restarts at the best optimum; 1 where they agree
    hyperparameters: tuple[str, ...]  # coordinates that set the scale of many others
    errors: Errors | None
    corrected: str  # what the draws were corrected by: "weights", "chains", or "" for neither
    start_correlation: float  # of chains with their starts; 0 where none were run
    acceptance: float  # mean acceptance of chains; 1 where none were run
    eps: float  # machine epsilon of the dtype
    interrupted: bool


class Verdict(NamedTuple):
    """How far a fit may be trusted, and the reasons, the most serious first."""

    level: Level
    reasons: tuple[str, ...]


def verdict_of(seen: Findings) -> Verdict:
    """The verdict that follows from a fit's findings.

    "failed" where an error is certain, "caution" where one cannot be ruled out, "ok" where
    diagnostics were computed and raise no concern.
    """
    failures, cautions = _failures(seen), _cautions(seen)
    advised = any("float64" in reason for reason in (*failures, *cautions))
    if (failures or cautions) and seen.eps > _MAX_FLOAT64_EPS and not advised:
        cautions.append(f"numbers of lower precision may be the reason: {_FLOAT64}")
    if failures:
        return Verdict("failed", (*failures, *cautions))
    if cautions:
        return Verdict("caution", tuple(cautions))
    return Verdict("ok", (_ok_reason(seen),))


def _failures(seen: Findings) -> list[str]:
    found = []
    if not math.isfinite(seen.bound):
        found.append(
            "no restart has a finite bound: q reaches into where the log density is not finite; "
            f"{Status.NOT_FINITE.remedy}"
        )
    if seen.status in (Status.UNBOUNDED, Status.SINGULAR, Status.NOT_FINITE, Status.NO_START):
        found.append(f"the best restart ended as {seen.status.text!r}: {seen.status.remedy}")
    if seen.errors is not None:
        mean, log_sd = seen.errors.mean[0], seen.errors.log_sd[0]
        if mean > MAX_MEAN_ERROR_SDS or log_sd > MAX_LOG_SD_ERROR:
            found.append(
                f"by {seen.errors.by}, some mean is off by at least {mean:.2f} sd and some sd by "
                f"at least {100.0 * math.expm1(log_sd):.0f} %: {_remedy(seen)}"
            )
    return found


def _remedy(seen: Findings) -> str:
    if seen.corrected == "chains":
        return "the chains have not settled; try effort='thorough', or reparameterise"
    return "let chains mend the draws (polish=True), or try a richer family"


def _cautions(seen: Findings) -> list[str]:
    found = []
    if seen.interrupted:
        found.append("the run was interrupted; fit again, or give it more time")
    if seen.status in (Status.STEP_LIMIT, Status.STALLED, Status.INTERRUPTED):
        found.append(f"the best restart ended as {seen.status.text!r}: {seen.status.remedy}")
    if seen.bad_share > 0.0:
        found.append(
            f"the log density is not finite at {100.0 * seen.bad_share:.2g} % of q's draws: look "
            "for overflow or a factorisation that fails, or enable float64"
        )
    found += _error_cautions(seen)
    if seen.lanes >= 4 and seen.lanes_at_best == 1:
        found.append(
            f"only one of {seen.lanes} restarts reached the best optimum: try more restarts"
        )
    if seen.broken_above:
        found.append(
            f"{seen.broken_above} of {seen.lanes} restarts ended higher than the best one, but "
            "where the log density is not finite: it is numerically broken there, or a mode was "
            "missed; bound the parameters, or give start="
        )
    if seen.modes == 1 and not seen.rhat <= _MAX_RHAT:
        found.append(
            f"restarts of equal bounds differ in their means or sds (R-hat {seen.rhat:.2f}): there "
            "are several optima, or a direction without information; look at fit.lane(i)"
        )
    if seen.modes > 1:
        found.append(
            f"restarts found {seen.modes} separate modes, weighted by their bounds; there may be "
            "more: try more restarts"
        )
    if seen.hyperparameters and seen.corrected == "chains":
        named = ", ".join(seen.hyperparameters[:3]) + (
            ", ..." if len(seen.hyperparameters) > 3 else ""
        )
        found.append(
            f"the unconstrained {named} set the scale of other coordinates (a funnel), and its far "
            "end is narrow: chains may have missed some of it; hold it against MCMC, or give what "
            "sets scales a prior that keeps it from zero"
        )
    rounding = seen.eps * abs(seen.bound)
    if rounding > _MAX_ROUNDING_NATS:
        found.append(f"rounding of the log density amounts to {rounding:.2g} nats: {_FLOAT64}")
    return found


def _error_cautions(seen: Findings) -> list[str]:
    if seen.errors is None:
        if not seen.khat <= seen.khat_limit:
            why = f"Pareto k-hat is {seen.khat:.2f}, above {seen.khat_limit:.2f}"
        elif not seen.relative_ess >= MIN_RELATIVE_ESS:
            why = f"relative effective sample size is only {100.0 * seen.relative_ess:.1f} %"
        else:
            return []
        return [
            f"{why}: q may miss mass, and its weights can't tell how much; let chains look "
            "(jaxvi.diagnostics.short_chains), or call fit without a solver"
        ]
    found = []
    mean, log_sd = seen.errors.mean[1], seen.errors.log_sd[1]
    if not (mean <= MAX_MEAN_ERROR_SDS and log_sd <= MAX_LOG_SD_ERROR):
        found.append(
            f"by {seen.errors.by}, errors up to {mean:.2f} sd in a mean and "
            f"{100.0 * math.expm1(log_sd):.0f} % in an sd can't be ruled out: {_remedy(seen)}"
        )
    # chains do not move between modes: with several, a caution already says how they are weighted
    if seen.modes == 1 and not seen.start_correlation <= _MAX_START_CORRELATION:
        found.append(
            f"chains still remember where they started (correlation {seen.start_correlation:.2f}): "
            "some direction mixes slowly; try effort='thorough', or reparameterise"
        )
    if seen.acceptance < _MIN_ACCEPTANCE:
        found.append(
            f"chains accept only {100.0 * seen.acceptance:.0f} % of their moves: the density is "
            "rougher than q knows; enable float64, or reparameterise"
        )
    return found


def _ok_reason(seen: Findings) -> str:
    if seen.errors is None:
        return (
            f"converged; k-hat {seen.khat:.2f}, relative effective sample size "
            f"{100.0 * seen.relative_ess:.0f} %, {seen.lanes_at_best} of {seen.lanes} "
            "restarts agree"
        )
    return (
        f"by {seen.errors.by}, no mean is off by more than {seen.errors.mean[1]:.2f} sd and no sd "
        f"by more than {100.0 * math.expm1(seen.errors.log_sd[1]):.0f} %; {seen.lanes_at_best} of "
        f"{seen.lanes} restarts agree"
    )
