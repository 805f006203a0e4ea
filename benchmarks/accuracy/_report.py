"""The page of the benchmark of the posteriors, from its raw numbers alone."""

import math
from typing import Any

from benchmarks import _machine
from benchmarks._markdown import number, table
from benchmarks._tables import Cells, View, cost, median_cost, numbers_table, words
from benchmarks.accuracy._numbers import (
    Cell,
    Fitted,
    alone,
    cold,
    finite_median,
    fitted,
    ratios,
    warm,
)
from benchmarks.accuracy._targets import PEERS, targets

_SAID = (
    "posterior",
    "draws",
    "W1",
    "q alone",
    "verdict",
    "k-hat",
    "efficiency",
    "corrected by",
)
_TITLES = {
    "small": "**1. Small posteriors**",
    "large": "**2. Larger posteriors**",
    "float32": "**3. The default call in float32**",
    "cold": "**4. First calls, each in a process of its own**",
}


def render(results: dict[str, Any]) -> str:
    """Everything that has been measured, as Markdown."""
    parts = [_machine.heading("posteriors", results), targets(results)]
    for section, title in _TITLES.items():
        found = results["sections"].get(section)
        if found and found.get("rows"):
            view = View(found["rows"], results["methods"])
            fits = list(fitted(results, (section,)))
            part = {"float32": _float32, "cold": _cold}.get(section, _section)
            parts += [title, *part(view, fits)]
    return "\n\n".join(parts)


def _section(view: View, fits: list[Fitted]) -> list[str]:
    """Methods side by side, the default call by posterior, and all errors."""
    names = view.methods()
    loose = bool(fits) and not fits[0].small
    key, tolerances = (
        ("within_loosely", "0.15 sd and 15 %")
        if loose
        else ("within", "0.1 sd, 10 % and W1 of 0.1")
    )
    header = [
        "method",
        "within",
        "fits",
        "mean error",
        "sd error",
        "evaluations",
        "cold, s",
        "warm, s",
    ]
    parts = [
        f"Method by method: how many are within {tolerances}, and medians over posteriors, costs "
        "with those of the fit that one starts from.",
        table(header, [_summary(view, name, key) for name in names]),
    ]
    if fits:
        parts += ["The default call.", _default_table(view, fits)]
        parts += ["What it said of them first.", _reasons_table(fits)]
    if view.has("nuts"):
        parts += ["NUTS.", _chains_table(view)]
    parts += [
        f"Worst mean in sds and worst sd relative; within {tolerances} unless starred.",
        numbers_table(view, names, lambda cells, name: _errors(cells[name], key)),
        "Seconds, cold and warm, of the method by itself.",
        numbers_table(view, names, _seconds),
    ]
    return parts


def _summary(view: View, name: str, key: str) -> list[str]:
    there = [cells for cells in view.rows.values() if name in cells]
    cells = [row[name] for row in there]
    return [
        view.title(name),
        str(sum(cell.get(key, False) for cell in cells)),
        str(sum("mean_error" in cell for cell in cells)),
        number(finite_median([cell.get("mean_error", math.nan) for cell in cells]), 2),
        _percent(finite_median([cell.get("sd_error", math.nan) for cell in cells])),
        median_cost(view, name),
        number(finite_median([cold(view, row, name) for row in there])),
        number(finite_median([warm(view, row, name) for row in there])),
    ]


def _percent(value: float) -> str:
    return f"{number(100 * value, 2)}%" if math.isfinite(value) else "-"


def _errors(cell: Cell, key: str) -> str:
    if "mean_error" not in cell:
        return words(cell) if "raised" in cell else "-"
    errors = f"{number(cell['mean_error'], 2)}, {_percent(cell['sd_error'])}"
    return errors if cell[key] else f"{errors} \\*"


def _seconds(cells: Cells, name: str) -> str:
    cell = cells[name]
    if "cold_seconds" not in cell:
        return "-"
    repeated = number(finite_median(cell["warm_seconds"])) if cell["warm_seconds"] else "-"
    return f"{number(cell['cold_seconds'])}, {repeated}"


