"""Learning: tasks, environments, training and evaluation."""

from mbrl.envs import TaskEnv, make_env, record_env
from mbrl.evaluation import Evaluation, evaluate, interquartile_mean
from mbrl.policies import Actor, SplineNoise
from mbrl.recording import record
from mbrl.runs import Run, RunError, open_run
from mbrl.tasks import (
    Task,
    acrobot_swing_up,
    cart_pole_swing_up,
    half_cheetah,
    hopper,
    pendulum_swing_up,
    reacher,
    uniform_initial_state,
)

__all__ = [
    "Actor",
    "Evaluation",
    "Run",
    "RunError",
    "SplineNoise",
    "Task",
    "TaskEnv",
    "acrobot_swing_up",
    "cart_pole_swing_up",
    "evaluate",
    "half_cheetah",
    "hopper",
    "interquartile_mean",
    "make_env",
    "open_run",
    "pendulum_swing_up",
    "reacher",
    "record",
    "record_env",
    "uniform_initial_state",
]
