"""The benchmark of scale: its numbers are of the fits that it makes, and its page says so."""

import pytest

from benchmarks.scale import command as scale

MACHINE = {
    **dict.fromkeys(("processor", "system", "python", "jax", "optax", "numpyro"), "-"),
    "platform": "cpu",
    "cores": 2,
}


@pytest.mark.slow
def test_restarts_are_counted():
    found = scale.measure_restarts(70)
    assert found["steps"] > 70 * 5
    assert found["seconds"] >= found["run_seconds"] > 0.0
    assert 0.0 <= found["idle"] < 1.0
    assert found["bound"] == pytest.approx(-490.1, abs=1.0)


def test_page_and_picture(tmp_path):
    fit = {"seconds": 2.0, "mib": 3.0, "idle": 0.04, "steps": 900, "bound": -490.1}
    results = {
        "machine": MACHINE,
        "date": "2026-01-01",
        "restarts": {1: {**fit, "idle": 0.0}, 100: fit},
        "race": {100: {**fit, "steps": 300, "bound": -490.2}},
        "rows": {1_000: {"rows_per_second": 2e6, "mib": 30.0, "epochs": 4.0}},
        "devices": {"processes": {1: 10.0, 2: 19.0}, "devices": {1: 10.0, 2: 11.0}, "ratio": 1.9},
    }
    page = scale.render(results)
    assert "100 restarts, idle lane-steps: 4.0 %; at most 10: met" in page
    assert "33 % of the steps, best bound 0.100 nats lower" in page
    assert "lanes a second: 1.90; at least 1.8: met" in page
    results["devices"]["ratio"], results["restarts"][100]["idle"] = 1.2, 0.2
    assert scale.render(results).count("**missed**") == 2
    results["devices"] = {"error": "RuntimeError: no"}
    assert "**failed**, RuntimeError: no" in scale.render(results)
    assert scale.draw(results, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
