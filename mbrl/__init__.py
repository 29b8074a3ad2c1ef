"""Learning: tasks, environments, training and evaluation."""

from mbrl.envs import (
    FrameStack,
    MujocoVectorEnv,
    TaskEnv,
    TaskVectorEnv,
    make_env,
    make_mujoco_vec_env,
    make_vec_env,
    record_env,
)
from mbrl.evaluation import Evaluation, evaluate, interquartile_mean
from mbrl.policies import Actor, SplineNoise
from mbrl.recording import record
from mbrl.runs import Run, RunError, open_run
from mbrl.tasks import (
    Task,
    cart_pole_swing_up,
    discretized,
    pendulum_swing_up,
    point_navigation,
    shaped,
    uniform_initial_state,
)

__all__ = [
    "Actor",
    "Evaluation",
    "FrameStack",
    "MujocoVectorEnv",
    "Run",
    "RunError",
    "SplineNoise",
    "Task",
    "TaskEnv",
    "TaskVectorEnv",
    "cart_pole_swing_up",
    "discretized",
    "evaluate",
    "interquartile_mean",
    "make_env",
    "make_mujoco_vec_env",
    "make_vec_env",
    "open_run",
    "pendulum_swing_up",
    "point_navigation",
    "record",
    "record_env",
    "shaped",
    "uniform_initial_state",
]
