"""What the pictures and the report say about a fit whose numbers are known."""

import dataclasses
import sys

import jax
import matplotlib.pyplot
import numpy as np
import pytest

import jaxvi
import jaxvi.models
from jaxvi import plotting
from jaxvi._engine import History, Setup
from jaxvi._status import Status
from jaxvi.cli import _report
from jaxvi.results import Fit, Timing

NUM_LANES = 6


def known_fit(**changes):
    """Six lanes: three at -10, two at -30, one that failed; they ended at different steps."""
    bounds = np.array([-10.05, -30.0, -10.0, np.nan, -10.1, -30.02])
    steps = np.array([400, 200, 300, 100, 400, 400])
    history = np.stack(
        [b - 1e4 * np.exp(-2.0 * np.arange(1, 9)) for b in np.nan_to_num(bounds)], axis=1
    )
    fit = Fit(
        setup=Setup(
            jaxvi.models.gaussian_mixture(2, 1),
            jaxvi.MeanField(),
            jaxvi.ELBO(),
            jaxvi.Stochastic(),
            jaxvi.Fresh(),
        ),
        phi=None,
        status=np.array([1, 1, 1, 3, 1, 2]),
        steps=steps,
        bounds=bounds,
        bounds_mcse=np.full(NUM_LANES, 0.01),
        difference_mcse=np.zeros(NUM_LANES),
        best=2,
        num_bad_draws=np.zeros(NUM_LANES, int),
        log_weights=np.zeros(100),
        history=History(np.arange(50, 401, 50), history),
        timing=Timing(2.0, 0.5, 3.0),
        interrupted=False,
        key=jax.random.key(0),
    )
    return dataclasses.replace(fit, **changes)


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


# The report


def test_the_report_tells_optima_statuses_times_and_speeds():
    text = "\n".join(_report.fit_lines(known_fit()))
    assert "2 distinct; restarts in each: 3 at -10.00, 2 at -30.00" in text
    assert "-10.000 +- 0.010 nats (restart 3)" in text
    assert "5 of 6 ended with a finite bound" in text
    assert "4 converged, 1 step limit, 1 not finite" in text
    assert "2.0 s compiling, 0.5 s running, 3.0 s in all" in text
    assert "800 steps a second" in text
    assert "3,600 lane steps a second" in text
    assert "INTERRUPTED" not in text


def test_the_report_marks_what_cannot_be_trusted():
    fit = known_fit(
        interrupted=True,
        status=np.full(NUM_LANES, int(Status.INTERRUPTED)),
        num_bad_draws=np.full(NUM_LANES, 7),
    )
    text = "\n".join(_report.fit_lines(fit))
    assert text.startswith("INTERRUPTED")
    assert Status.INTERRUPTED.remedy in text
    assert "not finite at 7 of 100" in text


def test_components_are_ordered_by_weight_in_all_draws_alike():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(50, 3, 2))
    weights = rng.dirichlet([10.0, 60.0, 30.0], 50)
    ordered = _report.order_by_weight({"weights": weights, "means": means, "scales": means**2})
    np.testing.assert_array_equal(ordered["weights"], weights[:, [1, 2, 0]])
    np.testing.assert_array_equal(ordered["means"], means[:, [1, 2, 0]])
    np.testing.assert_array_equal(ordered["scales"], means[:, [1, 2, 0]] ** 2)


def test_the_table_is_aligned_and_wraps():
    rng = np.random.default_rng(0)
    shape = (200, 9, 2)
    draws = {
        "weights": rng.dirichlet(np.ones(9), 200),
        "means": 1000.0 + rng.normal(size=shape),
        "scales": 0.01 + 0.001 * rng.uniform(size=shape),
    }
    posterior = _report.mixture_posterior(draws)
    np.testing.assert_allclose(posterior.means_sd, draws["means"].std(0))
    lines = _report.mixture_lines(posterior, ["height (cm)", "mass (kg)"], range(9))
    assert max(map(len, lines)) <= 100
    assert sum(line.count("component") for line in lines) == 9
    tables = "\n".join(lines).split("\n\n")
    for table in tables:
        rows = [line for line in table.splitlines() if "+-" in line or "component" in line]
        assert len({len(row) for row in rows}) == 1
    value, sd = posterior.means[0, 0], posterior.means_sd[0, 0]
    assert f"{value:,.1f} +- {sd:,.1f}" in tables[0]  # two digits of the largest sd, 1.0
