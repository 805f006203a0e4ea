"""Figures of a fit. Matplotlib is imported on use, and its global state is left alone."""

import importlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from jaxvi.results import Fit

# Okabe and Ito's palette without its yellow: told apart by colour-blind readers too
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^DvP*X"
_GREY = "#8C8C8C"
_MAX_OPTIMA_COLOURED = 4
_MAX_COLUMNS_PAIRED = 12  # columns of which all pairs are compared


def new_figure(num_rows: int = 1, num_columns: int = 1, *, size: tuple[float, float]) -> Any:
    """A matplotlib `Figure` of its own and its axes, an array of `(num_rows, num_columns)`."""
    figure = _import("matplotlib.figure").Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(num_rows, num_columns, squeeze=False)


def plot_bounds(fit: Fit, ax: Any = None) -> Any:
    """Plot the bound of every restart against the step, coloured by optimum, the best on top.

    The vertical limits leave out the first climb, so that the optima can be compared. A line is
    the running mean bound of `fit.history`, whose iterates still jitter. The dot at its end is the
    bound of the restart's result on fresh draws, which is often a little higher.

    Args:
        fit: a `Fit`.
        ax: matplotlib axes to draw on; new ones by default.

    Returns:
        The axes; `ax.figure.savefig(path)` writes them.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    _import("matplotlib.figure")
    ax = new_figure(size=(6.4, 4.4))[1][0, 0] if ax is None else ax
    groups = fit.agreement
    for lane, optimum in enumerate(groups.optimum):
        winner = lane == fit.best
        colour = "black" if winner else _optimum_colour(int(optimum))
        # the history continues, flat, after a lane has ended
        shown = np.searchsorted(fit.history.step, fit.steps[lane], side="right")
        ax.scatter(fit.steps[lane], fit.bounds[lane], s=30 if winner else 9, color=colour, zorder=5)
        ax.plot(
            fit.history.step[:shown],
            fit.history.bound[:shown, lane],
            color=colour,
            linewidth=2.0 if winner else 0.9,
            alpha=1.0 if winner else 0.55,
            zorder=4 if winner else 2 if optimum == 0 else 3,
            label=f"best restart: {fit.bound:.2f}" if winner else None,
        )
    for optimum, (count, bound) in enumerate(zip(groups.sizes, groups.bounds, strict=True)):
        if optimum < _MAX_OPTIMA_COLOURED:
            text = f"{_restarts(int(count))} up to {bound:.2f}"
            ax.plot([], [], color=_optimum_colour(optimum), label=text)
    lower = int(groups.sizes[_MAX_OPTIMA_COLOURED:].sum())
    if lower:
        ax.plot([], [], color=_GREY, label=f"{_restarts(lower)} lower")
    failed = int((groups.optimum < 0).sum())
    if failed:
        ax.plot([], [], color=_GREY, label=f"{_restarts(failed)} without a bound")
    ax.scatter([], [], s=9, color=_GREY, label="dots: fresh bounds at the end")
    _limit_bounds(ax, fit, groups.bounds)
    ax.set(xlabel="step", ylabel="bound (nats)")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.legend(loc="lower right", fontsize="small", framealpha=0.9)
    ax.grid(alpha=0.25)
    return ax


def plot_mixture(
    rows: Float[ArrayLike, "rows features"],
    params: Mapping[str, Any],
    features: Sequence[int] = (0, 1),
    ax: Any = None,
    *,
    labels: Int[ArrayLike, "rows"] | None = None,
    names: Sequence[str] | None = None,
) -> Any:
    """Plot rows in two features, coloured by most probable component, with 1 and 2 sd ellipses.

    With a single feature, plot a histogram with the components' densities.

    Args:
        rows: the data, in the units of `params`.
        params: `weights`, `means` and `scales` of a diagonal mixture, or draws of them with the
            draws leading, which are averaged.
        features: the one or two columns to show.
        ax: matplotlib axes to draw on; new ones by default.
        labels: component of each row, if known; found from `params` by default.
        names: names of all columns, with their units, for the axes.

    Returns:
        The axes.

    Raises:
        ValueError: other than one or two features.
        ModuleNotFoundError: without matplotlib.
    """
    _import("matplotlib.figure")
    if len(features) not in (1, 2):
        raise ValueError(f"features: expected one or two columns; got {list(features)!r}.")
    ax = new_figure(size=(6.4, 4.8))[1][0, 0] if ax is None else ax
    rows = np.asarray(rows, float)
    weights, means, scales = _point(params)
    if labels is None:
        labels = _most_probable(rows, weights, means, scales)
    labels = np.asarray(labels)
    shown = list(features)
    titles = [f"column {i + 1}" if names is None else names[i] for i in shown]
    if len(shown) == 1:
        _draw_histogram(ax, rows[:, shown[0]], weights, means[:, shown[0]], scales[:, shown[0]])
        ax.set(xlabel=titles[0], ylabel="density")
    else:
        _draw_ellipses(ax, rows[:, shown], labels, means[:, shown], scales[:, shown])
        ax.set(xlabel=titles[0], ylabel=titles[1])
    if len(weights) <= 12:
        ax.legend(fontsize="small", framealpha=0.9)
    ax.grid(alpha=0.25)
    return ax


def telling_features(
    rows: Float[ArrayLike, "rows features"],
    params: Mapping[str, Any],
    probabilities: Float[ArrayLike, "rows components"],
) -> tuple[int, ...]:
    """The two columns that best reproduce the assignment of rows to components.

    A pair's score is the mean probability that a row's component, drawn from its posterior, agrees
    with one drawn given the two columns alone. Of many columns, only the 12 that score best by
    themselves are paired.

    Args:
        rows: the data, in the units of `params`.
        params: as for `plot_mixture`.
        probabilities: posterior probability of every component for every row.
    """
    rows, probabilities = np.asarray(rows, float), np.asarray(probabilities, float)
    weights, means, scales = _point(params)
    num_features = rows.shape[1]
    if num_features == 1:
        return (0,)

    # log densities of every component in every column, (features, rows, components)
    standard = (rows.T[:, :, None] - means.T[:, None]) / scales.T[:, None]
    columns = -0.5 * standard**2 - np.log(scales.T[:, None])

    def score(features: Sequence[int]) -> float:
        joint = columns[list(features)].sum(axis=0) + np.log(weights)
        guessed = np.exp(joint - joint.max(axis=1, keepdims=True))
        guessed /= guessed.sum(axis=1, keepdims=True)
        return float((guessed * probabilities).sum(axis=1).mean())

    best = sorted(range(num_features), key=lambda i: -score([i]))[:_MAX_COLUMNS_PAIRED]
    return max(itertools.combinations(sorted(best), 2), key=score)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "expected matplotlib, for pictures; it is not installed; try pip install 'jaxvi[plot]'."
        ) from error


def _restarts(count: int) -> str:
    return f"{count} restart" + ("" if count == 1 else "s")


def _optimum_colour(optimum: int) -> str:
    return _COLOURS[optimum] if 0 <= optimum < _MAX_OPTIMA_COLOURED else _GREY


def _component_colour(component: int) -> str:
    return _COLOURS[component % len(_COLOURS)]


def _limit_bounds(ax: Any, fit: Fit, heights: Float[np.ndarray, "optima"]) -> None:
    """Set the limits from a little above the best bound to just below the common optima."""
    finite = fit.bounds[np.isfinite(fit.bounds)]
    if not finite.size or not len(fit.history.step):
        return
    best = float(heights[0])
    # at least 20 times the jitter between rows of the history, which would else fill the figure
    late = fit.history.bound[len(fit.history.step) // 2 :, fit.best]
    changes = np.abs(np.diff(late[np.isfinite(late)]))
    jitter = float(np.median(changes)) if changes.size else 0.0
    span = max(best - float(np.quantile(finite, 0.05)), 20.0 * jitter, 1.0)
    ax.set_ylim(best - 1.6 * span, best + 0.15 * span)
    ax.set_xlim(0, 1.02 * float(fit.history.step[-1]))


def _point(params: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and scales of a mixture, averaged over draws if these lead."""
    means, scales = (np.asarray(params[name], float) for name in ("means", "scales"))
    default = np.ones(means.shape[:-1])  # a single component has no weights
    weights = np.asarray(params.get("weights", default), float)
    if means.ndim == 3:
        weights, means, scales = weights.mean(0), means.mean(0), scales.mean(0)
    return weights, means, scales


