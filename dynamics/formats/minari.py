"""Minari datasets (https://minari.farama.org), read and written through minari itself.

    <dataset>-v0/data/metadata.json, main_data.hdf5:
        episode_i/observations (T+1, ny), actions (T, m), rewards (T,), terminations (T,), truncations (T,)
        episode_i/infos/time (T+1,) [s], infos/state (T+1, n)

Names, units and dt travel in `metadata.json` under "trajectories", the source in the attributes of each episode. Minari
has no notion of "no reward": rewards that were not recorded are stored as NaN and come back as None.

Datasets of others have no times, so the caller says `dt=`. A `Dict` observation space of `Box`es is flattened in its
own order, with columns named `<key>_<i>`; other structured or discrete spaces are refused.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dynamics.formats.base import TrajectoryFormatError, build_log, naming
from dynamics.trajectories import RawLog, Trajectory, check_compatible

_METADATA_KEY = "trajectories"


def data_folder(path: str | os.PathLike[str]) -> Path | None:
    """The `data` folder of a dataset given as its folder, its `data` folder, its HDF5 file or its id; else None."""
    path = Path(path)
    root = os.environ.get("MINARI_DATASETS_PATH", Path.home() / ".minari" / "datasets")
    candidates = [path / "data", path, Path(root, path) / "data"]
    if path.is_file():
        candidates = [path.parent] if path.name == "main_data.hdf5" else []
    return next((candidate for candidate in candidates if (candidate / "metadata.json").is_file()), None)


def read(path: str | os.PathLike[str], *, dt: float | None = None, states: Sequence[str] | None = None) -> list[RawLog]:
    """Reads every episode of a dataset.

    Args:
        path: the dataset's folder, its `data` folder, its HDF5 file, or an id below minari's root.
        dt: seconds per step, where the dataset has no `infos/time`.
        states: entries of `infos` that make up the full state, e.g. ("qpos", "qvel"); by default "state", where it is.
    """
    from gymnasium.error import Error as GymnasiumError
    from minari.dataset.minari_storage import MinariStorage

    folder = data_folder(path)
    if folder is None:
        fix = "Point at a folder with data/metadata.json in it, or set MINARI_DATASETS_PATH for an id."
        raise TrajectoryFormatError(path, "", "is not a Minari dataset.", fix)
    unusable = (OSError, ValueError, KeyError, TypeError, AssertionError, GymnasiumError)
    try:
        storage = MinariStorage.read(folder)
        metadata = storage.metadata
        num_episodes = int(metadata["total_episodes"])
    except unusable as error:
        problem = f"minari cannot open it ({type(error).__name__}: {error})."
        raise TrajectoryFormatError(folder, "metadata.json", problem, "Copy or write the dataset again.") from error
    if num_episodes == 0:
        raise TrajectoryFormatError(folder, "metadata.json", "holds no episodes.", "Record at least one.")
    logs = []
    episodes = iter(storage.get_episodes(range(num_episodes)))
    attributes = iter(storage.get_episode_metadata(range(num_episodes)))
    for index in range(num_episodes):
        try:
            episode, labels = next(episodes), next(attributes)
        except unusable as error:
            problem = f"minari cannot read it ({type(error).__name__}: {error})."
            raise TrajectoryFormatError(folder, f"episode {index}", problem, "Copy or write it again.") from error
        logs.append(_log(folder, metadata, episode, labels, states=states, dt=dt))
    steps = sum(log.num_steps for log in logs)
    if steps != metadata.get("total_steps", steps):
        problem = f"announces {metadata['total_steps']} steps, but the {num_episodes} episodes hold {steps}."
        raise TrajectoryFormatError(folder, "metadata.json", problem, "Copy or write the dataset again.")
    return logs


def _log(
    folder: Path, metadata: dict, episode: dict, labels: dict, *, states: Sequence[str] | None, dt: float | None
) -> RawLog:
    place, infos = f"episode {episode['id']}", episode["infos"] or {}
    observations, names = _flat_observations(folder, metadata["observation_space"], episode["observations"])
    _check_box(folder, "action_space", metadata["action_space"])
    ours = metadata.get(_METADATA_KEY, {})
    rewards = np.asarray(episode["rewards"])
    with naming(folder, place, "Terminations and truncations need one value per step."):
        ends = np.asarray(episode["terminations"], bool) | np.asarray(episode["truncations"], bool)
    if ends[:-1].any():
        problem = f"ends at step {np.flatnonzero(ends)[0]} of {len(ends)}."
        raise TrajectoryFormatError(folder, place, problem, "Store what follows as an episode of its own.")
    if infos.get("time") is None and dt is None:
        fix = "Pass dt= with the seconds per step" + _environment_hint(metadata)
        raise TrajectoryFormatError(folder, place, "there are no times (infos/time).", fix)
    return build_log(
        folder,
        place,
        observations=observations,
        controls=episode["actions"],
        states=_states(folder, f"{place}, infos", infos, states),
        rewards=None if ours and np.isnan(rewards).all() else rewards,
        times=infos.get("time"),
        dt=dt,
        terminated=bool(episode["terminations"][-1]) if len(ends) else False,
        truncated=bool(episode["truncations"][-1]) if len(ends) else False,
        names={"observations": names, **ours.get("names", {})},
        units=ours.get("units"),
        source=labels.get("source", f"{metadata.get('dataset_id', folder)}:{episode['id']}"),
    )


def _states(folder: Path, place: str, infos: Mapping[str, Any], keys: Sequence[str] | None) -> Any | None:
    """The chosen entries of infos side by side; without a choice "state", where it is."""
    keys = (("state",) if "state" in infos else ()) if keys is None else keys
    for key in keys:
        if key not in infos:
            fix = f"Choose among {', '.join(sorted(infos)) or 'none'}, or leave states= out."
            raise TrajectoryFormatError(folder, place, f"there is no {key!r}.", fix)
    with naming(folder, place, "Every entry needs T+1 rows."):
        return np.column_stack([infos[key] for key in keys]) if keys else None


def _environment_hint(metadata: Mapping[str, Any]) -> str:
    if "env_spec" not in metadata:
        return "."
    return f"; the environment {json.loads(metadata['env_spec'])['id']!r} has it as env.unwrapped.dt."


def _check_box(folder: Path, key: str, space: Any) -> None:
    from gymnasium.spaces import Box

    if not isinstance(space, Box) or len(space.shape) != 1:
        fix = "Only a Box of shape (columns,) can be read; convert the dataset."
        raise TrajectoryFormatError(folder, f"metadata.json, {key}", f"is {space}.", fix)


def _flat_observations(folder: Path, space: Any, observations: Any) -> tuple[Any, tuple[str, ...]]:
    """The observations as one array and, for a Dict space, its column names."""
    from gymnasium.spaces import Dict

    if not isinstance(space, Dict):
        _check_box(folder, "observation_space", space)
        return observations, ()
    for key, part in space.spaces.items():
        _check_box(folder, f"observation_space[{key!r}]", part)
    names = tuple(f"{key}_{i}" for key, part in space.spaces.items() for i in range(part.shape[0]))  # type: ignore[index]
    return np.concatenate([observations[key] for key in space.spaces], axis=1), names


def write(
    path: str | os.PathLike[str],
    trajectories: Sequence[Trajectory],
    *,
    dataset_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes compatible trajectories as one dataset that `minari.load_dataset` takes.

    Args:
        path: folder of the dataset; its name ends with a version, e.g. cartpole-v0.
        trajectories: at least one, each with at least one step.
        dataset_id: id in minari's own form, "namespace/name-v0"; by default the folder's name.
        metadata: entries for metadata.json, such as description, author (a set), code_permalink, env_spec (JSON).
        overwrite: whether an existing dataset may be replaced (never anything else).

    Raises:
        FileExistsError: something is at `path` already.
        ValueError: trajectories that do not go together, a trajectory without steps, an id that minari does not take.
    """
    path = Path(path).resolve()  # minari doubles a relative path when it looks up sizes
    dataset_id = path.name if dataset_id is None else dataset_id
    check_compatible(trajectories)
    _check_id(dataset_id)
    if empty := [trajectory for trajectory in trajectories if trajectory.num_steps == 0]:
        raise ValueError(f"Minari stores no episode without steps; leave out {empty[0]!r}.")
    if path.exists() and not (overwrite and data_folder(path) == path / "data"):
        what = "is no Minari dataset and is not replaced" if overwrite else "exists; pass overwrite=True to replace it"
        raise FileExistsError(f"{path} {what}. Or choose another path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # a crash leaves no half-written dataset
        new = Path(folder, path.name)
        _write_new(new / "data", trajectories, dataset_id, dict(metadata or {}))
        if path.exists():
            shutil.rmtree(path)
        new.rename(path)


def _write_new(folder: Path, trajectories: Sequence[Trajectory], dataset_id: str, metadata: dict[str, Any]) -> None:
    import minari
    from gymnasium.spaces import Box
    from minari.dataset.minari_storage import MinariStorage

    first = next((trajectory for trajectory in trajectories if trajectory.states is not None), trajectories[0])
    observation_space, action_space = (
        Box(-np.inf, np.inf, (array.shape[1],), np.float64) for array in (first.observations, first.controls)
    )
    folder.mkdir(parents=True)
    storage = MinariStorage.new(folder, observation_space, action_space, data_format="hdf5")
    ours = {"names": asdict(first.names), "units": asdict(first.units), "dt": first.dt}
    required = {"dataset_id": dataset_id, "minari_version": minari.__version__, _METADATA_KEY: ours}
    storage.update_metadata({**metadata, **required})
    storage.update_episodes([_episode(trajectory) for trajectory in trajectories])
    storage.update_episode_metadata([{"source": trajectory.source} for trajectory in trajectories])
    _compress(folder / "main_data.hdf5")
    storage.update_metadata({"dataset_size": float(storage.get_size())})


def _episode(trajectory: Trajectory) -> Any:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    T = trajectory.num_steps
    last = np.arange(T) == T - 1
    states = {} if trajectory.states is None else {"state": trajectory.states}
    return EpisodeBuffer(
        observations=trajectory.observations,  # type: ignore[arg-type]  # arrays are what the storage writes best
        actions=trajectory.controls,  # type: ignore[arg-type]
        rewards=np.full(T, np.nan) if trajectory.rewards is None else trajectory.rewards,  # type: ignore[arg-type]
        terminations=last & trajectory.terminated,  # type: ignore[arg-type]
        truncations=last & trajectory.truncated,  # type: ignore[arg-type]
        infos={"time": trajectory.times, **states},
    )


def _compress(file: Path) -> None:
    """Rewrites an HDF5 file with its data sets deflated (minari itself does not compress)."""
    import h5py

    packed = file.with_suffix(".packed")
    with h5py.File(file, "r") as source, h5py.File(packed, "w", libver="latest", track_order=True) as target:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                options: dict[str, Any] = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
                target.create_dataset(name, data=item[()], chunks=item.shape, **options)
            else:
                target.create_group(name)
            target[name].attrs.update(item.attrs)

        source.visititems(copy)
    packed.replace(file)


def _check_id(dataset_id: str) -> None:
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # TypeError: minari does not expect an id without version
        raise ValueError(
            f"{dataset_id!r} is no Minari dataset id. It has the form name-v0 or namespace/name-v0, with at least two "
            "letters in each part; end the folder's name in that way, or pass dataset_id=."
        ) from error
