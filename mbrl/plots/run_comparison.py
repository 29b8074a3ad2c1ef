"""One or many runs on a page: how they learned, how they ended, what they were asked for, and what they left behind."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbrl.evaluation import bootstrap_interval, interquartile_mean
from mbrl.plots.learning_curves import MOST_METRICS, curve, logged_metrics, plot_learning_curves
from mbrl.plots.report import Picture, Section, Table, Text, Video
from mbrl.runs import RunGroup, RunRecord, group_runs
from mbrl.runs.reading import differing
from mbrl.runs.records import leaves

LARGEST_FILE = 20_000_000
"""Bytes of a picture or video beyond which a page would be no pleasure to open."""

LONGEST_VALUE = 100

SIGNATURES = {".png": (0, b"\x89PNG\r\n\x1a\n"), ".mp4": (4, b"ftyp")}

PNG_END = b"\0\0\0\0IEND\xaeB`\x82"

Media = list[tuple[RunRecord, Path]]


def run_sections(records: Sequence[RunRecord]) -> tuple[list[Section], list[str]]:
    """What a page says about runs, for :func:`html_report`.

    Runs whose configs differ in their seeds only are taken together. Unfinished runs are shown as far as they came.

    Args:
        records: from :func:`mbrl.read_run`.

    Returns:
        The sections, and a line for every file that had to be left out.

    Raises:
        ValueError: there are no runs.
    """
    if not records:
        raise ValueError("no runs to report on: the collection is empty")
    groups = group_runs(records)
    media, unusable = _media(records)
    problems = [problem for record in records for problem in record.problems] + unusable
    sections: list[Section] = [_overview(groups)]
    if problems:
        sections.append(Text("\n".join(problems), heading="Left out"))
    sections += [*_curves(groups), *_results(groups), *_evaluations(groups), *_settings(groups)]
    sections += [*_shown(media), *_systems(records)]
    return sections, problems


def _overview(groups: Sequence[RunGroup]) -> Table:
    rows = []
    for group in groups:
        for run in group.runs:
            steps = run.metrics.get("step", np.empty(0))
            last = f"{steps[-1]:.10g}" if len(steps) else ""
            status = "finished" if run.finished else "not finished"
            rows.append([run.name, group.label, run.seed, status, last, str(run.folder)])
    header = ["run", "settings", "seed", "status", "last step", "folder"]
    count = f"{len(rows)} run{'s' if len(rows) > 1 else ''}"
    if len(groups) > 1:
        count += f" of {len(groups)} different settings"
    return Table(header, rows, f"{count}. Runs of the same settings differ in their seeds only.")


def _curves(groups: Sequence[RunGroup]) -> Iterator[Section]:
    metrics = logged_metrics(groups)
    if not metrics:
        yield Text("Nothing has been logged in metrics.csv.", heading="Learning curves")
        return
    caption = "Scalars logged in metrics.csv over steps."
    if len(metrics) > MOST_METRICS:
        caption += f" The first {MOST_METRICS} of {len(metrics)}."
    if any(len(group.runs) > 1 for group in groups):
        caption += " Thin: each seed. Thick: interquartile mean over seeds, as far as all go; band: its 95 % bootstrap interval."
    yield Picture(plot_learning_curves(groups), caption, "Learning curves")
    rows = []
    for metric in metrics:
        last = [[values[-1] for run in group.runs if len(values := curve(run, metric)[1])] for group in groups]
        rows.append([metric, *(_aggregate(values) for values in last)])
    yield Table(["last value of", *(group.label for group in groups)], rows, _aggregation(groups))


def _results(groups: Sequence[RunGroup]) -> Iterator[Section]:
    """What the summaries say: a row for each run, and of several seeds a column for each group."""
    summaries = {run.folder: _scalars(run.summary or {}) for group in groups for run in group.runs}
    names = sorted({name for scalars in summaries.values() for name in scalars}, key=_natural)
    if not names:
        return
    finished = [run for group in groups for run in group.runs if run.finished]
    rows = [[run.name, *(_text(summaries[run.folder].get(name)) for name in names)] for run in finished]
    yield Table(["run", *names], rows, "Results in summary.json of the finished runs.", "Results")
    if any(len(group.runs) > 1 for group in groups):
        found = [[summaries[run.folder] for run in group.runs if run.finished] for group in groups]
        rows = [
            [name, *(_aggregate([one[name] for one in column if name in one]) for column in found)] for name in names
        ]
        header = ["result", *(f"{group.label} ({len(column)})" for group, column in zip(groups, found, strict=True))]
        yield Table(header, rows, f"{_aggregation(groups)} In brackets in the header: finished runs.")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts error_k5 before error_k10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _evaluations(groups: Sequence[RunGroup]) -> Iterator[Section]:
    """Returns of all seeds with the same task, actor and settings together; an evaluation that was repeated counts once."""
    words, rows = _actors_in_words([row for group in groups for run in group.runs for row in run.evaluations]), []
    for group in groups:
        found: dict[tuple[str, str, str], dict[tuple[Path, str], dict[str, str]]] = {}
        for run in group.runs:
            for row in run.evaluations:  # of the same seed the latest
                found.setdefault(_acting(row), {})[run.folder, row["seed"]] = row
        for acting, entries in found.items():
            returns = np.array([float(cell) for row in entries.values() for cell in row["returns"].split()])
            rated = [row for row in entries.values() if row["success_rate"]]
            rates, weights = [float(row["success_rate"]) for row in rated], [int(row["episodes"]) for row in rated]
            rate = f"{100 * np.average(rates, weights=weights):.0f} %" if rates else ""
            cells = [group.label, acting[0], words[acting], str(len(returns))]
            rows.append([*cells, *_mean_and_interval(returns), rate])
    if rows:
        header = ["settings", "task", "actor", "episodes", "return (IQM)", "95 % interval", "success"]
        caption = "Interquartile mean of the returns of all episodes, with its bootstrap interval."
        yield Table(header, rows, caption, "Evaluations")


def _acting(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row["task"], row["actor"], row["settings"]


def _actors_in_words(evaluations: Sequence[Mapping[str, str]]) -> dict[tuple[str, str, str], str]:
    """Actors with those of their settings that tell them apart: ``ICEM (horizon 5)`` beside ``ICEM (horizon 50)``."""
    actings = dict.fromkeys(map(_acting, evaluations))
    settings = {acting: dict(leaves(json.loads(acting[2]))) for acting in actings}
    words = {}
    for acting in actings:
        alike = [settings[other] for other in actings if other[:2] == acting[:2]]
        keys = [
            key for key in dict.fromkeys(key for one in alike for key in one) if len({o.get(key) for o in alike}) > 1
        ]
        said = ", ".join(f"{key.removeprefix('planner.')} {settings[acting].get(key, 'none')}" for key in keys)
        words[acting] = acting[1] + (f" ({_short(said)})" if said else "")
    return words


def _settings(groups: Sequence[RunGroup]) -> Iterator[Section]:
    keys = [key for key in differing(groups) if not _says_nothing(key, *(group.settings.get(key) for group in groups))]
    if keys:
        rows = [[key, *(_short(group.settings.get(key, "")) for group in groups)] for key in keys]
        yield Table(["setting", *(group.label for group in groups)], rows, "What differs in config.json.", "Settings")
    else:
        rows = [[key, _short(v)] for key, v in groups[0].settings.items() if not _says_nothing(key, v)]
        yield Table(["setting", "value"], rows, "config.json, without seeds.", "Settings")


def _says_nothing(key: str, *values: str | None) -> bool:
    """Options that were not given in any run, and the class of the options."""
    return key == "class" or all(value in (None, "None", "''", "[]", "{}") for value in values)


def _short(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else f"{value[: LONGEST_VALUE - 1]}…"


def _shown(media: Media) -> Iterator[Section]:
    """Pictures and videos, run after run."""
    heading = ""
    for run, path in media:
        words = str(path.relative_to(run.folder).with_suffix("")).replace("_", " ")
        new, heading = heading != (now := f"Pictures of {run.name}"), now
        kind = Video if path.suffix == ".mp4" else Picture
        yield kind(path, f"{run.name}: {words}", heading if new else "")


def _systems(records: Sequence[RunRecord]) -> Iterator[Section]:
    rows = []
    for record in records:
        for start in record.starts[-1:]:
            versions = start.get("versions")
            torch = versions.get("torch") if isinstance(versions, Mapping) else None
            gpus = ", ".join(map(str, gpus if isinstance(gpus := start.get("gpus"), list) else ())) or "none"
            cells = [start.get("time"), start.get("platform"), start.get("cpus"), gpus, start.get("python"), torch]
            commit = str(start.get("commit") or "")
            cells += [commit[:10] + ("+" if commit[10:].endswith("+") else ""), start.get("command")]
            rows.append([record.name, str(len(record.starts)), *("" if cell is None else str(cell) for cell in cells)])
    if rows:
        header = ["run", "starts", "last start", "platform", "CPUs", "GPUs", "Python", "torch", "commit", "command"]
        yield Table(header, rows, "Where the runs ran, at their last start.", "System")


def _media(records: Sequence[RunRecord]) -> tuple[Media, list[str]]:
    """Pictures and videos that can be shown, and a line for every one that cannot."""
    media, problems = [], []
    for record in records:
        for path in sorted(p for p in record.folder.rglob("*") if p.suffix in SIGNATURES and p.is_file()):
            name, size = path.relative_to(record.folder), path.stat().st_size
            if not _is_whole(path):
                problems.append(f"{record.folder}: {name} is left out (it is not a whole {path.suffix[1:]} file)")
            elif size > LARGEST_FILE:
                problems.append(f"{record.folder}: {name} is left out (it has {size / 1e6:.0f} MB)")
            else:
                media.append((record, path))
    return media, problems


def _is_whole(path: Path) -> bool:
    """Whether a file begins, and a PNG also ends, as its format says; of the rest a browser makes the best."""
    start, signature = SIGNATURES[path.suffix]
    with path.open("rb") as file:
        if file.read(start + len(signature))[start:] != signature:
            return False
        file.seek(max(path.stat().st_size - len(PNG_END), 0))
        return path.suffix != ".png" or file.read() == PNG_END


def _scalars(summary: Mapping[str, Any]) -> dict[str, float | bool]:
    """The numbers and booleans at the top of a summary; JSON spells those that it lacks."""
    spelled = {name: float(v) if v in ("inf", "-inf", "nan") else v for name, v in summary.items() if not _nested(v)}
    return {name: value for name, value in spelled.items() if isinstance(value, bool | int | float)}


def _nested(value: Any) -> bool:
    return isinstance(value, list | dict)


def _text(value: float | bool | None) -> str:
    if value is None:
        return ""
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.4g}"


def _aggregation(groups: Sequence[RunGroup]) -> str:
    if all(len(group.runs) == 1 for group in groups):
        return ""
    return "Interquartile mean over seeds with its 95 % bootstrap interval."


def _aggregate(values: Sequence[float | bool]) -> str:
    """Seeds in one cell."""
    if not values:
        return ""
    if all(isinstance(value, bool) for value in values):
        return f"{sum(values)} of {len(values)}" if len(values) > 1 else _text(values[0])
    mean, interval = _mean_and_interval(np.array(values, dtype=float))
    return f"{mean} [{interval}]" if len(values) > 1 else mean


def _mean_and_interval(values: np.ndarray) -> tuple[str, str]:
    low, high = bootstrap_interval(values)
    return f"{interquartile_mean(values):.4g}", f"{low:.4g} to {high:.4g}"
