"""Text tables: one row per sample, columns chosen by name or by index.

    t,x,v,force           read_trajectories("run.csv", time="t", observations=["x", "v"], controls=["force"])
    0.00,0.0,0.0,1.0
    0.05,0.1,0.2,1.0      an `episode` column separates several trajectories in one file

Row k holds y_k (x_k, t_k) and the control and reward of the step that starts there. There is no step after the last row
of an episode, so control and reward of that row (often blank) are not part of the trajectory.

Logs that keep states, controls and times in files of their own are read with `files`: the path then names folders, each
of which is one trajectory, and the controls have one row less, or as many, where the last is left out as above.

A first line without any number is the header. Blank cells and "nan" are missing values, for `audit` to report and
`fill_gaps` to fill; any other text is an error. The end of a table says nothing about why the recording ended:
`truncated` is set.
"""

import csv
import glob
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.formats.base import TrajectoryFormatError, build_log
from dynamics.trajectories import FloatArray, RawLog

Column = str | int
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_MISSING = {"", "nan", "na", "n/a", "null", "none"}
_GROUPS = ("observations", "controls", "states", "rewards", "times")


def read(
    path: str | os.PathLike[str],
    *,
    observations: Sequence[Column] | None = None,
    controls: Sequence[Column] | None = None,
    states: Sequence[Column] | None = None,
    rewards: Column | None = None,
    time: Column | None = None,
    time_unit: str = "s",
    episode: Column | None = None,
    files: Mapping[str, str] | None = None,
    dt: float | None = None,
    delimiter: str = ",",
) -> list[RawLog]:
    """Reads tables, in the natural order of their names (run_2 before run_10).

    Args:
        path: a file, a folder (its ``*.csv`` files), or a glob pattern; with `files`, a folder or a glob pattern of folders.
        observations: columns, by name or index. Required, except with `files`, where all columns are the default.
        controls: likewise.
        states: likewise, optional.
        rewards: column of the rewards.
        time: column of the time stamps.
        time_unit: unit of the stamps: s, ms, us, ns.
        episode: column whose value is the same in all rows of an episode.
        files: file name in the folder for observations, controls and optionally states, rewards, times.
        dt: seconds per step, where there are no stamps.
        delimiter: what separates the cells.
    """
    if time_unit not in _SECONDS:
        raise ValueError(f"time_unit must be one of {', '.join(_SECONDS)}, got {time_unit!r}.")
    columns: dict[str, Sequence[Column] | None] = {
        "observations": observations,
        "controls": controls,
        "states": states,
        "rewards": None if rewards is None else [rewards],
        "times": None if time is None else [time],
    }
    chosen = {group: wanted for group, wanted in columns.items() if wanted is not None}
    for group, wanted in chosen.items():
        if isinstance(wanted, str):  # its letters would be taken for columns
            raise ValueError(f"{group} must be a sequence of columns, got {wanted!r}; write {group}=[{wanted!r}].")
    if files is not None:
        _check_files(files, chosen, episode)
        return [
            _read_folder(folder, files, chosen, delimiter, _SECONDS[time_unit], dt) for folder in _matches(path, "")
        ]
    matches = _matches(path, "*.csv")  # columns are no question where there are no files
    if observations is None or controls is None:
        raise ValueError("Say which columns are which: observations=[...], controls=[...], by header name or by index.")
    logs = []
    for file in matches:
        table = _table(file, delimiter)
        for place, part in [("", table)] if episode is None else table.split(episode):
            parts = {group: part.select(wanted) for group, wanted in chosen.items()}
            logs.append(_log(file, place, parts, _SECONDS[time_unit], dt))
    return logs


def _read_folder(
    folder: Path,
    files: Mapping[str, str],
    chosen: Mapping[str, Sequence[Column]],
    delimiter: str,
    seconds: float,
    dt: float | None,
) -> RawLog:
    for name in files.values():
        if not (folder / name).is_file():
            fix = "With files= the path names folders, each of which holds these files."
            raise TrajectoryFormatError(folder / name, "", "is not there.", fix)
    tables = {group: _table(folder / name, delimiter) for group, name in files.items()}
    parts = {group: table.select(chosen.get(group, range(table.width))) for group, table in tables.items()}
    return _log(folder, "", parts, seconds, dt)


def _matches(path: str | os.PathLike[str], pattern: str) -> list[Path]:
    """What `path` stands for, in natural order; a folder stands for its files of `pattern`, or for itself without."""
    text = os.fspath(path)
    if glob.has_magic(text) and not Path(path).exists():
        matches = [Path(match) for match in glob.glob(text)]
    elif Path(path).is_dir() and pattern:
        matches = list(Path(path).glob(pattern))
    else:
        return [Path(path)]
    if not matches:
        raise TrajectoryFormatError(path, "", f"holds nothing that matches {pattern or text!r}.", "Check the path.")
    return sorted(matches, key=lambda match: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(match))])


def _check_files(files: Mapping[str, str], chosen: Mapping[str, Sequence[Column]], episode: Column | None) -> None:
    if episode is not None:
        raise ValueError("episode= needs all columns in one table; with files= each folder is one trajectory.")
    if unknown := set(files) - set(_GROUPS):
        raise ValueError(f"files has the unknown key {sorted(unknown)[0]!r}; known are {', '.join(_GROUPS)}.")
    if missing := ({"observations", "controls"} | set(chosen)) - set(files):
        raise ValueError(f"files must name a file for {sorted(missing)[0]!r}.")


