"""Whether a fit is to be trusted: "ok", "caution" or "failed", with reasons in plain words."""

import math
from typing import Literal, NamedTuple

from jaxvi._status import Status
from jaxvi.diagnostics import MIN_RELATIVE_ESS

Level = Literal["ok", "caution", "failed"]
# Errors in standard deviations, and of the log of standard deviations, that "ok" rules out.
WORST_MEAN, WORST_LOG_SD = 0.25, 0.22
_FORGOTTEN = 0.3  # correlation with the start above which chains have not mixed
_LEAST_ACCEPTANCE = 0.4
_ROUGH = 0.05  # nats that rounding of the log density may amount to
_SPREAD = 1.1  # R-hat of restarts' moments
_SINGLE = 1e-10  # eps above which float64 is there to be tried
_FLOAT64 = 'enable float64 by jax.config.update("jax_enable_x64", True)'


class Errors(NamedTuple):
    """The largest errors of means, in sds, and of log sds: surely at least, at most as far as seen.

    `by` says what saw it: "weights" or "chains".
    """

    mean: tuple[float, float]
    log_sd: tuple[float, float]
    by: str


class Findings(NamedTuple):
    """What is known about a fit's draws, in plain numbers.

    `errors` are those of the draws that the fit hands out; None where nobody looked.
    """

    status: Status
    bound: float
    bound_mcse: float
    khat: float
    khat_limit: float
    relative_ess: float
    bad_share: float  # of q's draws, at which the log density was not finite
    lanes_at_best: int
    lanes: int
    broken_above: int  # that ended higher than the best one, but where nothing is finite
    modes: int
    rhat: float  # of the moments of restarts at the best optimum; 1 where they agree
    hyperparameters: tuple[str, ...]  # coordinates that set the scale of many others
    errors: Errors | None
    corrected: str  # "", or what the draws were corrected by: "weights", "chains"
    start_correlation: float  # of chains, where they were run; else 0
    acceptance: float  # likewise; else 1
    eps: float  # of the dtype
    interrupted: bool


class Verdict(NamedTuple):
    """A level and its reasons, the gravest first."""

    level: Level
    reasons: tuple[str, ...]


def judge(seen: Findings) -> Verdict:
    """The gravest of what is found; "ok" only where something has looked and found nothing."""
    failures, cautions = _failures(seen), _cautions(seen)
    told = any("float64" in reason for reason in (*failures, *cautions))
    if (failures or cautions) and seen.eps > _SINGLE and not told:
        cautions.append(f"numbers of lower precision may be the reason: {_FLOAT64}")
    if failures:
        return Verdict("failed", (*failures, *cautions))
    if cautions:
        return Verdict("caution", tuple(cautions))
    return Verdict("ok", (_praise(seen),))


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
        if mean > WORST_MEAN or log_sd > WORST_LOG_SD:
            found.append(
                f"by {seen.errors.by}, some mean is off by at least {mean:.2f} sd and some sd by "
                f"at least {100.0 * math.expm1(log_sd):.0f} %: {_what_to_do(seen)}"
            )
    return found


def _what_to_do(seen: Findings) -> str:
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
    found += _of_errors(seen)
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
    if seen.modes == 1 and not seen.rhat <= _SPREAD:
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
    if rounding > _ROUGH:
        found.append(f"rounding of the log density amounts to {rounding:.2g} nats: {_FLOAT64}")
    return found


def _of_errors(seen: Findings) -> list[str]:
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
    if not (mean <= WORST_MEAN and log_sd <= WORST_LOG_SD):
        found.append(
            f"by {seen.errors.by}, errors up to {mean:.2f} sd in a mean and "
            f"{100.0 * math.expm1(log_sd):.0f} % in an sd can't be ruled out: {_what_to_do(seen)}"
        )
    # between modes chains don't move: there the shares are by bounds, and said to be
    if seen.modes == 1 and not seen.start_correlation <= _FORGOTTEN:
        found.append(
            f"chains still remember where they started (correlation {seen.start_correlation:.2f}): "
            "some direction mixes slowly; try effort='thorough', or reparameterise"
        )
    if seen.acceptance < _LEAST_ACCEPTANCE:
        found.append(
            f"chains accept only {100.0 * seen.acceptance:.0f} % of their moves: the density is "
            "rougher than q knows; enable float64, or reparameterise"
        )
    return found


def _praise(seen: Findings) -> str:
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
