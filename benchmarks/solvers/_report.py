"""The page of the solvers benchmark, from its raw numbers alone."""

import math
from typing import Any

from benchmarks import _machine
from benchmarks._markdown import number, table
from benchmarks._tables import (
    Cells,
    View,
    adam_ratio,
    cost,
    errors_table,
    evaluations,
    median_cost,
    numbers_table,
    seconds,
    statuses_table,
    words,
)
from benchmarks._timing import median

FEW_EVALUATIONS = 20_000
WITHIN_TARGET, FLOW_TARGET = 15, 19
ADAM_TARGET = 5.0
LANES_TARGET = 40.0
COMPILE_TARGET = 4.0
MEAN_TARGET, COVARIANCE_TARGET, BOUND_TARGET = 1e-3, 5e-3, 1e-6
_TO_BOUND = ("frozen_full", "natural_gradient")
_MEAN_FIELDS = (
    "laplace_mean_field",
    "natural_gradient_mean_field",
    "frozen_mean_field",
    "adam_mean_field",
)


def render(results: dict[str, Any]) -> str:
    """Everything that has been measured, as Markdown."""
    parts = [_machine.heading("solvers", results)]
    for name, part in (
        ("gaussian", _gaussian),
        ("small", _small),
        ("lanes", _lanes),
        ("large", _large),
        ("bad", _bad),
    ):
        section = results["sections"].get(name)
        if section and section.get("rows"):
            view = View(section["rows"], results["methods"])
            parts += [f"{part.__doc__}", *part(view, results)]
    return "\n\n".join(parts)


def _verdict(good: bool, target: str) -> str:
    return f"{target}: {'met' if good else '**missed**'}"


def _exponent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _gaussian(view: View, results: dict[str, Any]) -> list[str]:
    """**1. A Gaussian whose answer is known**"""
    cells = view.rows["gaussian"]
    header = [
        "full rank",
        "status",
        "mean, sds",
        "covariance",
        "nats below the optimum",
        "evaluations",
        "warm, s",
        "target",
    ]
    dense = [name for name in cells if name not in _MEAN_FIELDS]
    rows = [_dense_row(view, cells, name) for name in dense]
    own = [name for name in cells if name in _MEAN_FIELDS]
    rows_own = [_mean_field_row(view, cells, name) for name in own]
    text = (
        f"Dimension {results['plan']['dim']}, condition number 10,000, off-centre. Errors are "
        "those of q itself, in the worst direction and in the posterior's units, so that narrow "
        "directions count as much as wide ones: |L^-1 (m - mean)| and the largest "
        "|eigenvalue of L^-1 C L^-T - 1| for a posterior covariance L L^T."
    )
    parts = [text, table(header, rows)]
    if own:
        text = (
            "The best mean field has the exact mean and variances 1 / P_ii, P the precision: the "
            "largest error of a variance is against these, and its bound is the optimum."
        )
        parts += [text, table(["mean field", *header[1:]], rows_own)]
    return parts


def _dense_row(view: View, cells: Cells, name: str) -> list[str]:
    cell = cells[name]
    verdict = ""
    if "kl" in cell:
        good = cell["mean_direction"] <= MEAN_TARGET
        good &= cell["covariance_direction"] <= COVARIANCE_TARGET
        verdict = _verdict(good, "1e-3, 0.5%")
        if name in _TO_BOUND:
            verdict += "; " + _verdict(cell["kl"] <= BOUND_TARGET, "1e-6 nats")
        if name == "linear_response":
            verdict = _verdict(cell["covariance_direction"] <= COVARIANCE_TARGET, "exact")
    return [
        view.title(name),
        words(cell),
        _exponent(cell.get("mean_direction")),
        _exponent(cell.get("covariance_direction")),
        _exponent(cell.get("kl")),
        cost(view, cells, name),
        number(seconds(cell)),
        verdict,
    ]


