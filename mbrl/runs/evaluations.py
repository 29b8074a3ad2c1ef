"""Evaluations in a run folder: ``evaluations.csv``, a row for each."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mbrl.evaluation import Evaluation
from mbrl.runs.files import replace_file
from mbrl.runs.records import json_values

FILE = "evaluations.csv"
COLUMNS = ("time", "task", "actor", "settings", "seed", "episodes", "iqm", "low", "high", "success_rate", "returns")


def add_evaluation(
    folder: str | Path,
    evaluation: Evaluation,
    *,
    task: str,
    actor: str,
    seed: int,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Add a row to ``evaluations.csv`` of a run, finished or not; the file is replaced whole or not at all.

    Args:
        folder: the run folder.
        evaluation: what was found; its returns go in one cell, separated by spaces.
        task: name of the task.
        actor: what acted, in words.
        seed: of the evaluation.
        settings: what else tells actors apart, such as the planner and its horizon: a mapping that :func:`mbrl.open_run` would
            take as a config. A report keeps evaluations apart that differ in it.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: the folder is no run.
        TypeError: the settings hold something that has no JSON value.
        ValueError: the file that is there is no such table.
    """
    path = Path(folder) / FILE
    if not (path.parent / "config.json").exists():
        raise FileNotFoundError(f"{folder} is no run (there is no config.json); start one with mbrl.open_run")
    read_evaluations(path)  # a row is not added to a table of other columns
    low, high = evaluation.interval
    described = json.dumps(json_values("settings", settings or {}), sort_keys=True, allow_nan=False)
    rate = "" if evaluation.success_rate is None else repr(evaluation.success_rate)
    returns = " ".join(repr(float(value)) for value in evaluation.returns)
    time = datetime.now(UTC).isoformat(timespec="seconds")
    row = (time, task, actor, described, str(seed), str(len(evaluation.returns)))
    row += (*map(repr, (evaluation.iqm, low, high)), rate, returns)
    before = path.read_text(encoding="utf-8") if path.exists() else _line(COLUMNS)
    replace_file(path, lambda partial: partial.write_text(before + _line(row), encoding="utf-8"))
    return path


def read_evaluations(path: Path) -> list[dict[str, str]]:
    """The rows of a file, as texts; none where there is no file.

    Raises:
        ValueError: the file is not such a table; the message names the line.
    """
    if not path.exists():
        return []
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))
    except csv.Error as error:
        raise ValueError(f"{path.name} is no table ({error})") from error
    if tuple(lines[:1] and lines[0]) != COLUMNS:
        raise ValueError(f"{path.name}, line 1: expected the columns {', '.join(COLUMNS)}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(COLUMNS):
            raise ValueError(f"{path.name}, line {number}: {len(line)} cells, expected {len(COLUMNS)}")
        row: dict[str, str] = dict(zip(COLUMNS, line, strict=True))
        _check_row(row, f"{path.name}, line {number}")
        rows.append(row)
    return rows


def _check_row(row: Mapping[str, str], place: str) -> None:
    returns = row["returns"].split()
    if not returns or row["episodes"] != str(len(returns)):
        raise ValueError(f"{place}: {len(returns)} returns of {row['episodes']!r} episodes")
    for cell in [row[name] for name in ("iqm", "low", "high")] + returns + row["success_rate"].split():
        _checked_number(cell, place)
    try:
        settings = json.loads(row["settings"])
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{place}: the settings are no JSON object, got {row['settings']!r}")


def _checked_number(cell: str, place: str) -> None:
    try:
        float(cell)
    except ValueError:
        raise ValueError(f"{place}: {cell!r} is not a number") from None


def _line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
