"""Reading and writing trajectories: one file per format, one function for all of them."""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from dynamics.formats import csv, d4rl, minari, npz
from dynamics.formats.base import TrajectoryFormatError, naming, open_hdf5
from dynamics.trajectories import RawLog, Trajectory

__all__ = ["TrajectoryFormatError", "read_logs", "read_trajectories", "write_trajectories"]

PathLike = str | os.PathLike[str]
_READERS = {"minari": minari.read, "npz": npz.read, "csv": csv.read, "d4rl": d4rl.read}
_WRITERS = {"minari": minari.write, "npz": npz.write}


def read_trajectories(
    path: PathLike | Sequence[PathLike],
    *,
    format: str | None = None,
    repair: Sequence[Callable[[RawLog], RawLog]] = (),
    names: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> list[Trajectory]:
    """Reads trajectories from a file, a folder, a glob pattern, a Minari id, or a sequence of these.

    Nothing is dropped or mended unless asked for, and no file is changed.

    Args:
        path: what to read.
        format: "minari", "npz", "csv" or "d4rl"; found from the path and the first bytes by default.
        repair: functions that mend a raw log, applied in order, e.g. `[drop_duplicates, fill_gaps]`.
        names: column names by group (observations, controls, states), instead of those in the file.
        units: column units in the same form.
        **options: options of the format's reader: `dt=` for all of them, and those of `dynamics.formats.csv.read`,
            `npz.read`, `minari.read`, `d4rl.read`.

    Raises:
        TrajectoryFormatError: the file is malformed; the error names it, the place in it and the fix.
        FileNotFoundError: there is no such path.
    """
    if not isinstance(path, (str, os.PathLike)):
        single = {"format": format, "repair": repair, "names": names, "units": units, **options}
        return [trajectory for one in path for trajectory in read_trajectories(one, **single)]
    trajectories = []
    for index, log in enumerate(read_logs(path, format=format, names=names, units=units, **options)):
        with naming(*_origin(path, index, log.source), "audit(read_logs(...)) lists all that is wrong."):
            for function in repair:
                log = function(log)
            trajectories.append(log.trajectory())
    return trajectories


def _origin(path: PathLike, index: int, source: str) -> tuple[PathLike, str]:
    """The file that a log came from, one of many where the path is a folder or pattern, and the place in it."""
    file, _, place = source.partition(": ")
    if Path(file).exists() and (glob.has_magic(os.fspath(path)) or Path(path) in Path(file).parents):
        return file, place
    if source.startswith(os.fspath(path)):
        return path, source.removeprefix(os.fspath(path)).lstrip(": ")
    return path, f"trajectory {index} ({source})"


def read_logs(
    path: PathLike | Sequence[PathLike],
    *,
    format: str | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> list[RawLog]:
    """Like `read_trajectories`, but with values as they are in the file, NaN and repeated stamps included."""
    if not isinstance(path, (str, os.PathLike)):
        single = {"format": format, "names": names, "units": units, **options}
        return [log for one in path for log in read_logs(one, **single)]
    format = _detect(path) if format is None else format
    if format not in _READERS:
        raise ValueError(f"There is no reader for format {format!r}; known are {', '.join(_READERS)}.")
    _check_options(format, _READERS[format], options)
    logs = _READERS[format](path, **options)
    with naming(path, "", "Give one label per column."):
        return [log.replace(names=names or {}, units=units or {}) for log in logs]


def write_trajectories(
    path: PathLike, trajectories: Sequence[Trajectory], *, format: str | None = None, **options: Any
) -> None:
    """Writes trajectories as an .npz file or a Minari dataset; never over existing data unless asked.

    Args:
        path: file ending in .npz, or folder of a Minari dataset (its name ends with a version, e.g. cartpole-v0).
        trajectories: what to write.
        format: "minari" or "npz"; by default from the ending of the path.
        **options: `overwrite=True`, and those of `dynamics.formats.minari.write`.
    """
    suffix = Path(path).suffix
    format = {"": "minari", ".npz": "npz"}.get(suffix, suffix) if format is None else format
    if format not in _WRITERS:
        raise ValueError(f"There is no writer for format {format!r}; known are minari (a folder) and npz.")
    _check_options(format, _WRITERS[format], options)
    _WRITERS[format](path, trajectories, **options)


def _check_options(format: str, function: Callable, options: Mapping[str, Any]) -> None:
    known = [p.name for p in signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := set(options) - set(known):
        raise TypeError(f"Format {format!r} has no option {sorted(unknown)[0]!r}; it has {', '.join(known)}.")


def _detect(path: PathLike) -> str:
    """The format of a path, from what is there; the error lists what was tried."""
    if minari.data_folder(path) is not None:
        return "minari"
    if glob.has_magic(os.fspath(path)) and not Path(path).exists():
        return "csv"
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no file, folder or Minari dataset {os.fspath(path)!r}.")
    suffix = Path(path).suffix.lower()
    if suffix in (".csv", ".tsv", ".txt") or (Path(path).is_dir() and any(Path(path).glob("*.csv"))):
        return "csv"
    if suffix == ".npz":
        return "npz"
    if suffix in (".hdf5", ".h5"):
        with open_hdf5(path) as root:
            if "observations" in root:
                return "d4rl"
    tried = (
        "a Minari dataset (data/metadata.json), .npz, .csv/.tsv/.txt or a folder of *.csv, .hdf5 with 'observations'"
    )
    problem = f"is in no format that was recognized; tried: {tried}."
    raise TrajectoryFormatError(path, "", problem, f"Say which one it is: format= one of {', '.join(_READERS)}.")