def _mean_field_row(view: View, cells: Cells, name: str) -> list[str]:
    cell, best = cells[name], cells[name].get("mean_field", {})
    verdict = ""
    if best:
        good = cell["mean_direction"] <= MEAN_TARGET
        good &= best["covariance_direction"] <= COVARIANCE_TARGET
        verdict = _verdict(good, "1e-3, 0.5%")
        if name == "frozen_mean_field":
            verdict += "; " + _verdict(best["bound_gap"] <= BOUND_TARGET, "1e-6 nats")
    return [
        view.title(name),
        words(cell),
        _exponent(cell.get("mean_direction")),
        _exponent(best.get("covariance_direction")),
        _exponent(best.get("bound_gap")),
        cost(view, cells, name),
        number(seconds(cell)),
        verdict,
    ]


def _small(view: View, results: dict[str, Any]) -> list[str]:
    """**2. Small posteriors**"""
    names = view.methods()
    rows = [_summary_row(view, name) for name in names]
    header = [
        "method",
        "mean and sd within",
        "W1 too",
        "fits",
        "evaluations, median",
        f"within by {FEW_EVALUATIONS:,}",
        "compile, s",
        "warm, s",
    ]
    parts = [table(header, rows), _targets(view)]
    parts += ["Worst mean in sds and worst sd relative; both within the tolerances unless starred."]
    parts += [errors_table(view, names)]
    parts += ["Evaluations of the density, with those of the fit that one starts from."]
    parts += [numbers_table(view, names, lambda cells, name: cost(view, cells, name))]
    parts += ["Seconds to compile, and of a warm run, of the method by itself."]
    parts += [numbers_table(view, names, _seconds)]
    parts += ["How they ended, where not `CONVERGED`.", statuses_table(view, names)]
    return parts


def _seconds(cells: Cells, name: str) -> str:
    cell = cells.get(name, {})
    if "compile_seconds" not in cell:
        return "-"
    return f"{cell['compile_seconds']:.1f}, {number(seconds(cell))}"


def _summary_row(view: View, name: str) -> list[str]:
    cells = [row.get(name, {}) for row in view.rows.values()]
    done = [cell for cell in cells if "mean_error" in cell]
    few = [
        row[name].get("within_moments", False) and evaluations(view, row, name) <= FEW_EVALUATIONS
        for row in view.rows.values()
        if name in row
    ]
    return [
        view.title(name),
        str(sum(cell["within_moments"] for cell in done)),
        str(sum(cell["within"] for cell in done)),
        str(len(done)),
        median_cost(view, name),
        str(sum(few)),
        number(median([c["compile_seconds"] for c in done])),
        number(median([seconds(c) for c in done])),
    ]


def _within(view: View, name: str, most: float) -> int:
    return sum(
        cells.get(name, {}).get("within_moments", False) and evaluations(view, cells, name) <= most
        for cells in view.rows.values()
    )


def _targets(view: View) -> str:
    """The targets on the small posteriors."""
    lines = []
    gradients = [name for name in ("natural_gradient", "batch_and_match") if view.has(name)]
    if gradients:
        counts = {name: _within(view, name, FEW_EVALUATIONS) for name in gradients}
        best = max(counts, key=lambda name: counts[name])
        verdict = _verdict(counts[best] >= WITHIN_TARGET, f"at least {WITHIN_TARGET}")
        lines.append(
            f"- {view.title(best)}: {counts[best]} of {len(view.rows)} within by "
            f"{FEW_EVALUATIONS:,} evaluations; {verdict}."
        )
    if view.has("flow"):
        count = _within(view, "flow", float("inf"))
        lines.append(
            f"- The flow: {count} of {len(view.rows)} within; "
            f"{_verdict(count >= FLOW_TARGET, f'at least {FLOW_TARGET}')}."
        )
    if view.has("frozen_mean_field") and view.has("adam_mean_field"):
        lines.append(_adam_line(view))
    return "\n".join(lines) or "No target concerns these."


