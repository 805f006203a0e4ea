"""What the command line's report says about a fit whose numbers are known."""

import numpy as np
from known_fit import NUM_LANES, known_fit

from jaxvi._status import Status
from jaxvi.cli import _report


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
