"""NumPy archives: the fields of `Trajectory` as arrays.

`write` stores trajectory i under `trajectory_i/<field>`, with names, units and source as JSON in `trajectory_i/labels`.
`read` takes such an archive, or a plain one with one trajectory, whose arrays may have any names
(`keys={"observations": "obs", "controls": "act"}`) and which may hold a scalar `dt` [s] in the place of times. Nothing
is pickled.
"""

import dataclasses
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.formats.base import TrajectoryFormatError, build_log, naming
from dynamics.trajectories import RawLog, Trajectory

_FIELDS = ("observations", "controls", "states", "rewards", "times", "dt", "terminated", "truncated")


def read(
    path: str | os.PathLike[str], *, keys: Mapping[str, str] | None = None, dt: float | None = None
) -> list[RawLog]:
    """Reads every trajectory of an archive.

    Args:
        path: the .npz file.
        keys: for a plain archive, field of `Trajectory` -> name of the array, where they differ.
        dt: seconds per step, for an archive without times.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        problem = f"is not an .npz archive of plain arrays, or it is truncated ({error})."
        raise TrajectoryFormatError(path, "", problem, "Copy it again, or save it with numpy.savez.") from error
    if not arrays:
        raise TrajectoryFormatError(path, "", "holds no arrays.", "Save observations, controls and times in it.")
    if not all("/" in name for name in arrays):
        return [_log(path, "", arrays, dict(keys or {}), dt)]
    prefixes = sorted({name.split("/")[0] for name in arrays}, key=lambda prefix: (len(prefix), prefix))
    episodes = {p: {n[len(p) + 1 :]: a for n, a in arrays.items() if n.startswith(p + "/")} for p in prefixes}
    return [_log(path, prefix, episode, dict(keys or {}), dt) for prefix, episode in episodes.items()]


def _log(path: str | os.PathLike[str], prefix: str, arrays: dict, keys: dict[str, str], dt: float | None) -> RawLog:
    if unknown := set(keys) - set(_FIELDS):
        raise ValueError(f"keys has the unknown field {sorted(unknown)[0]!r}; known are {', '.join(_FIELDS)}.")
    fields = {}
    for field in _FIELDS:
        name = keys.get(field, field)
        if name in arrays:
            fields[field] = arrays[name] if arrays[name].ndim else arrays[name].item()
        elif field in keys or field in ("observations", "controls"):
            fix = f"Say which one it is: keys={{{field!r}: ...}}; there are {', '.join(sorted(arrays))}."
            raise TrajectoryFormatError(path, prefix, f"there is no array {name!r}.", fix)
    labels: dict[str, Any] = {"source": f"{os.fspath(path)}{':' + prefix if prefix else ''}"}
    if "labels" in arrays:
        with naming(path, f"{prefix}/labels", "Write the file again, or remove the array."):
            labels.update(json.loads(str(arrays["labels"])))
    fields = {"times": None, **fields, "dt": fields.get("dt") if dt is None else dt}
    return build_log(path, prefix, **fields, **labels)


def write(path: str | os.PathLike[str], trajectories: Sequence[Trajectory], *, overwrite: bool = False) -> None:
    """Writes trajectories into one compressed archive; equal trajectories give equal bytes.

    Args:
        path: the .npz file.
        trajectories: any trajectories; they need not be alike.
        overwrite: whether an existing file may be replaced.
    """
    path = Path(path)
    if not len(trajectories):
        raise ValueError("No trajectories to write: the collection is empty.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another path, or pass overwrite=True.")
    arrays = {}
    for index, trajectory in enumerate(trajectories):
        labels = {
            "names": dataclasses.asdict(trajectory.names),
            "units": dataclasses.asdict(trajectory.units),
            "source": trajectory.source,
        }
        arrays[f"trajectory_{index}/labels"] = np.array(json.dumps(labels))
        for field in _FIELDS:
            if field != "dt" and getattr(trajectory, field) is not None:
                arrays[f"trajectory_{index}/{field}"] = getattr(trajectory, field)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # a crash leaves no half-written archive
        np.savez_compressed(Path(folder, "new.npz"), **arrays)
        os.replace(Path(folder, "new.npz"), path)
