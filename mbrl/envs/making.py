"""From a task or an id to many environments that are stepped side by side."""

from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode

from mbrl.envs.mujoco import make_mujoco_vec_env
from mbrl.envs.mujoco.vector_env import RULES
from mbrl.envs.task_vector_env import make_vec_env
from mbrl.tasks import Task


def vector_env(task: Task | str, num_envs: int, *, autoreset_mode: Any = AutoresetMode.DISABLED, **options: Any) -> Any:
    """Many environments of a task, or of a gymnasium id; the library's own where it has some."""
    if isinstance(task, Task):
        return make_vec_env(task, num_envs, autoreset_mode=autoreset_mode)
    if task in RULES:
        return make_mujoco_vec_env(task, num_envs, autoreset_mode=autoreset_mode, **options)
    if task.startswith("mbrl/"):
        return gymnasium.make_vec(task, num_envs, autoreset_mode=autoreset_mode, **options)
    return gymnasium.make_vec(
        task, num_envs, vectorization_mode="sync", vector_kwargs={"autoreset_mode": autoreset_mode}, **options
    )
