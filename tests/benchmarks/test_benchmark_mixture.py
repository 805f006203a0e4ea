"""The benchmark of the mixture: every measurement once, on few rows, and the page made of them."""

import numpy as np
import pytest

from benchmarks.mixture import command as mixture

SMALL = mixture.Case(
    "small",
    (2_000, 3, 2),
    {"n_components": 2, "covariance_type": "diag", "max_iter": 5, "tol": 0.0, "random_state": 0},
    least=8.0,
    repeats=1,
    memory=True,
)
MACHINE = {
    **dict.fromkeys(("processor", "system", "python", "jax", "optax", "numpyro"), "-"),
    "platform": "cpu",
    "cores": 2,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "CASES", {"small": SMALL})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_all_is_measured_and_shown(small):
    cell = mixture.measure_case("small")
    assert cell["steps"] == [5, 5]
    np.testing.assert_allclose(*cell["bounds"], rtol=1e-8)
    libraries = (mixture.OURS, mixture.THEIRS)
    assert set(cell["seconds"]) >= {*libraries, mixture.LIKELIHOOD}
    cell["cold"] = {library: [mixture.measure_cold("small", library)] for library in libraries}
    cell["memory"] = {library: mixture.measure_memory("small", library) for library in libraries}
    stream = mixture.measure_stream("small")
    assert stream["again"] == pytest.approx(stream["whole"], rel=1e-6)
    assert stream["once"] == pytest.approx(stream["whole"], rel=5e-2)
    cell["stream"] = {**stream, "memory": mixture.measure_flat("small")}
    products = {"machine": 2e10, "step": 1e10}
    results = {
        "machine": MACHINE,
        "date": "2026-01-01",
        "cases": {"small": cell},
        "products": products,
    }
    page = mixture.render(results)
    assert page.count("times faster than scikit-learn; at least 8") == 1
    assert "50 % of what a product" in page
    missed = {**cell, "memory": {**cell["memory"], mixture.OURS: 2.5}}
    again = mixture.render({**results, "cases": {"small": missed}})
    assert "2.5 times the data's" in again
    assert "at most 2: **missed**" in again
