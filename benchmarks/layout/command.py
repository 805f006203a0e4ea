"""What a fit to very many rows costs on very many devices, from what `scale` has measured."""

import argparse
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks._markdown import number, table, write_section

HELP = "cost and layout of 1e10 rows on 1,000 devices, from the measured constants"
HERE = Path(__file__).resolve().parents[1]
PAGE = HERE.parent / "docs" / "scaling.md"
_KEPT = 4  # numbers of every row that a density makes for one draw and its gradient


@dataclass(frozen=True)
class Constants:
    """Seconds, measured: on one core, or as given for another device."""

    row_seconds: float  # a row in an evaluation of one draw
    step_seconds: float  # a step besides its rows
    message_seconds: float  # a sum over two processes
    stream_seconds: float  # a row that is streamed


@dataclass(frozen=True)
class Task:
    """What is to be fitted, on what."""

    rows: float = 1e10
    numbers: int = 21  # of a row, float32
    devices: int = 1_000
    gib: float = 64.0  # of a device
    restarts: int = 64
    draws: int = 8  # of a step
    steps: int = 40  # of a restart, by a second-order solver on all rows
    batch: int = 1_024  # rows of a step on some
    batch_steps: int = 20_000


def constants(results: dict[str, Any]) -> Constants:
    """Those of a run of `scale`."""
    spread = results["devices"]["spread"]
    streamed = results["rows"][max(results["rows"], key=int)]["rows_per_second"]
    return Constants(
        spread["row_seconds"],
        spread["step_seconds"],
        spread.get("message_seconds", math.nan),
        1.0 / streamed,
    )


def whole_data(task: Task, cost: Constants, parts: int) -> dict[str, float]:
    """Every row at every step, rows spread over `parts` devices, restarts over the groups of them.

    seconds of a step = (rows / parts) draws lanes t_row + t_step + ceil(log2 parts) t_message
    """
    groups = task.devices // parts
    lanes = math.ceil(task.restarts / groups)
    work = task.rows / parts * task.draws * lanes * cost.row_seconds
    messages = math.ceil(math.log2(parts)) * cost.message_seconds if parts > 1 else 0.0
    step = work + cost.step_seconds + messages
    return {
        "lanes": lanes,
        "gib": task.rows / parts * (task.numbers + _KEPT) * 4 / 2**30,
        "step": step,
        "hours": step * task.steps / 3_600,
        "messages": messages / step,
        "busy": min(1.0, task.restarts / (groups * lanes)),
    }


def some_rows(task: Task, cost: Constants) -> dict[str, float]:
    """Some rows at every step, every device a stream and a fit of its own."""
    rows = task.batch * task.batch_steps
    step = task.batch * max(task.draws * cost.row_seconds, cost.stream_seconds)
    return {
        "hours": (step + cost.step_seconds) * task.batch_steps / 3_600,
        "share": rows / task.rows,
        "last": task.rows * (64 * cost.row_seconds + cost.stream_seconds) / 3_600,
    }


def render(task: Task, cost: Constants) -> str:
    """The two ways, as Markdown."""
    parts = [p for p in (8, 40, 125, 200, 1_000) if task.devices % p == 0]
    rows = []
    for count in parts:
        found = whole_data(task, cost, count)
        fits = "" if found["gib"] <= task.gib else ", **too much**"
        rows.append(
            [
                f"{count:,}",
                f"{task.devices // count:,} x {found['lanes']:,.0f}",
                number(found["gib"]) + fits,
                number(found["step"]),
                f"{100 * found['messages']:.2g} %",
                f"{100 * found['busy']:.0f} %",
                number(found["hours"]),
            ]
        )
    some = some_rows(task, cost)
    return "\n\n".join(
        [
            f"{task.rows:,.0f} rows of {task.numbers} numbers on {task.devices:,} devices of "
            f"{task.gib:g} GiB, {task.restarts} restarts, {task.draws} draws a step; a row takes "
            f"{1e9 * cost.row_seconds:.2g} ns a draw, a step {1e6 * cost.step_seconds:.0f} us "
            f"besides, a message {1e6 * cost.message_seconds:.0f} us, a streamed row "
            f"{1e9 * cost.stream_seconds:.0f} ns.",
            f"All rows at each of {task.steps} steps:",
            table(
                ["data=", "groups x lanes", "GiB", "seconds a step", "messages", "busy", "hours"],
                rows,
            ),
            f"{task.batch:,} streamed rows at each of {task.batch_steps:,} steps, a restart on "
            f"every device: {number(3_600 * some['hours'])} seconds, in which a restart sees "
            f"{100 * some['share']:.2g} % of the rows; then {number(some['last'])} hours for the "
            "bound of 64 draws on all rows, on one device.",
        ]
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `layout`."""
    for kind, default in ((Task, True), (Constants, False)):
        for field in fields(kind):
            name = "--" + field.name.replace("_", "-")
            words = f"{field.default:g}" if default else "as measured by scale"
            parser.add_argument(name, type=float, help=f"by default {words}")
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")


def run(args: argparse.Namespace) -> int:
    """Work out, print."""
    path = HERE / "results" / "scale-cpu.json"
    measured = constants(json.loads(path.read_text(encoding="utf-8")))
    given = {name: value for name, value in vars(args).items() if value is not None}
    task = Task(
        **{
            field.name: type(field.default)(given[field.name])
            for field in fields(Task)
            if field.name in given
        }
    )
    names = [field.name for field in fields(Constants) if field.name in given]
    cost = Constants(**{**vars(measured), **{name: given[name] for name in names}})
    text = render(task, cost)
    print(text)
    if args.write:
        write_section(PAGE, "layout", text)
    return 0
