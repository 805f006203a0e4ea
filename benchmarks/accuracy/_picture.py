"""Errors against seconds, a point a posterior and method."""

import math
from pathlib import Path
from typing import Any

from benchmarks._tables import View
from benchmarks.accuracy._numbers import cold, error, finite_median, warm

_GROUPS = {"small": "small posteriors", "large": "larger posteriors"}
_TIMES = {"cold seconds": cold, "warm seconds": warm}
_FLOOR, _CEILING = 1e-2, 1e3  # tolerances: what is off beyond is drawn at the edge


def draw(results: dict[str, Any], path: Path) -> str:
    """Draw, or say why not."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return "no picture is drawn: matplotlib is not installed"
    sections = results["sections"]
    groups = [name for name in _GROUPS if sections.get(name, {}).get("rows")]
    if not groups:
        return "no picture is drawn: nothing with both errors and seconds has been measured"
    figure = Figure(figsize=(13.0, 4.6 * len(groups) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(groups), 2, sharey=True, squeeze=False)
    looks, handles = _looks(results), {}
    for row, group in enumerate(groups):
        view = View(sections[group]["rows"], results["methods"])
        for column, (label, of) in enumerate(_TIMES.items()):
            axis = axes[row][column]
            found = [(name, _points(view, name, of)) for name in view.methods()]
            # the default call last, so that it lies on top
            for name, points in sorted(found, key=lambda pair: pair[0] == "default"):
                if points:
                    handles[name] = _draw_method(axis, points, looks[name], view.title(name))
            _dress(axis, f"{_GROUPS[group]}, {label}", label)
        axes[row][0].set_ylabel("worst error, in tolerances\n(0.1 sd of a mean, 10 % of an sd)")
    ordered = [handles[name] for name in results["methods"] if name in handles]
    figure.legend(
        handles=ordered,
        loc="outside right upper",
        fontsize=9,
        frameon=False,
        title="small: a posterior\nlarge: the median",
    )
    figure.savefig(path, dpi=110)
    return ""


def _looks(results: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """A colour and a marker for each method: warm colours are other packages'."""
    from matplotlib import colormaps

    names = list(results["methods"])
    peers = [name for name in names if name.startswith(("numpyro", "blackjax"))]
    own = [name for name in names if name not in (*peers, "default", "nuts")]
    looks: dict[str, tuple[Any, str]] = {"default": ("black", "*"), "nuts": ("crimson", "D")}
    for group, map_name, markers in ((own, "winter", "oPX^v<>h8"), (peers, "autumn", "spXPd^v<>")):
        for i, name in enumerate(group):
            colour = colormaps[map_name](0.9 * i / max(len(group) - 1, 1))
            looks[name] = (colour, markers[i % len(markers)])
    return looks


def _points(view: View, name: str, seconds: Any) -> list[tuple[float, float]]:
    """(seconds, error) of every posterior that has both."""
    found = []
    for cells in view.rows.values():
        if name in cells:
            x, y = seconds(view, cells, name), error(cells[name])
            if math.isfinite(x) and x > 0.0 and not math.isnan(y):
                found.append((x, min(max(y, _FLOOR), _CEILING)))
    return found


def _draw_method(
    axis: Any, points: list[tuple[float, float]], look: tuple[Any, str], title: str
) -> Any:
    """Faint points, and their median in full; returns the handle for the legend."""
    colour, marker = look
    xs, ys = [x for x, _ in points], [y for _, y in points]
    own = marker == "*"  # of the default call
    axis.scatter(
        xs,
        ys,
        s=34 if own else 16,
        color=[colour],
        marker=marker,
        alpha=0.6 if own else 0.35,
        linewidths=0,
    )
    size = 260 if own else 95
    return axis.scatter(
        [finite_median(xs)],
        [finite_median(ys)],
        s=size,
        color=[colour],
        marker=marker,
        edgecolors="white",
        linewidths=0.9,
        zorder=4 if own else 3,
        label=title,
    )


def _dress(axis: Any, title: str, label: str) -> None:
    """Logarithmic axes with plain numbers, and the line at one tolerance."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.axhline(1.0, color="0.4", linewidth=1.0, linestyle="--", zorder=0)
    for side, (least, most) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
        wide = most > 50.0 * least
        side.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        side.set_major_formatter(StrMethodFormatter("{x:g}"))
        side.set_minor_formatter(NullFormatter())
    axis.grid(which="major", color="0.92", zorder=-1)
    axis.set_axisbelow(True)
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(label)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