def _most_probable(
    rows: Float[np.ndarray, "rows features"],
    weights: Float[np.ndarray, "components"],
    means: Float[np.ndarray, "components features"],
    scales: Float[np.ndarray, "components features"],
) -> Int[np.ndarray, "rows"]:
    parts = [
        np.log(weight) - np.log(scale).sum() - 0.5 * (((rows - mean) / scale) ** 2).sum(axis=1)
        for weight, mean, scale in zip(weights, means, scales, strict=True)
    ]
    return np.argmax(parts, axis=0)


def _draw_ellipses(
    ax: Any,
    rows: Float[np.ndarray, "rows 2"],
    labels: Int[np.ndarray, "rows"],
    means: Float[np.ndarray, "components 2"],
    scales: Float[np.ndarray, "components 2"],
) -> None:
    ellipse = _import("matplotlib.patches").Ellipse
    size = float(np.clip(2000.0 / len(rows), 3.0, 22.0))
    for component, (mean, scale) in enumerate(zip(means, scales, strict=True)):
        colour = _component_colour(component)
        own = rows[labels == component]
        ax.scatter(
            *own.T,
            s=size,
            color=colour,
            marker=_MARKERS[component % len(_MARKERS)],
            alpha=0.65,
            linewidths=0,
            label=f"component {component + 1}: {len(own)} rows",
        )
        for radius, style in ((1, "-"), (2, "--")):
            width, height = 2 * radius * scale
            ax.add_patch(
                ellipse(mean, width, height, fill=False, color=colour, linestyle=style, lw=1.6)
            )
    ax.plot([], [], color=_GREY, linestyle="-", label="1 sd")
    ax.plot([], [], color=_GREY, linestyle="--", label="2 sd")
    ax.autoscale_view()


def _draw_histogram(
    ax: Any,
    column: Float[np.ndarray, "rows"],
    weights: Float[np.ndarray, "components"],
    means: Float[np.ndarray, "components"],
    scales: Float[np.ndarray, "components"],
) -> None:
    bins = int(np.clip(2.0 * np.sqrt(len(column)), 5, 60))
    ax.hist(column, bins=bins, density=True, color="#DDDDDD")
    low, high = column.min(), column.max()
    grid = np.linspace(low - 0.05 * (high - low), high + 0.05 * (high - low), 400)
    total = np.zeros_like(grid)
    for component, (weight, mean, scale) in enumerate(zip(weights, means, scales, strict=True)):
        density = weight * np.exp(-0.5 * ((grid - mean) / scale) ** 2) / scale / np.sqrt(2 * np.pi)
        ax.plot(
            grid, density, color=_component_colour(component), label=f"component {component + 1}"
        )
        total += density
    ax.plot(grid, total, color="black", linestyle="--", label="mixture")
