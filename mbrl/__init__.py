"""Learning: tasks, environments, training and evaluation."""

from mbrl.envs import TaskEnv, make_env, record_env
from mbrl.evaluation import Evaluation, evaluate, interquartile_mean
from mbrl.policies import Actor, SplineNoise, UniformNoise
from mbrl.recording import record
from mbrl.runs import Run, RunError, RunGroup, RunRecord, add_evaluation, find_runs, group_runs, open_run, read_run
from mbrl.tasks import Task, cart_pole_swing_up, pendulum_swing_up, uniform_initial_state

__all__ = [
    "Actor",
    "Evaluation",
    "Run",
    "RunError",
    "RunGroup",
    "RunRecord",
    "SplineNoise",
    "Task",
    "TaskEnv",
    "UniformNoise",
    "add_evaluation",
    "cart_pole_swing_up",
    "evaluate",
    "find_runs",
    "group_runs",
    "interquartile_mean",
    "make_env",
    "open_run",
    "pendulum_swing_up",
    "read_run",
    "record",
    "record_env",
    "uniform_initial_state",
]
