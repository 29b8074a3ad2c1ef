"""Scalars over steps as a CSV file that grows by rows, and by columns when new names come.

A row is one short write, so a kill leaves whole rows and at most one torn line at the end, which is not counted and falls
off at the next :func:`cut`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mbrl.runs.files import replace_file


def append(path: Path, scalars: Mapping[str, Any]) -> None:
    """Add a row; values of columns that it does not name stay empty."""
    row = {name: _number(name, value) for name, value in scalars.items()}
    columns = _columns(path)
    new = [_checked(name) for name in row if name not in columns]
    if new:
        columns = [*columns, *new]
        _rewrite(path, [",".join(columns), *(line + "," * len(new) for line in _lines(path)[1:])])
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(",".join(row.get(name, "") for name in columns) + "\n")


def count(path: Path) -> int:
    """Number of whole rows."""
    return max(len(_lines(path)) - 1, 0)


def read(path: Path) -> dict[str, np.ndarray]:
    """Every column as floats ``(rows,)``, empty cells as NaN; a torn last line is left out.

    Raises:
        ValueError: a line has another number of cells, or a cell is not a number; the message names the line.
    """
    lines = [line.split(",") for line in _lines(path)]
    if not lines:
        return {}
    header, rows = lines[0], np.full((len(lines) - 1, len(lines[0])), math.nan)
    if "step" not in header or len(set(header)) != len(header):
        raise ValueError(
            f"{path.name}, line 1: expected distinct columns with step among them, got {','.join(header)!r}"
        )
    for number, (row, cells) in enumerate(zip(rows, lines[1:], strict=True), start=2):
        if len(cells) != len(header):
            raise ValueError(f"{path.name}, line {number}: {len(cells)} cells, expected {len(header)}")
        for column, cell in enumerate(cells):
            try:
                row[column] = float(cell) if cell else math.nan
            except ValueError:
                raise ValueError(f"{path.name}, line {number}: {cell!r} is not a number") from None
    return dict(zip(header, rows.T, strict=True))


def cut(path: Path, rows: int) -> None:
    """Keep the first rows; without any, no file."""
    if rows == 0:
        path.unlink(missing_ok=True)
    elif path.read_bytes() != (kept := "".join(line + "\n" for line in _lines(path)[: rows + 1])).encode():
        replace_file(path, lambda partial: partial.write_bytes(kept.encode()))


def _lines(path: Path) -> list[str]:
    """Header and whole rows."""
    if not path.exists():
        return []
    return path.read_bytes().decode().split("\n")[:-1]  # what follows the last line break is torn


def _columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return file.readline().rstrip("\n").split(",")


def _rewrite(path: Path, lines: list[str]) -> None:
    replace_file(path, lambda partial: partial.write_bytes("".join(line + "\n" for line in lines).encode()))


def _checked(name: str) -> str:
    if not name or any(character in name for character in ',"\r\n'):
        raise ValueError(f"the name {name!r} cannot head a column; leave out commas, quotes and line breaks")
    return name


def _number(name: str, value: Any) -> str:
    """Shortest text that reads back as the same number."""
    if isinstance(value, Tensor | np.ndarray | np.generic) and math.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool):
        value = int(value)
    if not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return repr(value)
