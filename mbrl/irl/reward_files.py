"""Rewards as files: tensors in safetensors, the configuration as JSON in its header; nothing is executed on loading."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from dynamics.serialization import read_tensors, write_tensors
from mbrl.irl.base import FeatureReward
from mbrl.irl.network_cost import NetworkCost
from mbrl.irl.reward_network import REWARDS
from mbrl.tasks.task_cost import TaskCost
from planners import ExponentialTerrain, LinearTerrain

FORMAT = "mbrl-control reward 1"
_COSTS = (TaskCost, NetworkCost, LinearTerrain, ExponentialTerrain)
KINDS: dict[str, Any] = {**{kind.__name__: kind for kind in (FeatureReward, *_COSTS)}, **REWARDS}
"""What can be written: modules with ``config()`` and ``made(config)``."""


def save_reward(reward: nn.Module, path: str | Path) -> Path:
    """Write a reward to one file, whole or not at all.

    Args:
        reward: a :class:`mbrl.FeatureReward`, a :class:`mbrl.RewardModel` of this library, a :class:`mbrl.TaskCost` or
            :class:`mbrl.NetworkCost` of a task of this library, or the terrain of a :class:`planners.CostMap`.
        path: the file, by convention ``reward.safetensors``; an existing file is replaced.

    Returns:
        The path.

    Raises:
        TypeError: it is no such reward.
    """
    name = type(reward).__name__
    if KINDS.get(name) is not type(reward):
        raise TypeError(f"save_reward takes one of {', '.join(KINDS)}, got {name}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in reward.state_dict().items()}
    config = {"class": name, "config": reward.config()}  # type: ignore[operator]
    write_tensors(path, tensors, {"format": FORMAT, "reward": json.dumps(config, sort_keys=True)})
    return path


def load_reward(path: str | Path) -> nn.Module:
    """Read a reward written by :func:`save_reward`; it gives what the saved one gave, bit for bit.

    Args:
        path: the file, or the folder of a run that holds ``reward.safetensors``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no reward of this version.
    """
    path = Path(path)
    path = path / "reward.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no reward at {path}; rewards are written by mbrl.save_reward(reward, path)")
    tensors, metadata = read_tensors(path, FORMAT, "rewards with mbrl.save_reward")
    try:
        config = json.loads(metadata["reward"])
        if config["class"] not in KINDS:
            raise ValueError(f"there is no reward {config['class']!r} in this version, only {', '.join(KINDS)}")
        reward = KINDS[config["class"]].made(config["config"])
        reward.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not describe a reward of this version: {error}") from error
    return reward
