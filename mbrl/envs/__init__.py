"""Tasks as gymnasium environments, one or many at a time, registered as ``mbrl/<name>-v0``.

Keywords of ``gymnasium.make`` and ``gymnasium.make_vec`` beside those of the environment itself (``render_mode``, and
``autoreset_mode`` of many) go to the task's constructor, for instance ``backend="torch"``.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode

from mbrl.envs.frame_stack import FrameStack
from mbrl.envs.mujoco import MujocoVectorEnv, make_mujoco_vec_env
from mbrl.envs.recording import record_env
from mbrl.envs.tabular import TabularEnv, TabularVectorEnv
from mbrl.envs.task_env import TaskEnv, make_env
from mbrl.envs.task_vector_env import TaskVectorEnv, make_vec_env
from mbrl.tasks import CONSTRUCTORS, WORLDS

__all__ = [
    "FrameStack",
    "MujocoVectorEnv",
    "TabularEnv",
    "TabularVectorEnv",
    "TaskEnv",
    "TaskVectorEnv",
    "make_env",
    "make_mujoco_vec_env",
    "make_vec_env",
    "record_env",
]

REGISTERED: dict[str, Callable[..., Any]] = {**CONSTRUCTORS, **WORLDS}


def registered_env(*, task: str, render_mode: str | None = None, **options: Any) -> TaskEnv | TabularEnv:
    """Entry point of all ids: the environment of the task of that name, made with the options."""
    return make_env(REGISTERED[task](**options), render_mode=render_mode)


def registered_vec_env(
    *,
    task: str,
    num_envs: int,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
    **options: Any,
) -> TaskVectorEnv | TabularVectorEnv:
    """Vector entry point of all ids: the vector environment of the task of that name, made with the options."""
    made = REGISTERED[task](**options)
    return make_vec_env(made, num_envs, autoreset_mode=autoreset_mode, render_mode=render_mode)


# gymnasium has no other way to learn of ids. An episode's length is the task's own business, so no max_episode_steps.
for _name in REGISTERED:
    gymnasium.register(
        f"mbrl/{_name}-v0",
        entry_point="mbrl.envs:registered_env",
        vector_entry_point="mbrl.envs:registered_vec_env",
        kwargs={"task": _name},
    )
