"""The targets of the benchmark of the posteriors: met or missed, and by which posteriors."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks._markdown import number
from benchmarks._tables import Cells, View
from benchmarks.accuracy._numbers import (
    GROSS,
    Fitted,
    alone,
    cold,
    finite_median,
    fitted,
    matched,
    ratios,
    warm,
)

SMALL_SHARE, LARGE_SHARE = 0.95, 0.8
FALSE_FAILED_SHARE = 0.05
SMALL_WARM, SMALL_WARM_LEAST, SMALL_COLD = 30.0, 1.0, 2.0
LARGE_WARM, LARGE_COLD = 3.0, 1.0
EFFICIENCY, HALF, HALF_SHARE = 0.95, 0.5, 0.9
PEERS = {"nuts_run": "NUTS by MCMC.run", "nuts": "NUTS compiled once, by hand"}
LENGTHS = ("nuts_run", "nuts_run_2", "nuts_run_4", "nuts_run_8")
_Seconds = Callable[[View, Cells, str], float]


def verdict(good: bool, target: str) -> str:
    """A target with what became of it."""
    return f"{target}: {'met' if good else '**missed**'}"


def targets(results: dict[str, Any]) -> str:
    """All targets of the sections that have been measured, a line each."""
    everywhere = list(fitted(results))
    lines = _verdicts(everywhere) if everywhere else []
    for section, part in (("small", _small), ("large", _large), ("float32", _float32)):
        there = [fit for fit in everywhere if fit.section == section]
        if there:
            rows = results["sections"][section]["rows"]
            lines += part(there, View(rows, results["methods"]))
    lines += _cold(View(results["sections"].get("cold", {}).get("rows", {}), results["methods"]))
    return "\n".join(f"- {line}." for line in lines) or "No target concerns these."


def _verdicts(fits: list[Fitted]) -> list[str]:
    wrong = [fit.name for fit in fits if fit.false_ok]
    lost = [fit.name for fit in fits if fit.false_failed]
    few = len(lost) <= FALSE_FAILED_SHARE * len(fits)
    return [
        f'All sections, "ok" though a mean is off by more than {GROSS:g} sd or an sd by more than '
        f"{100 * GROSS:g} %: {len(wrong)} of {len(fits)}{_named(wrong)}; {verdict(not wrong, '0')}",
        f'All sections, "failed" though means and sds are within 0.1 sd and 10 %: {len(lost)} of '
        f"{len(fits)}{_named(lost)}; {verdict(few, f'at most {100 * FALSE_FAILED_SHARE:g} %')}",
    ]


def _small(fits: list[Fitted], view: View) -> list[str]:
    lines = [_share("Small, within 0.1 sd, 10 % and W1 of 0.1", fits, SMALL_SHARE)]
    for peer, words in PEERS.items():
        colds, warms = ratios(view, cold, peer), ratios(view, warm, peer)
        if not warms:
            continue
        least = min(warms, key=lambda row: warms[row])
        lines += [
            _ratio(f"Small, warm seconds of {words}", warms, len(fits), SMALL_WARM),
            f"Small, the smallest of these {number(warms[least])} ({least}); "
            f"{verdict(warms[least] >= SMALL_WARM_LEAST, f'at least {SMALL_WARM_LEAST:g}')}",
            _ratio(f"Small, cold seconds of {words}", colds, len(fits), SMALL_COLD),
        ]
    found = [fit.cell.get("efficiency", math.nan) for fit in fits]
    middle, half = finite_median(found), sum(value >= HALF for value in found)
    share = verdict(half >= HALF_SHARE * len(fits), f"at least {100 * HALF_SHARE:g} %")
    return [
        *lines,
        f"Small, importance efficiency of the final q: {number(middle)} (median); "
        f"{verdict(middle >= EFFICIENCY, f'at least {EFFICIENCY:g}')}",
        f"Small, an efficiency of at least {HALF:g}: {half} of {len(fits)}"
        f"{_named(fit.row for fit in fits if not _efficient(fit))}; {share}",
    ]


def _cold(view: View) -> list[str]:
    """First calls in processes of their own."""
    found = {words: ratios(view, alone, peer) for peer, words in PEERS.items()}
    return [
        _ratio(
            f"Each in a process of its own, cold seconds of {words}", each, len(each), SMALL_COLD
        )
        for words, each in found.items()
        if each
    ]


def _efficient(fit: Fitted) -> bool:
    return fit.cell.get("efficiency", math.nan) >= HALF


def _large(fits: list[Fitted], view: View) -> list[str]:
    lines = [_share("Large, within 0.15 sd and 15 %", fits, LARGE_SHARE)]
    silent = [fit.name for fit in fits if not fit.good and not fit.flagged]
    lines.append(
        f'Large, others said to be "ok": {len(silent)}{_named(silent)}; {verdict(not silent, "0")}'
    )
    for peer, words in PEERS.items():
        colds, warms = ratios(view, cold, peer), ratios(view, warm, peer)
        if warms:
            lines += [
                _ratio(f"Large, cold seconds of {words}", colds, len(fits), LARGE_COLD, named=True),
                _ratio(f"Large, warm seconds of {words}", warms, len(fits), LARGE_WARM, named=True),
            ]
    return [*lines, *_matched(view, len(fits))] if view.has(LENGTHS[-1]) else lines


def _matched(view: View, rows: int) -> list[str]:
    """NUTS of the same accuracy: as long as it takes."""
    lines = []
    for kind, seconds, least in (("cold", cold, LARGE_COLD), ("warm", warm, LARGE_WARM)):
        found, never = matched(view, seconds, LENGTHS)
        words = f"Large, {kind} seconds of NUTS by MCMC.run until it is within"
        if never:
            words += f" (never in 8 times 1,000 + 1,000 steps{_named(never).replace(' (', ': ')}"
        lines.append(_ratio(words, found, rows, least, named=True))
    return lines


def _float32(fits: list[Fitted], view: View) -> list[str]:
    short = [fit for fit in fits if not fit.good]
    silent = [fit.row for fit in short if not (fit.flagged and fit.names_float64)]
    return [
        f"float32, within the tolerances of their groups: {len(fits) - len(short)} of {len(fits)}"
        f"{_named(fit.row for fit in short)}",
        f'float32, others "ok", or without a reason that names float64: {len(silent)} of '
        f"{len(short)}{_named(silent)}; {verdict(not silent, '0')}",
    ]


def _share(words: str, fits: list[Fitted], least: float) -> str:
    good = sum(fit.good for fit in fits)
    target = verdict(good >= least * len(fits), f"at least {100 * least:g} %")
    others = _named(fit.row for fit in fits if not fit.good)
    return f"{words}: {good} of {len(fits)}{others}; {target}"


def _ratio(
    words: str, found: dict[str, float], rows: int, least: float, named: bool = False
) -> str:
    """Median of a ratio; posteriors below the target are counted, and named where asked."""
    middle = finite_median(list(found.values()))
    under = [row for row, value in found.items() if value < least]
    names = _named(under) if named else ""
    missing = f", without {rows - len(found)} that have no seconds" if len(found) < rows else ""
    return (
        f"{words} over the default call's: {number(middle)} (median{missing}; {len(under)} "
        f"of {len(found)} below{names}); {verdict(middle >= least, f'at least {least:g}')}"
    )


def _named(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f" ({listed})" if listed else ""
