"""Evaluations in a run folder: ``evaluations.csv``, a row for each."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mbrl.evaluation import Evaluation
from mbrl.runs.files import replace_file

FILE = "evaluations.csv"
COLUMNS = ("time", "task", "actor", "seed", "episodes", "iqm", "low", "high", "success_rate", "returns")


def add_evaluation(folder: str | Path, evaluation: Evaluation, *, task: str, actor: str, seed: int) -> Path:
    """Add a row to ``evaluations.csv`` of a run, finished or not; the file is replaced whole or not at all.

    Args:
        folder: the run folder.
        evaluation: what was found; its returns go in one cell, separated by spaces.
        task: name of the task.
        actor: what acted, in words.
        seed: of the evaluation.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: the folder is no run.
    """
    path = Path(folder) / FILE
    if not (path.parent / "config.json").exists():
        raise FileNotFoundError(f"{folder} is no run (there is no config.json); start one with mbrl.open_run")
    low, high = evaluation.interval
    rate = "" if evaluation.success_rate is None else repr(evaluation.success_rate)
    returns = " ".join(repr(float(value)) for value in evaluation.returns)
    time = datetime.now(UTC).isoformat(timespec="seconds")
    row = (time, task, actor, str(seed), str(len(evaluation.returns)), *map(repr, (evaluation.iqm, low, high)), rate)
    before = path.read_text(encoding="utf-8") if path.exists() else _line(COLUMNS)
    replace_file(path, lambda partial: partial.write_text(before + _line([*row, returns]), encoding="utf-8"))
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
        row = dict(zip(COLUMNS, line, strict=True))
        numbers = [row[name] for name in ("iqm", "low", "high")] + row["returns"].split()
        for cell in numbers + ([row["success_rate"]] if row["success_rate"] else []):
            _checked_number(cell, f"{path.name}, line {number}")
        rows.append(row)
    return rows


def _checked_number(cell: str, place: str) -> None:
    try:
        float(cell)
    except ValueError:
        raise ValueError(f"{place}: {cell!r} is not a number") from None


def _line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
