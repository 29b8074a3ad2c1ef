"""What commands that read logs share: options that say how to read and how to prepare them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from dynamics import (
    RawLog,
    Trajectory,
    convert_units,
    drop_duplicates,
    estimate_velocities,
    fill_gaps,
    read_logs,
    read_trajectories,
    resample,
    shift_latency,
)


@dataclass(frozen=True)
class Reading:
    """How the logs are read; Minari, npz and HDF5 files say most of it themselves, CSV files have to be told."""

    format: Literal["minari", "npz", "csv", "d4rl"] | None = None
    """Format, where the path does not say it."""
    dt: float | None = None
    """Duration of a step [s], where the files hold no times."""
    observations: tuple[str, ...] = ()
    """Columns that the sensors gave, by name or by number from 0 (CSV)."""
    controls: tuple[str, ...] = ()
    """Columns that were commanded (CSV)."""
    states: tuple[str, ...] = ()
    """Columns, or arrays of the file, that make up the full state."""
    rewards: str | None = None
    """Column of the rewards (CSV)."""
    time: str | None = None
    """Column of the time stamps (CSV)."""
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of the time stamps (CSV)."""
    episode: str | None = None
    """Column whose value is the same in all rows of an episode (CSV)."""
    delimiter: str | None = None
    """What separates the cells (CSV); a comma by default."""
    files: tuple[str, ...] = ()
    """Where each run is a folder of CSV files: observations=FILE controls=FILE times=FILE."""
    keys: tuple[str, ...] = ()
    """Names of the arrays, where they differ (npz): observations=NAME controls=NAME."""
    last_step: Literal["drop"] | None = None
    """Drop the last step of each episode, whose successor is not in the file (D4RL)."""
    observation_names: tuple[str, ...] = ()
    """Names of the observations instead of those in the files."""
    control_names: tuple[str, ...] = ()
    """Names of the controls instead of those in the files."""
    observation_units: tuple[str, ...] = ()
    """Units of the observations, such as m, rad, deg, m/s."""
    control_units: tuple[str, ...] = ()
    """Units of the controls."""

    def raw(self, paths: Sequence[str]) -> list[RawLog]:
        """The logs as they are in the files."""
        return read_logs(in_natural_order(paths), **self._keywords())

    def trajectories(self, paths: Sequence[str], repair: Sequence[Any]) -> list[Trajectory]:
        """The logs, checked, mended by functions if asked for."""
        return read_trajectories(in_natural_order(paths), repair=repair, **self._keywords())

    def _keywords(self) -> dict[str, Any]:
        """Keywords of the readers for what was given."""
        given: dict[str, Any] = {
            "format": self.format,
            "dt": self.dt,
            "observations": [_column(name) for name in self.observations],
            "controls": [_column(name) for name in self.controls],
            "states": [_column(name) for name in self.states],
            "rewards": None if self.rewards is None else _column(self.rewards),
            "time": None if self.time is None else _column(self.time),
            "time_unit": None if self.time_unit == "s" else self.time_unit,
            "episode": None if self.episode is None else _column(self.episode),
            "delimiter": self.delimiter,
            "files": _pairs("--files", self.files),
            "keys": _pairs("--keys", self.keys),
            "last_step": self.last_step,
            "names": _given(observations=self.observation_names, controls=self.control_names),
            "units": _given(observations=self.observation_units, controls=self.control_units),
        }
        return {name: value for name, value in given.items() if value is not None and value not in ([], {})}


@dataclass(frozen=True)
class Preparation:
    """What is done to the logs before a model is fitted, in this order."""

    repair: tuple[Literal["drop-duplicates", "fill-gaps"], ...] = ()
    """Mend rows with the same time stamp, missing values, or both."""
    angles: tuple[str, ...] = ()
    """Columns that are angles; those in degrees are converted to radians."""
    latency: float = 0.0
    """Time from a command to its effect [s]; controls are moved to where they act."""
    resample: float | None = None
    """Uniform step to resample to [s]."""
    velocities: tuple[str, ...] = ()
    """Columns whose velocity nobody measured, to be differentiated."""
    segments: int | None = None
    """Steps of the pieces that trajectories are cut into, so that whole ones can be held out."""

    def repairs(self) -> list[Any]:
        """Functions for ``read_trajectories(repair=)``."""
        functions = {"drop-duplicates": drop_duplicates, "fill-gaps": partial(fill_gaps, angles=self.angles)}
        return [functions[name] for name in self.repair]

    def apply(self, logs: Sequence[Trajectory]) -> list[Trajectory]:
        """The logs, ready to be learned from."""
        prepared = [self._prepared(log) for log in logs]
        if self.segments is None:
            return prepared
        return [piece for log in prepared for piece in log.segments(self.segments)]

    def _prepared(self, log: Trajectory) -> Trajectory:
        units = zip(log.names.observations, log.units.observations, strict=True)
        log = convert_units(log, {name: "rad" for name, unit in units if name in self.angles and unit == "deg"})
        if self.latency:
            log = shift_latency(log, self.latency)
        angles = [name for name in self.angles if name in (*log.names.observations, *log.names.states)]
        if self.resample is not None:
            log = resample(log, self.resample, angles=angles)
        return estimate_velocities(log, self.velocities, angles=[name for name in self.velocities if name in angles])


def in_natural_order(paths: Sequence[str]) -> list[str]:
    """Paths with run_2 before run_10, as readers sort a pattern: quoted or not, it holds the same trajectories out."""
    return sorted(
        paths, key=lambda path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]
    )


def _column(name: str) -> str | int:
    """Columns of files without a header have numbers."""
    return int(name) if name.isdecimal() else name


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    wrong = [text for text in texts if not all(text.partition("="))]
    if wrong:
        raise ValueError(f"{option} takes NAME=VALUE, such as observations=trajectory.csv, got {wrong[0]!r}")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}


def _given(**labels: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {group: texts for group, texts in labels.items() if texts}
