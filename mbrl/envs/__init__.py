"""Tasks as gymnasium environments, registered as ``mbrl/<name>-v0``.

Keywords of ``gymnasium.make`` beside ``render_mode`` go to the task's constructor, for instance ``backend="torch"``.
"""

from typing import Any

import gymnasium

from mbrl.envs.recording import record_env
from mbrl.envs.task_env import TaskEnv, make_env
from mbrl.tasks import cart_pole_swing_up, pendulum_swing_up

__all__ = ["TaskEnv", "make_env", "record_env"]


def pendulum_swing_up_env(*, render_mode: str | None = None, **options: Any) -> TaskEnv:
    """Entry point of ``mbrl/PendulumSwingUp-v0``."""
    return make_env(pendulum_swing_up(**options), render_mode=render_mode)


def cart_pole_swing_up_env(*, render_mode: str | None = None, **options: Any) -> TaskEnv:
    """Entry point of ``mbrl/CartPoleSwingUp-v0``."""
    return make_env(cart_pole_swing_up(**options), render_mode=render_mode)


# gymnasium has no other way to learn of ids. An episode's length is the task's own business, so no max_episode_steps.
gymnasium.register("mbrl/PendulumSwingUp-v0", entry_point="mbrl.envs:pendulum_swing_up_env")
gymnasium.register("mbrl/CartPoleSwingUp-v0", entry_point="mbrl.envs:cart_pole_swing_up_env")
