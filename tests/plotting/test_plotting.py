"""What the pictures and the report say about a fit whose numbers are known."""

import sys

import matplotlib.pyplot
import numpy as np
import pytest
from known_fit import NUM_LANES, known_fit

from jaxvi import plotting
from jaxvi._engine import History


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_every_lane_has_its_line_and_the_winner_stands_out():
    fit = known_fit()
    ax = plotting.plot_bounds(fit)
    lanes = [line for line in ax.lines if len(line.get_xdata())]
    assert len(lanes) == NUM_LANES
    for line, lane in zip(lanes, range(NUM_LANES), strict=True):
        kept = fit.history.step <= fit.steps[lane]
        np.testing.assert_array_equal(line.get_xdata(), fit.history.step[kept])
        np.testing.assert_array_equal(line.get_ydata(), fit.history.bound[kept, lane])
    widths = [line.get_linewidth() for line in lanes]
    assert widths.index(max(widths)) == fit.best
    assert lanes[fit.best].get_zorder() > max(lanes[i].get_zorder() for i in (0, 1, 3, 4, 5))
    assert ax.get_ylabel() == "bound (nats)"
    assert "best restart: -10.00" in legend(ax)
    assert "3 restarts up to -10.00" in legend(ax)
    assert "2 restarts up to -30.00" in legend(ax)
    assert "1 restart without a bound" in legend(ax)


def test_the_limits_show_all_optima_and_leave_out_the_climb():
    low, high = plotting.plot_bounds(known_fit()).get_ylim()
    assert low < -30.02
    assert high > -10.0
    assert high - low < 45.0  # the climb begins thousands of nats below


def test_a_run_without_history_is_drawn_too():
    empty = History(np.zeros(0, int), np.zeros((0, NUM_LANES)))
    ax = plotting.plot_bounds(known_fit(history=empty))
    assert "best restart: -10.00" in legend(ax)


def mixture():
    params = {
        "weights": np.array([0.25, 0.75]),
        "means": np.array([[0.0, 10.0, 5.0], [4.0, 20.0, 5.0]]),
        "scales": np.array([[0.5, 1.0, 1.0], [0.25, 2.0, 1.0]]),
    }
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], [10, 30])
    return (
        params,
        params["means"][truth] + params["scales"][truth] * rng.normal(size=(40, 3)),
        truth,
    )


def test_ellipses_are_one_and_two_sd_round_the_means():
    params, rows, truth = mixture()
    ax = plotting.plot_mixture(rows, params, (1, 0), names=("a (m)", "b (kg)", "c"))
    found = [(tuple(e.center), e.width, e.height) for e in ax.patches]
    assert found == [
        ((10.0, 0.0), 2.0, 1.0),
        ((10.0, 0.0), 4.0, 2.0),
        ((20.0, 4.0), 4.0, 0.5),
        ((20.0, 4.0), 8.0, 1.0),
    ]
    drawn = [np.asarray(c.get_offsets()) for c in ax.collections]
    for component in (0, 1):
        np.testing.assert_array_equal(drawn[component], rows[truth == component][:, [1, 0]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("b (kg)", "a (m)")
    assert legend(ax)[:2] == ["component 1: 10 rows", "component 2: 30 rows"]


def test_draws_are_averaged():
    params, rows, _ = mixture()
    draws = {name: np.stack([value * 0.9, value * 1.1]) for name, value in params.items()}
    point = plotting.plot_mixture(rows, params, (0, 1)).patches
    averaged = plotting.plot_mixture(rows, draws, (0, 1)).patches
    for one, other in zip(point, averaged, strict=True):
        np.testing.assert_allclose(one.get_extents(), other.get_extents())


def test_one_feature_shows_densities_that_integrate_to_the_weights():
    params, rows, _ = mixture()
    ax = plotting.plot_mixture(rows, params, (0,))
    areas = [np.trapezoid(line.get_ydata(), line.get_xdata()) for line in ax.lines]
    np.testing.assert_allclose(areas, [0.25, 0.75, 1.0], atol=0.02)


def test_three_features_are_refused():
    params, rows, _ = mixture()
    with pytest.raises(ValueError, match="one or two columns"):
        plotting.plot_mixture(rows, params, (0, 1, 2))


def test_pyplot_keeps_no_figure(tmp_path):
    plotting.plot_bounds(known_fit()).figure.savefig(tmp_path / "bounds.png")
    assert (tmp_path / "bounds.png").read_bytes().startswith(b"\x89PNG")
    assert matplotlib.pyplot.get_fignums() == []


def test_without_matplotlib_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxvi\[plot\]'"):
        plotting.plot_bounds(known_fit())


def test_telling_features_are_those_that_separate():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 20)
    rows = rng.normal(size=(60, 20))
    rows[:, 13] += 20 * (truth == 1)
    rows[:, 4] += 20 * (truth == 2)
    params = {
        "weights": np.full(3, 1 / 3),
        "means": np.stack([rows[truth == k].mean(0) for k in range(3)]),
        "scales": np.stack([rows[truth == k].std(0) for k in range(3)]),
    }
    assert plotting.telling_features(rows, params, np.eye(3)[truth]) == (4, 13)
    assert plotting.telling_features(
        rows[:, :1],
        {k: v[..., :1] if v.ndim == 2 else v for k, v in params.items()},
        np.eye(3)[truth],
    ) == (0,)