def _adam_line(view: View) -> str:
    """Evaluations of Adam over those of frozen Newton for one mean-field bound."""
    found = [adam_ratio(cells) for cells in view.rows.values()]
    ratios = [ratio for ratio in found if ratio is not None]
    parts = []
    for way, values in (
        ("to within 0.1 nats of the bound", [ratio.reach for ratio in ratios]),
        ("to its own end", [ratio.end for ratio in ratios]),
    ):
        many = sum(value >= ADAM_TARGET for value in values)
        verdict = _verdict(median(values) >= ADAM_TARGET, f"at least {ADAM_TARGET:g}")
        parts.append(
            f"{way} {_times(median(values))} (median; {many} of {len(values)} at least "
            f"{ADAM_TARGET:g}; {verdict})"
        )
    same = sum(ratio.same for ratio in ratios)
    return (
        "- Adam's evaluations over those of frozen Newton, mean field, each "
        f"{', and '.join(parts)}. Frozen Newton's final bound is at most 0.1 nats below Adam's on "
        f"{same} of {len(ratios)}."
    )


def _times(ratio: float) -> str:
    return f"{number(ratio, 2)} times" if math.isfinite(ratio) else "more than any: Adam never came"


def _lanes(view: View, results: dict[str, Any]) -> list[str]:
    """**3. Many lanes beside one, and compiling**"""
    rows = []
    for name in view.methods():
        for row, cells in view.rows.items():
            cell = cells.get(name)
            if cell and "raised" not in cell:
                rows.append([view.title(name), row, *_lane_numbers(cell)])
            elif cell:
                rows.append([view.title(name), row, f"**raised** {cell['raised'][:60]}"] + [""] * 7)
    lanes = results["plan"]["lanes"]
    header = [
        "method",
        "posterior",
        "one lane, s",
        f"{lanes} lanes, s",
        "times",
        "target",
        "compile, s",
        "target",
        "statuses",
        "within",
    ]
    return [table(header, rows)]


def _lane_numbers(cell: dict[str, Any]) -> list[str]:
    one, many = cell["one"], cell["many"]
    times, compiling = many["median"] / one["median"], one["compile_seconds"]
    statuses = ", ".join(f"{count} {name}" for name, count in cell["statuses"].items())
    return [
        number(one["median"]),
        number(many["median"]),
        number(times),
        _verdict(times <= LANES_TARGET, f"at most {LANES_TARGET:g}"),
        f"{compiling:.1f}",
        _verdict(compiling <= COMPILE_TARGET, f"at most {COMPILE_TARGET:g}"),
        statuses,
        str(cell["within"]),
    ]


def _large(view: View, results: dict[str, Any]) -> list[str]:
    """**4. Larger posteriors**"""
    rows = []
    for row, cells in view.rows.items():
        for name, cell in cells.items():
            share = [f"{100 * cell[key]:.0f}%" if key in cell else "-" for key in _SHARES]
            cold = number(cell["cold_seconds"]) if "cold_seconds" in cell else "-"
            numbers = [cost(view, cells, name), cold]
            rows.append([row, view.title(name), words(cell), *share, *numbers])
    header = ["posterior", "method", "status", "means", "all three", "evaluations", "cold, s"]
    return [table(header, rows)]


_SHARES = ("share_means", "share")


def _bad(view: View, results: dict[str, Any]) -> list[str]:
    """**5. Bad input**"""
    names = list(dict.fromkeys(name for cells in view.rows.values() for name in cells))
    rows = [
        [name, *(_bad_words(cells.get(name)) for cells in view.rows.values())] for name in names
    ]
    faults = sum(
        "raised" in cell or cell.get("wrong", 0) > 0
        for cells in view.rows.values()
        for cell in cells.values()
    )
    verdict = _verdict(faults == 0, "nothing raised, nothing `CONVERGED` on a wrong answer")
    return [table(["solver", *view.rows], rows), f"{verdict} ({faults} cells are at fault)."]


def _bad_words(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    if "raised" in cell:
        return f"**raised** {cell['raised'].split(':')[0]}"
    if "refused" in cell:
        return "refused at the door"
    tally = ", ".join(f"{count} {name}" for name, count in cell["statuses"].items())
    return f"{tally}; **{cell['wrong']} wrong**" if cell["wrong"] else tally
