"""Run folders as they are found, finished or not, whole or damaged, alone or many at once."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mbrl.runs import metrics
from mbrl.runs.evaluations import FILE, read_evaluations
from mbrl.runs.records import leaves
from mbrl.runs.run import RunError

NO_SETTINGS = ("seed", "run")
"""Last parts of the keys of a config that do not make another experiment, only another draw of it in another place."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What lies in a run folder.

    Attributes:
        folder: the folder.
        config: ``config.json``; None where it cannot be read.
        metrics: columns of ``metrics.csv``, ``step`` among them, ``(rows,)`` each with NaN where nothing was logged.
        summary: ``summary.json``, or None if the run is not finished.
        evaluations: rows of ``evaluations.csv``, see :func:`mbrl.add_evaluation`.
        legend: ``legend.json``, how a training's numbers are to be read; empty where there is none.
        starts: records of ``system.json``, the last start last.
        problems: a line for every file that cannot be read and is left out.
    """

    folder: Path
    config: dict[str, Any] | None
    metrics: dict[str, np.ndarray]
    summary: dict[str, Any] | None
    evaluations: list[dict[str, str]]
    legend: dict[str, Any]
    starts: list[dict[str, Any]]
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def finished(self) -> bool:
        """Whether the run has ended by itself."""
        return self.summary is not None

    @property
    def seed(self) -> str:
        """The seeds of the config in words, empty without any."""
        return ", ".join(value for key, value in leaves(self.config) if _last(key) == "seed")


@dataclass(frozen=True, eq=False)
class RunGroup:
    """Runs that differ in nothing but their seeds.

    Attributes:
        label: what distinguishes it from the other groups, short.
        settings: dotted keys of the config and their values, without seeds and places.
        runs: the runs.
    """

    label: str
    settings: dict[str, str]
    runs: tuple[RunRecord, ...]


def find_runs(path: str | Path) -> list[Path]:
    """The run folder at a path, or all run folders directly below it, by name.

    Raises:
        RunError: there is none.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        return [path]
    found = sorted(file.parent for file in path.glob("*/config.json")) if path.is_dir() else []
    if not found:
        what = "there is no config.json in it or one level below" if path.is_dir() else "there is no such folder"
        raise RunError(f"{path} is no run folder: {what}")
    return found


def read_run(path: str | Path) -> RunRecord:
    """Read a run folder; what cannot be read is left out and named in ``problems``.

    Raises:
        RunError: there is no run.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder} is no run folder: there is no config.json in it")
    problems: list[str] = []

    def attempt(name: str, read: Callable[[Path], T], otherwise: T) -> T:
        try:
            return read(folder / name) if (folder / name).exists() else otherwise
        except (OSError, ValueError) as error:
            reason = str(error).removeprefix(f"{name}, ")
            problems.append(f"{folder}: {name} is left out ({' '.join(reason.split())})")
            return otherwise

    return RunRecord(
        folder=folder,
        config=attempt("config.json", _json_object, None),
        metrics=attempt("metrics.csv", metrics.read, {}),
        summary=attempt("summary.json", _json_object, {} if (folder / "summary.json").exists() else None),
        evaluations=attempt(FILE, read_evaluations, []),
        legend=attempt("legend.json", _json_object, {}),
        starts=attempt("system.json", lambda file: _starts(_json_object(file)), []),
        problems=tuple(problems),
    )


def group_runs(records: Sequence[RunRecord]) -> list[RunGroup]:
    """Groups of runs whose configs differ in their seeds at most, in order of first appearance."""
    groups: dict[tuple[tuple[str, str], ...], list[RunRecord]] = {}
    for record in records:
        config = (
            {"folder": str(record.folder)} if record.config is None else record.config
        )  # unknown, so equal to no other
        settings = tuple((key, value) for key, value in leaves(config) if _last(key) not in NO_SETTINGS)
        groups.setdefault(settings, []).append(record)
    labels = _labels([(dict(settings), runs) for settings, runs in groups.items()])
    return [
        RunGroup(label, dict(settings), tuple(runs))
        for label, (settings, runs) in zip(labels, groups.items(), strict=True)
    ]


def differing(groups: Sequence[RunGroup]) -> list[str]:
    """Keys of settings that are not the same in all groups."""
    return _differing([group.settings for group in groups])


def _differing(settings: Sequence[dict[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({one.get(key) for one in settings}) > 1]


def _labels(groups: Sequence[tuple[dict[str, str], list[RunRecord]]]) -> list[str]:
    """The settings that differ where they are few, otherwise what the folders are called; all distinct."""
    keys = _differing([settings for settings, _ in groups])
    labels = [_common_name([run.name for run in runs]) for _, runs in groups]
    if 1 <= len(keys) <= 3:
        short = {key: _last(key) for key in keys}
        short = short if len(set(short.values())) == len(keys) else {key: key for key in keys}
        said = [", ".join(f"{short[key]} {_bare(settings.get(key, 'none'))}" for key in keys) for settings, _ in groups]
        labels = said if max(map(len, said)) <= 60 else labels
    return labels if len(set(labels)) == len(labels) else [str(runs[0].folder) for _, runs in groups]


def _common_name(names: Sequence[str]) -> str:
    """What the names begin with, ``ensemble`` of ``ensemble-0`` and ``ensemble-1``, if that says something."""
    if len(names) == 1:
        return names[0]
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    prefix = "".join(letters[0] for letters in alike).rstrip("0123456789").rstrip("-_. ")
    return prefix if len(prefix) > 2 else f"{names[0]} and {len(names) - 1} more"


def _bare(value: str) -> str:
    return value.strip("'")


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _json_object(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, expected an object")
    return content


def _starts(system: dict[str, Any]) -> list[dict[str, Any]]:
    starts = system.get("starts")
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise ValueError("it holds no list of starts")
    return starts
