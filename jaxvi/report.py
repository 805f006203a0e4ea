"""A fit in words and numbers: dictionaries for files, lines of text for people."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxvi._status import Status
from jaxvi.result import Fit

_MOST_OPTIMA = 8
_TABLE_WIDTH = 100


class Posterior(NamedTuple):
    """Posterior means of a diagonal mixture's parameters, with their posterior sd."""

    weights: Float[np.ndarray, "components"]
    weights_sd: Float[np.ndarray, "components"]
    means: Float[np.ndarray, "components features"]
    means_sd: Float[np.ndarray, "components features"]
    scales: Float[np.ndarray, "components features"]
    scales_sd: Float[np.ndarray, "components features"]


def fit_numbers(fit: Fit) -> dict[str, Any]:
    """What a fit found and what it took, as plain numbers that JSON can hold.

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
        for count, bound in zip(optima[:_MOST_OPTIMA], heights[:_MOST_OPTIMA], strict=True)
    )
    more = f" and {len(optima) - _MOST_OPTIMA} lower ones" if len(optima) > _MOST_OPTIMA else ""
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
    """Draws of a mixture with the components in falling order of their mean weight.

    One order for all draws: they come from a single lane's q, within which labels don't switch.
    A single component gets its weight of 1.
    """
    arrays = {name: np.asarray(value, float) for name, value in draws.items()}
    arrays.setdefault("weights", np.ones(arrays["means"].shape[:2]))
    order = np.argsort(-arrays["weights"].mean(axis=0), kind="stable")
    return {name: value[:, order] for name, value in arrays.items()}


def mixture_posterior(draws: Mapping[str, Any]) -> Posterior:
    """Posterior means and sd from draws with the draws leading, components as they come."""
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
    """An aligned table of weights, means and scales +- posterior sd, a column a component.

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


def _pairs(values: Float[np.ndarray, "n"], sds: Float[np.ndarray, "n"]) -> list[str]:
    """`value +- sd`, all to the decimals that show two digits of the largest sd."""
    largest = float(np.max(sds))
    digits = 3
    if largest > 0 and math.isfinite(largest):
        digits = int(np.clip(1 - math.floor(math.log10(largest)), 0, 10))
    return [f"{v:,.{digits}f} +- {s:,.{digits}f}" for v, s in zip(values, sds, strict=True)]


def _aligned(header: list[str], rows: list[tuple[str, list[str]]]) -> list[str]:
    """Columns right-aligned; as many side by side as fit, the rest in further tables below."""
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
