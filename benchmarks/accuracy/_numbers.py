"""What counts as good, and what the targets of the benchmark of the posteriors are about."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks._tables import Cells, View, seconds, total
from benchmarks._timing import median

MEAN, SD, W1 = 0.1, 0.1, 0.1  # within: sds, relative, sds
LOOSE = 0.15
DRAWN = 1_000  # draws within the times
GROSS = 0.25  # sds, and relative of sds: what "ok" must rule out
SECTIONS = ("small", "large", "float32")
Cell = dict[str, Any]


@dataclass(frozen=True)
class Fitted:
    """A cell of the default call, and where it stands."""

    section: str
    row: str
    cell: Cell
    small: bool  # judged by the tight tolerances

    @property
    def name(self) -> str:
        """The posterior, and its dtype where it is not the usual one."""
        return f"{self.row} in float32" if self.section == "float32" else self.row

    @property
    def good(self) -> bool:
        """Within the tolerances of its group; what raised is not."""
        return self.cell.get("within" if self.small else "within_loosely", False)

    @property
    def false_ok(self) -> bool:
        """Said to be ok though grossly wrong; what is not a number is wrong."""
        if self.cell.get("verdict") != "ok":
            return False
        return not (self.cell["mean_error"] <= GROSS and self.cell["sd_error"] <= GROSS)

    @property
    def false_failed(self) -> bool:
        """Said to have failed though means and sds are within the tight tolerances."""
        if self.cell.get("verdict") != "failed":
            return False
        return self.cell["mean_error"] <= MEAN and self.cell["sd_error"] <= SD

    @property
    def flagged(self) -> bool:
        """Not said to be ok; an exception is a flag too."""
        return self.cell.get("verdict") != "ok"

    @property
    def names_float64(self) -> bool:
        """Whether what it says mentions the remedy."""
        said = [*self.cell.get("reasons", []), self.cell.get("raised", "")]
        return any("float64" in text for text in said)


def fitted(results: dict[str, Any], sections: tuple[str, ...] = SECTIONS) -> Iterator[Fitted]:
    """All cells of the default call."""
    small = results["plan"]["small"]
    for section in sections:
        for row, cells in results["sections"].get(section, {}).get("rows", {}).items():
            if "default" in cells:
                tight = section == "small" or (section == "float32" and row in small)
                yield Fitted(section, row, cells["default"], tight)


def cold(view: View, cells: Cells, name: str) -> float:
    """Seconds of a first call, with those of the methods that it starts from."""
    return total(view, cells, name, lambda cell: cell.get("cold_seconds", math.nan))


def alone(view: View, cells: Cells, name: str) -> float:
    """The median of first calls in processes of their own."""
    return median(cells[name].get("cold_seconds", []))


def warm(view: View, cells: Cells, name: str) -> float:
    """Seconds of another call, likewise.

    Where none was timed it is the cold one without compiling, of which the clock counts some
    twice: what is left may be nothing, and is then unknown.
    """
    found = total(view, cells, name, seconds)
    return found if found > 0.0 else math.nan


def ratios(
    view: View, seconds: Callable[[View, Cells, str], float], peer: str = "nuts"
) -> dict[str, float]:
    """Seconds of NUTS over those of the default call, by posterior, where both have some."""
    found = {}
    for row, cells in view.rows.items():
        if "default" in cells and peer in cells:
            ratio = seconds(view, cells, peer) / seconds(view, cells, "default")
            if math.isfinite(ratio):
                found[row] = ratio
    return found


def matched(
    view: View, seconds: Callable[[View, Cells, str], float], lengths: tuple[str, ...]
) -> tuple[dict[str, float], list[str]]:
    """Seconds of NUTS run until it is within, over the default call's; and where it never was.

    There, the longest run's stand as the least that it would take. Where the default call itself
    is not within, the shortest run's.
    """
    found, never = {}, []
    for row, cells in view.rows.items():
        ran = [name for name in lengths if "cold_seconds" in cells.get(name, {})]
        if not ran or "default" not in cells:
            continue
        if not cells["default"].get("within_loosely", False):
            ran = ran[:1]
        elif not cells[ran[-1]]["within_loosely"]:
            never.append(row)
        found[row] = seconds(view, cells, ran[-1]) / seconds(view, cells, "default")
    return {row: ratio for row, ratio in found.items() if math.isfinite(ratio)}, never


def error(cell: Cell) -> float:
    """The larger of the errors of means and sds, in tolerances; NaN where there are none."""
    found = cell.get("mean_error", math.nan) / MEAN, cell.get("sd_error", math.nan) / SD
    return math.nan if any(map(math.isnan, found)) else max(found)


def finite_median(values: list[float]) -> float:
    """The median of those that are numbers."""
    return median([value for value in values if math.isfinite(value)])
