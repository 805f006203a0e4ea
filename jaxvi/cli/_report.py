"""Reports of mixture fits: lines of text, tables, JSON numbers, files and figures."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxvi._status import Status
from jaxvi.plotting import new_figure, plot_bounds, plot_mixture, telling_features
from jaxvi.results import Fit

_MAX_OPTIMA_SHOWN = 8
_TABLE_WIDTH = 100


class Posterior(NamedTuple):
    """Posterior means and standard deviations of a diagonal mixture's parameters."""

    weights: Float[np.ndarray, "components"]
    weights_sd: Float[np.ndarray, "components"]
    means: Float[np.ndarray, "components features"]
    means_sd: Float[np.ndarray, "components features"]
    scales: Float[np.ndarray, "components features"]
    scales_sd: Float[np.ndarray, "components features"]


class MixtureReport(NamedTuple):
    """The report of one mixture fit, in the table's units, components by falling weight."""

    family: str
    fit: Fit
    draws: dict[str, np.ndarray]
    probabilities: Float[np.ndarray, "rows components"]
    features: tuple[int, ...]
    numbers: dict[str, Any]
    lines: list[str]


def fit_numbers(fit: Fit) -> dict[str, Any]:
    """Bounds, optima, statuses and times of a fit, as numbers that JSON can hold.

    `lanes_alive` counts the lanes that ended with a finite bound. Steps per second count the
    steps of the whole batch; lane steps count every lane's own.
    """
    groups = fit.agreement
    codes, counts = np.unique(fit.status, return_counts=True)
    seconds = max(fit.timing.run_seconds, 1e-9)
    steps = int(fit.steps.max())
    return {
        "interrupted": bool(fit.interrupted),
        "num_restarts": fit.num_restarts,
        "lanes_alive": int(np.isfinite(fit.bounds).sum()),
        "best_lane": fit.best,
        "bound": fit.bound,
        "bound_mcse": fit.bound_mcse,
        "optima_restarts": [int(count) for count in groups.sizes],
        "optima_bounds": [float(bound) for bound in groups.bounds],
        "status": {
            Status(int(code)).text: int(count) for code, count in zip(codes, counts, strict=True)
        },
        "best_status": Status(int(fit.status[fit.best])).text,
        "num_bad_draws": int(fit.num_bad_draws[fit.best]),
        "max_steps_taken": steps,
        "compile_seconds": fit.timing.compile_seconds,
        "run_seconds": fit.timing.run_seconds,
        "total_seconds": fit.timing.total_seconds,
        "steps_per_second": steps / seconds,
        "lane_steps_per_second": float(fit.steps.sum()) / seconds,
    }


def fit_lines(fit: Fit) -> list[str]:
    """Optima, bound, statuses, time and speed of a fit, a line each."""
    numbers = fit_numbers(fit)
    optima, heights = numbers["optima_restarts"], numbers["optima_bounds"]
    listed = ", ".join(
        f"{count} at {bound:.2f}"
        for count, bound in zip(
            optima[:_MAX_OPTIMA_SHOWN], heights[:_MAX_OPTIMA_SHOWN], strict=True
        )
    )
    more = (
        f" and {len(optima) - _MAX_OPTIMA_SHOWN} lower ones"
        if len(optima) > _MAX_OPTIMA_SHOWN
        else ""
    )
    status = ", ".join(f"{count} {text}" for text, count in numbers["status"].items())
    lines = ["INTERRUPTED   what follows is where the run stood"] if fit.interrupted else []
    lines += [
        f"optima        {len(optima)} distinct; restarts in each: {listed or 'none'}{more}",
        f"best bound    {fit.bound:.3f} +- {fit.bound_mcse:.3f} nats (restart {fit.best + 1})",
        f"lanes alive   {numbers['lanes_alive']} of {fit.num_restarts} ended with a finite bound",
        f"status        {status}",
    ]
    best = Status(int(fit.status[fit.best]))
    if not best.ok:
        lines.append(f"              the best restart ended with '{best.text}': {best.remedy}")
    if numbers["num_bad_draws"]:
        lines.append(
            f"warning       the log density is not finite at {numbers['num_bad_draws']} of "
            f"{len(fit.log_weights)} fresh draws of the best restart"
        )
    return [
        *lines,
        f"time          {numbers['compile_seconds']:.1f} s compiling, "
        f"{numbers['run_seconds']:.1f} s running, {numbers['total_seconds']:.1f} s in all",
        f"speed         {numbers['steps_per_second']:,.0f} steps a second of all restarts "
        f"together, {numbers['lane_steps_per_second']:,.0f} lane steps a second",
    ]


