"""Rewards as files: tensors in safetensors, the configuration as JSON in its header; nothing is executed on loading."""

import json
from pathlib import Path

from dynamics.serialization import read_tensors, write_tensors
from mbrl.irl.reward_network import RewardModel, made_reward, reward_config

FORMAT = "mbrl-control reward 1"


def save_reward(reward: RewardModel, path: str | Path) -> Path:
    """Write a reward with its statistics to one file, whole or not at all.

    Args:
        reward: a :class:`mbrl.RewardNetwork`, a :class:`mbrl.ShapedReward` or a :class:`mbrl.DiscriminatorReward`.
        path: the file, by convention ``reward.safetensors``; an existing file is replaced.

    Returns:
        The path.

    Raises:
        TypeError: it is no such reward.
    """
    config = reward_config(reward)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in reward.state_dict().items()}
    write_tensors(path, tensors, {"format": FORMAT, "reward": json.dumps(config, sort_keys=True)})
    return path


def load_reward(path: str | Path) -> RewardModel:
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
        reward = made_reward(json.loads(metadata["reward"]))
        reward.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not describe a reward of this version: {error}") from error
    return reward
