"""Policies as files: tensors in safetensors, the configuration as JSON in its header; nothing is executed on loading."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamics.serialization import read_tensors, write_tensors
from mbrl.policies.learned_actor import Labels, LearnedActor
from mbrl.policies.planning_policy import PlanningPolicy
from mbrl.policies.policy import Policy
from mbrl.policies.tabular_policy import TabularPolicy
from mbrl.policies.trajectory_library import TrajectoryLibrary

FORMAT = "mbrl-control policy 1"
KINDS: dict[str, type[LearnedActor]] = {
    kind.__name__: kind for kind in (Policy, TrajectoryLibrary, TabularPolicy, PlanningPolicy)
}


def save_policy(policy: LearnedActor, path: str | Path) -> Path:
    """Write a policy with all that it needs and what is known of its columns to one file, whole or not at all.

    Args:
        policy: a :class:`mbrl.Policy`, with the statistics of its normalizer, a :class:`mbrl.TrajectoryLibrary`, a
            :class:`mbrl.TabularPolicy`, or a :class:`mbrl.PlanningPolicy` on a task of the library.
        path: the file, by convention ``policy.safetensors``; an existing file is replaced.

    Returns:
        The path.

    Raises:
        TypeError: it is no policy.
    """
    kind = type(policy).__name__
    if KINDS.get(kind) is not type(policy):
        raise TypeError(f"save_policy takes a {' or a '.join(f'mbrl.{name}' for name in KINDS)}, got {kind}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"names": policy.names, "units": policy.units}
    metadata = {
        "format": FORMAT,
        "class": kind,
        "config": json.dumps(policy.config(), sort_keys=True),
        "columns": json.dumps(columns, sort_keys=True),
    }
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in policy.state_dict().items()}
    write_tensors(path, tensors, metadata)
    return path


def load_policy(path: str | Path) -> LearnedActor:
    """Read a policy written by :func:`save_policy`; it acts as the saved one, bit for bit.

    Args:
        path: the file, or the folder of a run that holds ``policy.safetensors``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no policy of this version.
    """
    path = Path(path)
    path = path / "policy.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no policy at {path}; policies are written by mbrl.save_policy(policy, path)")
    tensors, metadata = read_tensors(path, FORMAT, "policies with mbrl.save_policy")
    name = metadata.get("class", "Policy")  # that of files from before there were others
    if name not in KINDS:
        raise ValueError(f"{path} holds a {name!r}; this version knows {', '.join(KINDS)}")
    try:
        policy = KINDS[name].restored(json.loads(metadata["config"]), tensors)
        policy.names, policy.units = (_labels(json.loads(metadata["columns"]), kind) for kind in ("names", "units"))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not describe a policy of this version: {error}") from error
    return policy


def _labels(columns: Mapping[str, Any], kind: str) -> Labels:
    return {group: tuple(texts) for group, texts in columns[kind].items()}
