"""A fit as text: the lines that `repr(fit)` shows."""

from typing import Any

import numpy as np

from jaxvi._status import Status

_MAX_OPTIMA_SHOWN = 8


def repr_lines(fit: Any) -> list[str]:
    """Title, bound, optima, statuses, verdict, steps, pool and log of a `Fit`, a line each."""
    return [
        _title_line(fit),
        _bound_line(fit),
        _optima_line(fit),
        *_status_lines(fit),
        *_verdict_lines(fit),
        f"  steps     {int(fit.steps.max()):,} at most, {fit.timing.run_seconds:.2f} s "
        f"running, {fit.timing.compile_seconds:.2f} s compiling",
        *_pool_lines(fit),
        *(f"  {record}" for record in fit.log),
    ]


def _title_line(fit: Any) -> str:
    interrupted = " (interrupted)" if fit.interrupted else ""
    return (
        f"Fit of {fit.setup.family!r}, dimension {fit.setup.target.dim}, "
        f"{fit.num_restarts} restarts{interrupted}"
    )


def _bound_line(fit: Any) -> str:
    if not np.isfinite(fit.bound):
        return f"  bound     not finite in any lane (lane {fit.best} has the fewest bad draws)"
    return f"  bound     {fit.bound:.3f} +- {fit.bound_mcse:.3f} nats (lane {fit.best})"


def _optima_line(fit: Any) -> str:
    sizes = fit.agreement.sizes
    shown = ", ".join(str(count) for count in sizes[:_MAX_OPTIMA_SHOWN])
    hidden = len(sizes) - _MAX_OPTIMA_SHOWN
    more = f" and {hidden} more" if hidden > 0 else ""
    return f"  optima    {len(sizes)} distinct, restarts in each: {shown}{more}"


def _status_lines(fit: Any) -> list[str]:
    """Number of restarts of each status, with its remedy, and draws with a non-finite density."""
    lines = []
    for code, count in zip(*np.unique(fit.status, return_counts=True), strict=True):
        status = Status(int(code))
        advice = "" if status.ok else f": {status.remedy}"
        lines.append(f"  {count:>4} x {status.text}{advice}")
    bad = int(fit.num_bad_draws[fit.best])
    if bad:
        lines.append(
            f"  warning   the log density is not finite at {bad} of {len(fit.log_weights)} "
            "fresh draws of the best lane"
        )
    return lines


def _verdict_lines(fit: Any) -> list[str]:
    """Verdict and reasons of a fit with findings; for others they would compile a program."""
    if fit.findings is None:
        return []
    first, *others = fit.reasons
    return [f"  verdict   {fit.verdict}: {first}", *(f"            {o}" for o in others)]


def _pool_lines(fit: Any) -> list[str]:
    if fit.pool is None:
        return []
    idle = f"{100 * fit.pool.idle_share:.1f} % of their steps idle"
    return [f"  pool      {fit.pool.width} lanes, {fit.pool.cohorts} cohorts, {idle}"]
