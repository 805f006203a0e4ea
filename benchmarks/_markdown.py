"""Tables in Markdown, and where a command leaves them: a section of the page between markers."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import _machine

HERE = Path(__file__).resolve().parent


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as well on a terminal."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def number(value: float, digits: int = 3) -> str:
    """Significant digits without an exponent; a dash where there is no number."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(decimals, 0)}f}"


def write_section(path: Path, name: str, text: str) -> None:
    """Put `text` between the markers of section `name`, or in a new one at the end."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin in page and end in page:
        before, rest = page.split(begin, 1)
        after = rest.split(end, 1)[1]
        page = before + section + after
    else:
        page = f"{page.rstrip()}\n\n{section}\n".lstrip()
    path.write_text(page, encoding="utf-8")


def publish(
    command: str,
    results: dict[str, Any],
    text: str,
    *,
    out: Path | None,
    quick: bool,
    draw: Callable[[dict[str, Any], Path], bool] | None = None,
) -> None:
    """Raw numbers, and a page of them, to `out`, or else to this folder's; nothing of a quick run.

    `draw` makes a picture beside the numbers, or says by False that it can't.
    """
    folder = out or (None if quick else HERE / "results")
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{command}-{_machine.label(results['machine'])}"
    raw = json.dumps(results, indent=1) + "\n"
    (folder / f"{name}.json").write_text(raw, encoding="utf-8")
    if draw is not None and draw(results, folder / f"{name}.png"):
        text += f"\n\n![curves]({'' if out else 'results/'}{name}.png)"
    if out:
        (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    else:
        write_section(HERE / "README.md", name, text)