def order_by_weight(draws: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Draws of a mixture with its components in falling order of their mean weight.

    All draws get the same order: they come from one restart's q, within which labels don't switch.
    A single component gets a weight of 1.
    """
    arrays = {name: np.asarray(value, float) for name, value in draws.items()}
    arrays.setdefault("weights", np.ones(arrays["means"].shape[:2]))
    order = np.argsort(-arrays["weights"].mean(axis=0), kind="stable")
    return {name: value[:, order] for name, value in arrays.items()}


def mixture_posterior(draws: Mapping[str, Any]) -> Posterior:
    """Posterior means and sds of a mixture's parameters, from draws with the draws leading."""
    return Posterior(
        *(
            statistic(np.asarray(draws[name], float), axis=0)
            for name in ("weights", "means", "scales")
            for statistic in (np.mean, np.std)
        )
    )


def mixture_lines(
    posterior: Posterior, names: Sequence[str], counts: Sequence[int] | None = None
) -> list[str]:
    """A text table of weights, means and scales +- posterior sd, a column for each component.

    Args:
        posterior: from `mixture_posterior`.
        names: names of the features, with their units.
        counts: rows of each component, by most probable component.
    """
    rows = [("weight", _pairs(posterior.weights, posterior.weights_sd))]
    if counts is not None:
        rows.append(("rows", [str(count) for count in counts]))
    for title, values, sds in (
        ("mean", posterior.means, posterior.means_sd),
        ("scale (standard deviation)", posterior.scales, posterior.scales_sd),
    ):
        rows.append((title, [""] * len(posterior.weights)))
        rows += [
            (f"  {name}", _pairs(value, sd))
            for name, value, sd in zip(names, values.T, sds.T, strict=True)
        ]
    header = [f"component {k + 1}" for k in range(len(posterior.weights))]
    return _aligned(header, rows)


def mixture_report(
    family: str,
    fit: Fit,
    draws: dict[str, np.ndarray],
    probabilities: Float[np.ndarray, "rows components"],
    rows: Float[np.ndarray, "rows features"],
    names: Sequence[str],
    labels: Sequence[str] | None,
) -> MixtureReport:
    """The report of a mixture fitted to standardised columns, in the units of the table.

    Args:
        family: what to call q.
        fit: of the columns, each divided by its standard deviation.
        draws: of the mixture's parameters in the units of `rows`, ordered.
        probabilities: posterior probability of every component for every row.
        rows: the data as given.
        names: names of the columns, with their units.
        labels: known classes of the rows, compared with by the adjusted Rand index; or None.
    """
    posterior = mixture_posterior(draws)
    assigned = probabilities.argmax(axis=1)
    counts = np.bincount(assigned, minlength=probabilities.shape[1])
    features = telling_features(rows, draws, probabilities)
    # the density of the data as given has 1 / sd for every row and column
    bound_as_given = fit.bound - len(rows) * float(np.log(rows.std(axis=0)).sum())
    numbers = {"family": family} | fit_numbers(fit)
    numbers |= {
        "bound_data_as_given": bound_as_given,
        "rows_per_component": counts.tolist(),
        **{name: value.tolist() for name, value in posterior._asdict().items()},
        "adjusted_rand_index": None,
        "picture_features": [names[i] for i in features],
    }
    lines = [
        f"{family} Gaussian q, {fit.num_restarts} restart{'' if fit.num_restarts == 1 else 's'}",
        *("  " + line for line in fit_lines(fit)),
        "  units         bounds are for the standardised columns; for the data as given the best "
        f"is {bound_as_given:.3f}",
    ]
    if labels is not None:
        from sklearn.metrics import adjusted_rand_score

        index = float(adjusted_rand_score(labels, assigned))
        numbers["adjusted_rand_index"] = index
        lines.append(f"  agreement     adjusted Rand index {index:.3f} with the labels, not fitted")
    lines += ["", "  posterior mean +- sd, in the units of the data"]
    table_lines = mixture_lines(posterior, names, counts.tolist())
    lines += ["  " + line for line in table_lines]
    return MixtureReport(family, fit, draws, probabilities, features, numbers, lines)


def write_reports(
    folder: Path,
    title: str,
    rows: Float[np.ndarray, "rows features"],
    names: Sequence[str],
    reports: Sequence[MixtureReport],
    *,
    picture: bool = True,
) -> list[str]:
    """Write `summary.json`, each fit's draws and assignments, and a figure; returns their names.

    With several reports, the names of their files begin with the name of the family.
    """
    summary = {
        "data": title,
        "num_rows": len(rows),
        "features": list(names),
        "fits": [report.numbers for report in reports],
    }
    text = json.dumps(json_value(summary), indent=2, allow_nan=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    written = ["summary.json"]
    for report in reports:
        prefix = f"{report.family}-" if len(reports) > 1 else ""
        np.savez(folder / f"{prefix}draws.npz", allow_pickle=False, **report.draws)
        write_assignments(folder / f"{prefix}assignments.csv", report.probabilities)
        written += [f"{prefix}draws.npz", f"{prefix}assignments.csv"]
    if picture:
        draw_reports(rows, names, reports).savefig(folder / "picture.png", dpi=130)
        written.append("picture.png")
    return written


def draw_reports(
    rows: Float[np.ndarray, "rows features"],
    names: Sequence[str],
    reports: Sequence[MixtureReport],
) -> Any:
    """A figure with two panels for each fit: rows with components, and bounds by step."""
    size = (11.0, 4.6 * len(reports))
    figure, axes = new_figure(len(reports), 2, size=size)
    for (left, right), report in zip(axes, reports, strict=True):
        mark = " (interrupted)" if report.fit.interrupted else ""
        plot_mixture(
            rows,
            report.draws,
            report.features,
            left,
            labels=report.probabilities.argmax(axis=1),
            names=names,
        )
        left.set_title(f"{report.family} q: components at their posterior means{mark}")
        plot_bounds(report.fit, right)
        right.set_title(f"{report.family} q: the bound of every restart{mark}")
    return figure


def write_assignments(path: Path, probabilities: Float[np.ndarray, "rows components"]) -> None:
    """Write a CSV file: row and most probable component, both from 1, and its probability."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row", "component", "probability"])
        for row, probability in enumerate(probabilities):
            component = int(probability.argmax())
            writer.writerow([row + 1, component + 1, f"{probability[component]:.6f}"])


def json_value(value: Any) -> Any:
    """The value with numbers that are not finite as None, since JSON has no NaN."""
    if isinstance(value, dict):
        return {name: json_value(part) for name, part in value.items()}
    if isinstance(value, list):
        return [json_value(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _pairs(values: Float[np.ndarray, "n"], sds: Float[np.ndarray, "n"]) -> list[str]:
    """Texts `value +- sd`, all with so many decimals that the largest sd has two digits."""
    largest = float(np.max(sds))
    digits = 3
    if largest > 0 and math.isfinite(largest):
        digits = int(np.clip(1 - math.floor(math.log10(largest)), 0, 10))
    return [f"{v:,.{digits}f} +- {s:,.{digits}f}" for v, s in zip(values, sds, strict=True)]


def _aligned(header: list[str], rows: list[tuple[str, list[str]]]) -> list[str]:
    """Lines of a table with right-aligned columns; what is too wide continues below."""
    left = max(len(name) for name, _ in rows)
    width = 2 + max(
        len(cell) for cells in [header, *(cells for _, cells in rows)] for cell in cells
    )
    each = max(1, (_TABLE_WIDTH - left) // width)
    lines: list[str] = []
    for first in range(0, len(header), each):
        lines += [""] if first else []
        part = slice(first, first + each)
        for name, cells in [("", header), *rows]:
            shown = "".join(cell.rjust(width) for cell in cells[part])
            lines.append((name.ljust(left) + shown).rstrip())
    return lines
