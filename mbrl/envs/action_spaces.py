"""What actors choose among in gymnasium environments."""

from typing import Any

import gymnasium
import numpy as np
import torch

from mbrl.envs.task_vector_env import TaskVectorEnv
from mbrl.policies.action_space import ActionSpace, ContinuousActions, DiscreteActions
from mbrl.policies.learned_actor import task_actions
from mbrl.tasks import Task


def env_actions(env: gymnasium.Env | gymnasium.vector.VectorEnv) -> ActionSpace:
    """What there is to choose among in an environment, one or many; the controls of a task that lists them, not their numbers.

    Raises:
        ValueError: its actions are neither Discrete nor a Box of one axis, or limited on one side only.
    """
    if isinstance(env, TaskVectorEnv):
        return task_actions(env.task)
    space = single_spaces(env)[1]
    task = listed_task(env)
    return space_actions(space) if task is None else task_actions(task)


def space_actions(space: gymnasium.Space) -> ActionSpace:
    """What a policy chooses among in a gymnasium action space.

    Raises:
        ValueError: it is neither Discrete nor a Box of one axis.
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        values = torch.arange(int(space.start), int(space.start + space.n), dtype=torch.float64)
        return DiscreteActions(values.unsqueeze(-1))
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        lower, upper = (torch.from_numpy(limit.astype(np.float64)) for limit in (space.low, space.high))
        return ContinuousActions(lower, upper)
    raise ValueError(f"need a Discrete action space or a Box of one axis, got {space}")


def listed_task(env: Any) -> Task | None:
    """The task whose listed controls the numbers of an environment stand for, if no wrapper has changed them."""
    plain, space = plain_env(env), single_spaces(env)[1]
    task = getattr(plain, "task", None)
    listed = isinstance(task, Task) and task.control_values is not None
    return task if listed and not isinstance(space, gymnasium.spaces.Box) and single_spaces(plain)[1] == space else None


def single_spaces(env: Any) -> tuple[Any, Any]:
    """Observation and action space of one world."""
    if isinstance(env, gymnasium.vector.VectorEnv):
        return env.single_observation_space, env.single_action_space
    return env.observation_space, env.action_space


def plain_env(env: Any) -> Any:
    """The environment without its wrappers, the first one of a vector that is made of environments.

    Those in other processes are not asked: an attribute that they do not have would end them.
    """
    envs = getattr(env.unwrapped, "envs", None) if isinstance(env, gymnasium.vector.VectorEnv) else None
    return envs[0].unwrapped if envs else env.unwrapped
