"""Reads numeric columns from CSV files, and reports in a sentence what is wrong with them."""

import csv
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_DELIMITERS = ",;\t"


class UsageError(Exception):
    """An error that the user can mend, as one sentence."""


class Table(NamedTuple):
    """Numeric columns of a table; `labels` are the classes of the column left out, if any."""

    rows: Float[np.ndarray, "rows features"]
    names: tuple[str, ...]
    labels: list[str] | None
    title: str


def read_table(path: Path, label: str | None) -> Table:
    """Read the numeric columns of a CSV file, and the column `label` (name or number) apart.

    Numbers of columns count from 1. The delimiter is the comma, semicolon or tab that splits the
    first lines evenly into most columns. The first row is a header if a cell of it, outside the
    label column, is not a number.
    """
    records = _records(path)
    lines, cells = [line for line, _ in records], [row for _, row in records]
    skip = _label_position(cells[0], label)
    headed = any(
        text.strip() and not _is_number(text) for i, text in enumerate(cells[0]) if i != skip
    )
    names = _header(cells[0], path) if headed else _numbered(len(cells[0]))
    if label is not None and skip is None:
        have = ", ".join(names) if headed else f"no header, and {len(names)} columns"
        raise UsageError(
            f"expected --label to name a column of {path}; got {label!r}; it has {have}"
        )
    body, where = (cells[1:], lines[1:]) if headed else (cells, lines)
    if not body:
        raise UsageError(f"expected rows of numbers in {path}; got a header alone")
    _check_ragged(body, where, len(names), path)
    wanted = [i for i in range(len(names)) if i != skip]
    if not wanted:
        raise UsageError(f"expected a column besides --label {label} in {path}; got none")
    rows = np.array([_column(body, where, names, i, path) for i in wanted]).T
    chosen = tuple(names[i] for i in wanted)
    for name, column in zip(chosen, rows.T, strict=True):
        if not column.std() > 1e-12 * np.abs(column).max():
            raise UsageError(
                f"expected columns that vary in {path}; got {column[0]:g} in every row of "
                f"{name!r}; drop that column"
            )
    labels = None if skip is None else [row[skip].strip() for row in body]
    return Table(rows, chosen, labels, str(path))


def _records(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and cells of all rows that are not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"expected a CSV file; got {path}, which does not exist") from None
    except IsADirectoryError:
        raise UsageError(f"expected a CSV file; got {path}, which is a folder") from None
    except UnicodeDecodeError:
        raise UsageError(f"expected text in UTF-8; got other bytes in {path}") from None
    except OSError as error:
        raise UsageError(f"could not read {path} ({error.strerror or error})") from None
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
        records = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UsageError(f"could not read {path} as CSV ({error})") from None
    if not records:
        raise UsageError(f"expected rows of numbers in {path}; got an empty file")
    return records


def _delimiter(text: str) -> str:
    sample = [line for line in text.splitlines()[:50] if line.strip()][:20]

    def rank(delimiter: str) -> tuple[bool, int]:
        widths = [len(row) for row in csv.reader(sample, delimiter=delimiter)]
        return bool(widths) and min(widths) == max(widths) > 1, max(widths, default=0)

    return max(_DELIMITERS, key=rank)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _label_position(first: list[str], label: str | None) -> int | None:
    """Index of the label column, by its name in the first row or by its number from 1."""
    names = [cell.strip() for cell in first]
    if label is None:
        return None
    if label.strip() in names and not _is_number(label):
        return names.index(label.strip())
    number = int(label) if label.strip().isdecimal() else 0
    return number - 1 if 1 <= number <= len(first) else None


def _header(first: list[str], path: Path) -> list[str]:
    names = [
        cell.strip() or number for cell, number in zip(first, _numbered(len(first)), strict=True)
    ]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UsageError(f"expected different column names in {path}; got {twice[0]!r} twice")
    return names


def _numbered(count: int) -> list[str]:
    return [f"column {i + 1}" for i in range(count)]


def _check_ragged(body: list[list[str]], where: list[int], width: int, path: Path) -> None:
    for row, line in zip(body, where, strict=True):
        if len(row) != width:
            raise UsageError(
                f"expected {width} cells in every row of {path}, as in its first; got {len(row)} "
                f"in line {line}"
            )


def _column(
    body: list[list[str]], where: list[int], names: list[str], index: int, path: Path
) -> list[float]:
    """One column as finite numbers; a `UsageError` names the first cell that is none."""
    values = []
    for row, line in zip(body, where, strict=True):
        text, place = row[index].strip(), f"line {line}, column {names[index]!r}, of {path}"
        if not text:
            raise UsageError(f"expected a number in {place}; got an empty cell; drop or fill it")
        if not _is_number(text):
            raise UsageError(
                f"expected a number in {place}; got {text!r}; leave the column out with "
                f"--label {index + 1}, or drop it from the file"
            )
        value = float(text)
        if not math.isfinite(value):
            raise UsageError(f"expected a finite number in {place}; got {text}; drop or fill it")
        values.append(value)
    return values
