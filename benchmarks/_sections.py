"""Commands that measure sections of rows of cells, written after every cell, and a page of them."""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import _machine
from benchmarks._markdown import write_section

if TYPE_CHECKING:
    from benchmarks._methods import Method

HERE = Path(__file__).resolve().parent
Rows = Iterator[tuple[str, dict[str, Any]]]
Methods = Mapping[str, "Method"]


@dataclass(frozen=True)
class Wanted:
    """Which cells are to be measured."""

    methods: Methods
    args: argparse.Namespace
    rows: dict[str, Any]

    def names(self, row: str, methods: tuple[str, ...]) -> tuple[str, ...]:
        """Methods of a row that are asked for, with those that they start from."""
        only, chosen = self.args.only, []
        for name in methods:
            asked = not only or row in only or name in only
            if asked and not (self.args.resume and name in self.rows.get(row, {})):
                chosen.append(name)
        there = [self.methods[name] for name in chosen if name in self.methods]
        needed = {method.after for method in there} | {method.unless for method in there}
        return tuple(name for name in methods if name in needed | set(chosen))


Section = Callable[[Any, Wanted], Rows]


@dataclass(frozen=True)
class Command:
    """A benchmark of this kind.

    A section gets the plan and what is wanted and yields (row, cells) as they are measured.
    `picture(results, path)` draws, and returns why it did not, if it did not.
    """

    name: str
    quick: str
    sections: Mapping[str, Section]
    plan: Callable[[bool], Any]
    methods: Callable[[Any], Methods]
    render: Callable[[dict[str, Any]], str]
    picture: Callable[[dict[str, Any], Path], str] | None = None

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"{self.name}: {text}", file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser, command: Command) -> None:
    """The command line of a command."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{command.quick}; leaves README.md and results/ alone",
    )
    parser.add_argument(
        "--section",
        action="append",
        choices=tuple(command.sections),
        help="measure this section anew and keep the others; may be repeated",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="measure this posterior, case or method anew and keep the rest; may be repeated",
    )
    parser.add_argument("--resume", action="store_true", help="measure only what is missing")
    parser.add_argument(
        "--out", type=Path, help="write here, and not to README.md and results/ of the benchmarks"
    )
    parser.add_argument(
        "--render", type=Path, metavar="JSON", help="measure nothing: report on these results"
    )


def run(args: argparse.Namespace, command: Command) -> int:
    """Measure, write after every cell, print the page, draw the picture where there is one."""
    if args.render:
        results = json.loads(args.render.read_text(encoding="utf-8"))
    else:
        import jax

        if not args.quick:
            jax.config.update("jax_enable_compilation_cache", False)  # cold is cold
        with jax.enable_x64(True):
            results = _measure(args, command)
    text = command.render(results)
    print(text)
    folder, name = _folder(args), _name(command, results)
    if folder is None:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    if command.picture is not None:
        missing = command.picture(results, folder / f"{name}.png")
        if missing:
            command.say(missing)
        else:
            place = "" if args.out else f"{folder.name}/"
            text += f"\n\n![{command.name}, drawn]({place}{name}.png)"
    if args.out:
        (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    else:
        write_section(HERE / "README.md", name, text)
    return 0


def _folder(args: argparse.Namespace) -> Path | None:
    return args.out or (None if args.quick else HERE / "results")


def _name(command: Command, results: dict[str, Any]) -> str:
    return f"{command.name}-{_machine.label(results['machine'])}"


def _measure(args: argparse.Namespace, command: Command) -> dict[str, Any]:
    """All sections that are asked for, into the results that there are."""
    from benchmarks._peers import version

    plan = command.plan(args.quick)
    methods = command.methods(plan)
    results: dict[str, Any] = {
        "command": f"python -m benchmarks {command.name}" + (" --quick" if args.quick else ""),
        "quick": args.quick,
        "machine": {**_machine.describe(), "blackjax": version("blackjax")},
        "plan": asdict(plan),
        "methods": {name: {"title": m.title, "after": m.after} for name, m in methods.items()},
        "sections": {},
    }
    folder = _folder(args)
    path = folder / f"{_name(command, results)}.json" if folder else None
    keep = bool(args.section or args.only or args.resume)
    if keep and path is not None and path.exists():
        results["sections"] = json.loads(path.read_text(encoding="utf-8"))["sections"]
    for name in args.section or command.sections:
        section = results["sections"].setdefault(name, {})
        if not (args.only or args.resume):
            section.clear()
        began = time.perf_counter()
        before = section.get("minutes", 0.0) if keep else 0.0
        section["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        rows = section.setdefault("rows", {})
        for row, cells in command.sections[name](plan, Wanted(methods, args, rows)):
            rows.setdefault(row, {}).update(cells)
            section["minutes"] = round(before + (time.perf_counter() - began) / 60, 2)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results
