"""What a thousand devices take is worked out as the page says, from what was measured."""

import json

import pytest

from benchmarks.layout import command as layout

COST = layout.Constants(
    row_seconds=1e-9, step_seconds=1e-5, message_seconds=1e-3, stream_seconds=1e-7
)


def test_a_step_is_rows_and_messages():
    """A million rows a device, 8 draws, of 64 restarts one in each of the 125 groups of 8."""
    task = layout.Task(rows=8e6, devices=1_000)
    found = layout.whole_data(task, COST, 8)
    assert found["lanes"] == 1
    assert found["busy"] == pytest.approx(64 / 125)
    assert found["step"] == pytest.approx(1e6 * 8 * 1e-9 + 1e-5 + 3e-3)
    assert found["messages"] == pytest.approx(3e-3 / found["step"])
    assert found["hours"] == pytest.approx(40 * found["step"] / 3_600)
    assert found["gib"] == pytest.approx(1e6 * 25 * 4 / 2**30)


def test_lanes_and_rows_cost_the_same_work():
    """Where all groups are busy and messages are free, a step's time a restart knows no layout."""
    free = layout.Constants(1e-9, 0.0, 0.0, 1e-7)
    task = layout.Task(restarts=125)
    times = {parts: layout.whole_data(task, free, parts)["step"] for parts in (8, 40, 200, 1_000)}
    assert times == pytest.approx(dict.fromkeys(times, times[8]))


def test_some_rows_don_t_see_the_whole():
    """A batch costs what it costs, however many rows there are."""
    few, many = (layout.some_rows(layout.Task(rows=n), COST) for n in (1e9, 1e10))
    assert few["hours"] == many["hours"]
    assert many["last"] == pytest.approx(10 * few["last"])
    assert few["share"] == pytest.approx(1_024 * 20_000 / 1e9)


def test_the_page_is_of_what_was_measured():
    """docs/scaling.md has the table that `python -m benchmarks layout` prints."""
    results = json.loads((layout.HERE / "results" / "scale-cpu.json").read_text(encoding="utf-8"))
    text = layout.render(layout.Task(), layout.constants(results))
    assert text in layout.PAGE.read_text(encoding="utf-8")
