"""Policies as files: tensors in safetensors, the configuration as JSON in its header; nothing is executed on loading."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamics.serialization import read_tensors, write_tensors
from mbrl.policies.action_space import action_space
from mbrl.policies.policy import Labels, NetworkSettings, Policy

FORMAT = "mbrl-control policy 1"


def save_policy(policy: Policy, path: str | Path) -> Path:
    """Write a policy with the statistics of its normalizer and what is known of its columns to one file, whole or not at all.

    Args:
        policy: the policy.
        path: the file, by convention ``policy.safetensors``; an existing file is replaced.

    Returns:
        The path.

    Raises:
        TypeError: it is no policy.
    """
    if not isinstance(policy, Policy):
        raise TypeError(f"save_policy takes a mbrl.Policy, got {type(policy).__name__}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"names": policy.names, "units": policy.units}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(policy.config(), sort_keys=True),
        "columns": json.dumps(columns, sort_keys=True),
    }
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in policy.state_dict().items()}
    write_tensors(path, tensors, metadata)
    return path


def load_policy(path: str | Path) -> Policy:
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
    try:
        config = json.loads(metadata["config"])
        settings = {**config["settings"], "hidden": tuple(config["settings"]["hidden"])}
        policy = Policy(config["observation_dim"], action_space(config["actions"]), NetworkSettings(**settings))
        policy.load_state_dict(tensors)
        policy.names, policy.units = (_labels(json.loads(metadata["columns"]), kind) for kind in ("names", "units"))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not describe a policy of this version: {error}") from error
    return policy


def _labels(columns: Mapping[str, Any], kind: str) -> Labels:
    return {group: tuple(texts) for group, texts in columns[kind].items()}