@dataclass(frozen=True)
class _Table:
    """The cells of a file as text, with the line each row came from."""

    file: Path
    header: tuple[str, ...] | None
    rows: list[list[str]]
    lines: list[int]

    @property
    def width(self) -> int:
        return len(self.rows[0])

    def index(self, column: Column) -> int:
        """Position of a column; raises where there is none of that name or number."""
        fix = f"Columns are {', '.join(self.header)}." if self.header else f"It has columns 0 to {self.width - 1}."
        if self.width == 1:
            fix += " If there should be more than one, say what separates them: delimiter=."
        if isinstance(column, str) and self.header is None:
            problem = f"has no header, so there is no column {column!r}."
            raise TrajectoryFormatError(self.file, "", problem, f"Give columns by index. {fix}")
        if isinstance(column, str) and self.header is not None and self.header.count(column) != 1:
            problem = f"has {self.header.count(column) or 'no'} columns named {column!r}."
            raise TrajectoryFormatError(self.file, f"line {self.lines[0] - 1}", problem, fix)
        if not isinstance(column, str) and not 0 <= column < self.width:
            raise TrajectoryFormatError(self.file, "", f"has no column {column}.", fix)
        return self.header.index(column) if isinstance(column, str) and self.header else int(column)

    def name(self, index: int) -> str:
        return self.header[index] if self.header else str(index)

    def select(self, columns: Sequence[Column]) -> "_Part":
        """The numbers of some columns; missing cells are NaN."""
        indices = [self.index(column) for column in columns]
        values = np.array([[self._number(row, i) for i in indices] for row in range(len(self.rows))])
        return _Part(self.file, values, [self.name(i) for i in indices] if self.header else [])

    def _number(self, row: int, index: int) -> float:
        cell = self.rows[row][index].strip()
        if cell.lower() in _MISSING:
            return math.nan
        try:
            return float(cell)
        except ValueError as error:
            place = f"line {self.lines[row]}, column {self.name(index)}"
            fix = "Correct the cell, or leave it blank and repair=[fill_gaps]."
            raise TrajectoryFormatError(self.file, place, f"{cell!r} is not a number.", fix) from error

    def split(self, episode: Column) -> list[tuple[str, "_Table"]]:
        """One table per run of equal values in the episode column."""
        index = self.index(episode)
        labels = [row[index].strip() for row in self.rows]
        starts = [k for k in range(len(labels)) if k == 0 or labels[k] != labels[k - 1]]
        seen: dict[str, int] = {}
        for start in starts:
            if labels[start] in seen:
                problem = f"episode {labels[start]!r} comes a second time; it began on line {seen[labels[start]]}."
                fix = "Rows of one episode must stand together, and each needs a value of its own."
                raise TrajectoryFormatError(self.file, f"line {self.lines[start]}", problem, fix)
            seen[labels[start]] = self.lines[start]
        stops = [*starts[1:], len(labels)]
        return [
            (f"episode {labels[a]}", _Table(self.file, self.header, self.rows[a:b], self.lines[a:b]))
            for a, b in zip(starts, stops, strict=True)
        ]


@dataclass(frozen=True)
class _Part:
    """Some columns of a table as numbers, with their names where there is a header."""

    file: Path
    values: FloatArray  # (rows, columns)
    names: list[str]


def _table(file: Path, delimiter: str) -> _Table:
    rows, lines = [], []
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(reader.line_num)
    except IsADirectoryError as error:
        fix = "Name its tables with files=, or match the files themselves."
        raise TrajectoryFormatError(file, "", "is a folder.", fix) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrajectoryFormatError(
            file, f"line {len(lines) + 1}", f"is not text ({error}).", "Save it as UTF-8."
        ) from error
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(rows[0]):
            problem = f"has {len(row)} cells, line {lines[0]} has {len(rows[0])}."
            raise TrajectoryFormatError(file, f"line {line}", problem, "Complete the line, or remove it.")
    header = None
    if rows and not any(map(_is_number, rows[0])) and not all(cell.strip().lower() in _MISSING for cell in rows[0]):
        header = tuple(cell.strip() for cell in rows.pop(0))
        lines.pop(0)
    if not rows:
        raise TrajectoryFormatError(file, "", "holds no rows of numbers.", "Record at least one sample.")
    return _Table(file, header, rows, lines)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _log(file: Path, place: str, parts: Mapping[str, _Part], seconds: float, dt: float | None) -> RawLog:
    """One trajectory from the columns of its groups."""
    arrays: dict[str, Any] = {group: part.values for group, part in parts.items()}
    for group in {"controls", "rewards"} & set(arrays):
        if len(arrays[group]) == len(arrays["observations"]):
            arrays[group] = arrays[group][:-1]  # what starts at the last row has no end
    for group in {"rewards", "times"} & set(arrays):
        if arrays[group].shape[1] != 1:
            problem = f"{group} needs one column, got {arrays[group].shape[1]}."
            raise TrajectoryFormatError(parts[group].file, place, problem, "Choose one.")
        arrays[group] = arrays[group][:, 0]
    times = arrays.pop("times", None)
    return build_log(
        file,
        place,
        **arrays,
        times=None if times is None else seconds * times,
        dt=dt,
        truncated=True,
        names={group: parts[group].names for group in {"observations", "controls", "states"} & set(parts)},
        source=f"{file}{': ' + place if place else ''}",
    )
