"""Tasks as gymnasium environments, registered as ``mbrl/<name>-v0``.

Keywords of ``gymnasium.make`` beside ``render_mode`` go to the task's constructor, for instance ``backend="torch"``.
"""

from typing import Any

import gymnasium

from mbrl.envs.mujoco import MujocoVectorEnv, make_mujoco_vec_env
from mbrl.envs.recording import record_env
from mbrl.envs.task_env import TaskEnv, make_env
from mbrl.tasks import CONSTRUCTORS

__all__ = ["MujocoVectorEnv", "TaskEnv", "make_env", "make_mujoco_vec_env", "record_env"]


def registered_env(*, task: str, render_mode: str | None = None, **options: Any) -> TaskEnv:
    """Entry point of all ids: the environment of the task of that name, made with the options."""
    return make_env(CONSTRUCTORS[task](**options), render_mode=render_mode)


# gymnasium has no other way to learn of ids. An episode's length is the task's own business, so no max_episode_steps.
for _name in CONSTRUCTORS:
    gymnasium.register(f"mbrl/{_name}-v0", entry_point="mbrl.envs:registered_env", kwargs={"task": _name})