def _default_table(view: View, fits: list[Fitted]) -> str:
    found = [ratios(view, seconds, peer) for peer in PEERS for seconds in (cold, warm)]
    header = [*_SAID, "evaluations", "cold, s", "warm, s"]
    header += ["MCMC.run cold", "warm", "NUTS compiled once, cold", "warm"]
    rows = []
    for fit in fits:
        cells = view.rows[fit.row]
        key = "within" if fit.small else "within_loosely"
        rows.append(
            [
                *_said(fit, key),
                cost(view, cells, "default"),
                number(cold(view, cells, "default")),
                number(warm(view, cells, "default")),
                *(_times(each, fit.row) for each in found),
            ]
        )
    return table(header, rows)


def _said(fit: Fitted, key: str) -> list[str]:
    """Errors and evidence, by posterior; where it raised, that."""
    cell = fit.cell
    return [
        fit.row,
        _errors(cell, key),
        _number(cell, "w1"),
        _errors(cell["q"], key) if "q" in cell else "-",
        cell.get("verdict", words(cell)),
        _number(cell, "khat"),
        _number(cell, "efficiency"),
        cell.get("corrected") or "-",
    ]


def _number(cell: Cell, key: str) -> str:
    return number(cell.get(key, math.nan), 2)


def _times(found: dict[str, float], row: str) -> str:
    return f"{number(found[row])} x" if row in found else "-"


def _reasons_table(fits: list[Fitted]) -> str:
    def first(cell: Cell) -> str:
        said = cell.get("reasons") or [cell.get("raised", "-")]
        return said[0].replace("|", "\\|").replace("\n", " ")

    return table(
        ["posterior", "verdict", "first reason"],
        [[fit.row, fit.cell.get("verdict", "-"), first(fit.cell)] for fit in fits],
    )


def _chains_table(view: View) -> str:
    header = ["posterior", "draws", "W1", "R-hat", "smallest ESS", "divergences", "gradients"]
    rows = []
    for row, cells in view.rows.items():
        cell = cells.get("nuts")
        if cell is None or "rhat" not in cell:
            rows += [[row, words(cell), *["-"] * 5]] if cell else []
            continue
        numbers = [number(cell["rhat"], 4), number(cell["ess"]), str(cell["divergences"])]
        errors = f"{number(cell['mean_error'], 2)}, {_percent(cell['sd_error'])}"
        rows.append([row, errors, _number(cell, "w1"), *numbers, cost(view, cells, "nuts")])
    return table(header, rows)


def _float32(view: View, fits: list[Fitted]) -> list[str]:
    """Errors, verdicts and whether the remedy is named."""
    header = [*_SAID, "names float64", "cold, s"]
    rows = [
        [
            *_said(fit, "within" if fit.small else "within_loosely"),
            "yes" if fit.names_float64 else "",
            number(cold(view, view.rows[fit.row], "default")),
        ]
        for fit in fits
    ]
    text = (
        "The densities were written for float64; here their data are cast. Starred where not "
        "within the tolerances of the posterior's group."
    )
    return [text, table(header, rows), "What it said of them first.", _reasons_table(fits)]


def _cold(view: View, fits: list[Fitted]) -> list[str]:
    """Seconds, and those of NUTS over the default call's."""
    names = view.methods()
    over = {name: ratios(view, alone, name) for name in names if name != "default"}
    header = ["posterior", *(f"{view.title(name)}, s" for name in names)]
    header += [f"{view.title(name)}: over the default's" for name in over]
    rows = [
        [
            row,
            *(number(alone(view, cells, name)) if name in cells else "-" for name in names),
            *(_times(found, row) for found in over.values()),
        ]
        for row, cells in view.rows.items()
    ]
    text = (
        "Medians of runs with other keys, methods in turn; each fits once, and draws 1,000 times."
    )
    return [text, table(header, rows)]
