"""D4RL-style HDF5: flat arrays over all steps of all episodes.

    observations (N, ny), actions (N, m), rewards (N,), terminals (N,), timeouts (N,), next_observations (N, ny)

An episode ends with each row where `terminals` or `timeouts` is set; rows after the last such row are one more episode,
cut by the end of the file. With `next_observations` every step is complete. Without them (and for states, of which the
format keeps no successor) the last step of each episode has no successor: the caller has to say `last_step="drop"`, and
each such episode then ends, truncated, one step earlier. The termination that belonged to the step goes with it.

Reference: Fu et al., "D4RL: Datasets for Deep Data-Driven Reinforcement Learning", 2020, arXiv:2004.07219.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from dynamics.formats.base import TrajectoryFormatError, build_log, open_hdf5
from dynamics.trajectories import RawLog


def read(
    path: str | os.PathLike[str],
    *,
    dt: float | None = None,
    states: Sequence[str] = (),
    last_step: Literal["drop"] | None = None,
) -> list[RawLog]:
    """Reads every episode of a flat HDF5 file.

    Args:
        path: the .hdf5 file.
        dt: seconds per step; the format holds no times, so it is required.
        states: arrays that make up the full state, e.g. ("infos/qpos", "infos/qvel").
        last_step: "drop" leaves out the last step of each episode where its successor is not in the file.
    """
    if last_step not in (None, "drop"):
        raise ValueError(f"last_step must be None or 'drop', got {last_step!r}.")
    with open_hdf5(path) as root:
        arrays = {key: np.asarray(root[key][()]) for key in _keys(path, root, states)}
    for key, array in arrays.items():
        if array.ndim == 0 or array.dtype.kind not in "biuf":
            problem = f"holds {array.dtype} of shape {array.shape}."
            raise TrajectoryFormatError(path, key, problem, "All arrays need numbers, one row per step.")
    size = len(arrays["observations"])
    for key, array in arrays.items():
        if len(array) != size:
            problem = f"{len(array)} rows, but 'observations' has {size}."
            raise TrajectoryFormatError(path, key, problem, "All arrays need one row per step.")
        if key in ("rewards", "terminals", "timeouts") and array.size != size:
            problem = f"has shape {array.shape}."
            raise TrajectoryFormatError(path, key, problem, "It needs one value per step.")
    if size == 0:
        raise TrajectoryFormatError(path, "observations", "holds no rows.", "Record at least one step.")
    terminals = arrays["terminals"].astype(bool).reshape(-1)
    ends = terminals | arrays["timeouts"].astype(bool).reshape(-1) if "timeouts" in arrays else terminals.copy()
    following = None if states else arrays.get("next_observations")
    if following is not None:
        if following.shape != arrays["observations"].shape:
            problem = f"has shape {following.shape}, but 'observations' has {arrays['observations'].shape}."
            raise TrajectoryFormatError(path, "next_observations", problem, "Both need one row per step.")
        _check_successors(path, arrays["observations"], following, ends)
    ends[-1] = True
    stops = np.flatnonzero(ends) + 1
    if following is None and last_step is None:
        what = "states have no successor" if states else "there is no 'next_observations'"
        problem = f"{what}, so the last step of each of {len(stops)} episodes is incomplete."
        raise TrajectoryFormatError(path, "", problem, f"Pass last_step='drop' to leave those {len(stops)} steps out.")
    return [
        _episode(path, index, slice(start, stop), arrays, following, terminals, states, dt)
        for index, (start, stop) in enumerate(zip([0, *stops[:-1]], stops, strict=True))
    ]


def _episode(
    path: str | os.PathLike[str],
    index: int,
    rows: slice,
    arrays: Mapping[str, Any],
    following: Any | None,
    terminals: Any,
    states: Sequence[str],
    dt: float | None,
) -> RawLog:
    """The rows of one episode, with the successor of the last one or without the last step."""
    observations = arrays["observations"][rows]
    if following is None:
        steps, terminated = slice(rows.start, rows.stop - 1), False
    else:
        steps, terminated = rows, bool(terminals[rows.stop - 1])
        observations = np.concatenate([observations, following[rows.stop - 1 : rows.stop]])
    return build_log(
        path,
        f"episode {index} (rows {rows.start} to {rows.stop - 1})",
        observations=observations,
        controls=arrays["actions"][steps],
        states=np.column_stack([arrays[key][rows] for key in states]) if states else None,
        rewards=arrays["rewards"][steps].reshape(-1),
        times=None,
        dt=dt,
        terminated=terminated,
        truncated=not terminated,
        source=f"{os.fspath(path)}:{index}{' (last step dropped)' if following is None else ''}",
    )


def _keys(path: str | os.PathLike[str], root: Any, states: Sequence[str]) -> list[str]:
    """The arrays to read; `timeouts` may only be missing where `next_observations` shows the borders."""
    has_successors = "next_observations" in root and not states
    required = ["observations", "actions", "rewards", "terminals", *states]
    required += ["next_observations"] if has_successors else ["timeouts"]
    for key in required:
        if not hasattr(root.get(key), "shape"):
            fix = "Add it as one value per step (timeouts: True where an episode was cut); "
            problem = f"there is no array {key!r}."
            raise TrajectoryFormatError(path, "", problem, fix + f"the file has {', '.join(sorted(root))}.")
    return required + (["timeouts"] if has_successors and "timeouts" in root else [])


def _check_successors(path: str | os.PathLike[str], observations: Any, following: Any, ends: Any) -> None:
    """Within an episode the next observation of a step is the observation of the next step."""
    differs = (following[:-1] != observations[1:]) & ~(np.isnan(following[:-1]) & np.isnan(observations[1:]))
    broken = np.flatnonzero(differs.reshape(len(differs), -1).any(axis=1) & ~ends[:-1])
    if broken.size:
        problem = f"next_observations is not the observation of row {broken[0] + 1} ({broken.size} such rows in all)."
        fix = "Mark the last row of every episode in 'terminals' or 'timeouts'."
        raise TrajectoryFormatError(path, f"row {broken[0]}", problem, fix)
