"""Medians of interleaved repeats."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

Run = Callable[[int], None]
"""Does so many steps and returns when they are done."""


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds on the wall of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def steps_for(run: Run, seconds: float, multiple: int) -> int:
    """A number of steps, divisible by `multiple`, that takes about `seconds`; this also warms."""
    run(multiple)
    pace = seconds_of(lambda: run(multiple)) / multiple
    return multiple * max(1, math.ceil(seconds / pace / multiple))


def interleaved(
    runs: Mapping[str, Run], *, repeats: int, seconds: float, multiple: int
) -> dict[str, list[float]]:
    """Seconds a step of every run, `repeats` of each taken in turn: A B C A B C ...

    Taken in turn, what else the machine does falls on all of them alike. Each repeat is long
    enough, about `seconds`, for its one dispatch not to count.
    """
    steps = {name: steps_for(run, seconds, multiple) for name, run in runs.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(seconds_of(partial(run, steps[name])) / steps[name])
    return found


def median(values: Sequence[float]) -> float:
    """The median; NaN of nothing."""
    return statistics.median(values) if values else math.nan


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the ratios of repeats that were taken next to each other."""
    return median([a / b for a, b in zip(over, under, strict=True)])
