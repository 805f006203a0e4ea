"""Numbers that several tables of the solvers benchmark show, from its raw numbers."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks._markdown import number, table
from benchmarks._timing import median

SAME_BOUND = 0.1  # nats
Cells = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class View:
    """Rows of cells by method, and the methods' titles."""

    rows: dict[str, Cells]
    described: dict[str, dict[str, Any]]

    def title(self, name: str) -> str:
        """A method in words."""
        return self.described.get(name, {}).get("title", name)

    def methods(self) -> list[str]:
        """All methods that any row has, in the order in which they are described."""
        return [name for name in self.described if self.has(name)]

    def has(self, name: str) -> bool:
        """Whether any row has this method."""
        return any(name in cells for cells in self.rows.values())


def total(
    view: View, cells: Cells, name: str | None, of: Callable[[dict[str, Any]], float]
) -> float:
    """A number of a method with those of the methods that it starts from."""
    found = 0.0
    while name:
        found += of(cells.get(name, {}))
        name = view.described[name]["after"]
    return found


def evaluations(view: View, cells: Cells, name: str | None) -> float:
    """Of a method and of those that it starts from; NaN where one was not counted."""
    return total(
        view,
        cells,
        name,
        lambda cell: sum(cell["counts"].values()) if "counts" in cell else math.nan,
    )


def cost(view: View, cells: Cells, name: str) -> str:
    """The same in words; none is of a method whose evaluations are another row's."""
    count = evaluations(view, cells, name)
    return f"{count:,.0f}" if math.isfinite(count) and count else "-"


def median_cost(view: View, name: str) -> str:
    """The median over rows."""
    totals = [evaluations(view, cells, name) for cells in view.rows.values() if name in cells]
    totals = [total for total in totals if math.isfinite(total) and total]
    return f"{median(totals):,.0f}" if totals else "-"


def seconds(cell: dict[str, Any]) -> float:
    """Of a warm run; where none was timed, of the cold one without compiling."""
    if cell.get("warm_seconds"):
        return median(cell["warm_seconds"])
    return cell.get("cold_seconds", math.nan) - cell.get("compile_seconds", math.nan)


def words(cell: dict[str, Any]) -> str:
    """How a method ended."""
    if "raised" in cell:
        return f"**raised** {cell['raised'].split(':')[0]}"
    return cell.get("status", "-")


def numbers_table(view: View, names: Sequence[str], text: Callable[[Cells, str], str]) -> str:
    """A row a posterior, a column a method."""
    rows = [
        [row, *(text(cells, name) if name in cells else "" for name in names)]
        for row, cells in view.rows.items()
    ]
    return table(["posterior", *(view.title(name) for name in names)], rows)


def errors_table(view: View, names: Sequence[str]) -> str:
    """Worst mean and sd."""

    def text(cells: Cells, name: str) -> str:
        cell = cells[name]
        if "mean_error" not in cell:
            return "-"
        errors = f"{number(cell['mean_error'], 2)}, {100 * cell['sd_error']:.0f}%"
        return errors if cell["within_moments"] else f"{errors} \\*"

    return numbers_table(view, names, text)


def statuses_table(view: View, names: Sequence[str]) -> str:
    """Tallies of what is not CONVERGED, by method."""
    rows = []
    for name in names:
        ends = Counter(words(cells[name]) for cells in view.rows.values() if name in cells)
        good = ends.pop("CONVERGED", 0)
        other = [f"{count} {end}" for end, count in ends.most_common() if not _plain(end)]
        if other or good:
            rows.append([view.title(name), str(good), ", ".join(other)])
    return table(["method", "CONVERGED", "other"], rows)


def _plain(end: str) -> bool:
    """Words that say nothing of an end."""
    return end == "-" or (end.startswith("khat") and "too large" not in end)


class Ratio(NamedTuple):
    """Adam's evaluations over those of frozen Newton, until one bound and until each one's end."""

    reach: float
    end: float
    same: bool  # frozen Newton ends within 0.1 nats of the better bound of the two


def adam_ratio(cells: Cells) -> Ratio | None:
    """None where one of them lacks; infinite where Adam never got there."""
    frozen, adam = cells.get("frozen_mean_field", {}), cells.get("adam_mean_field", {})
    if not frozen.get("reach") or "reach" not in adam:
        return None
    least = sum(frozen["reach"]["counts"].values())
    most = sum(adam["reach"]["counts"].values()) if adam["reach"] else math.inf
    end = sum(adam["counts"].values()) / sum(frozen["counts"].values())
    same = frozen["bound"] >= max(frozen["bound"], adam["bound"]) - SAME_BOUND
    return Ratio(most / least, end, same)
