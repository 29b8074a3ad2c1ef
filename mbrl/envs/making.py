"""Tasks and gymnasium ids as vector environments: native ones where there are any."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from mbrl.envs.episodes import checked_worlds
from mbrl.envs.mujoco import RULES, make_mujoco_vec_env
from mbrl.envs.task_vector_env import make_vec_env
from mbrl.tasks import Task
from mbrl.tasks.worlds import TabularWorld

EnvFactory = Callable[[], gymnasium.Env]

AnyTask = Task | TabularWorld | str | EnvFactory
"""What there is to learn on: a task, a world or a process in tables, a gymnasium id, or what makes an environment."""


def vector_env(
    task_or_id: AnyTask,
    num_envs: int,
    *,
    autoreset_mode: AutoresetMode | str = AutoresetMode.DISABLED,
    **options: Any,
) -> VectorEnv:
    """Many worlds of a task or of a gymnasium id.

    Args:
        task_or_id: a task, a world or process in tables, or an id. Those of the library's tasks, ``mbrl/...``, and of gymnasium's
            MuJoCo environments, v5, become native vector environments, others gymnasium's ``SyncVectorEnv``; or a function
            without arguments that makes a ``gymnasium.Env``.
        num_envs: number of worlds.
        autoreset_mode: when a world whose episode has ended begins the next one; by default the caller resets it.
        **options: of :func:`mbrl.make_vec_env`, the task's constructor, :func:`mbrl.make_mujoco_vec_env`, ``gymnasium.make`` or
            the function.

    Raises:
        ValueError: there is no such id, mode or option.
        TypeError: it is neither a task nor a world nor a text nor a function that makes an environment.
    """
    if isinstance(task_or_id, Task | TabularWorld):
        return make_vec_env(task_or_id, num_envs, autoreset_mode=autoreset_mode, **options)
    if callable(task_or_id):
        mode = AutoresetMode(autoreset_mode)
        return SyncVectorEnv([partial(made_env, task_or_id, **options)] * checked_worlds(num_envs), autoreset_mode=mode)
    env_id = checked_id(task_or_id)
    if env_id in RULES:
        return make_mujoco_vec_env(env_id, num_envs, autoreset_mode=autoreset_mode, **options)
    if env_id.startswith("mbrl/"):
        return gymnasium.make_vec(env_id, num_envs, autoreset_mode=autoreset_mode, **options)
    mode = {"autoreset_mode": AutoresetMode(autoreset_mode)}
    return gymnasium.make_vec(env_id, num_envs, vectorization_mode="sync", vector_kwargs=mode, **options)


def made_env(factory: Callable[..., Any], **options: Any) -> gymnasium.Env:
    """What a function makes.

    Raises:
        TypeError: it is no gymnasium environment.
    """
    env = factory(**options)
    if not isinstance(env, gymnasium.Env):
        raise TypeError(f"expected {factory!r} to make a gymnasium.Env, got {env!r}")
    return env


def checked_id(env_id: str) -> str:
    """The id, if gymnasium knows it; an id with a module in front, ``module:id``, is known once the module is imported.

    Raises:
        ValueError: it does not.
        TypeError: this is no text.
    """
    if not isinstance(env_id, str):
        raise TypeError(
            "expected a Task, a world, a gymnasium id, or a function without arguments that makes a gymnasium.Env, got "
            f"{env_id!r}"
        )
    if ":" not in env_id and env_id not in gymnasium.registry:
        near = difflib.get_close_matches(env_id, gymnasium.registry, n=4)
        hint = (
            f"did you mean {' or '.join(repr(name) for name in near)}?"
            if near
            else "gymnasium.pprint_registry() lists all"
        )
        raise ValueError(f"gymnasium knows no environment {env_id!r}; {hint}")
    return env_id
