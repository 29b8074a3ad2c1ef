"""Learning: tasks, environments, training and evaluation."""

from mbrl.control_loop import ControlLoopError, ControlLoopResult, Plant, Safety, run_control_loop
from mbrl.envs import TaskEnv, make_env, record_env
from mbrl.evaluation import Evaluation, evaluate, interquartile_mean
from mbrl.policies import Actor, SplineNoise
from mbrl.recording import record
from mbrl.runs import Run, RunError, open_run
from mbrl.simulated_plant import SimulatedPlant
from mbrl.tasks import Task, cart_pole_swing_up, pendulum_swing_up, uniform_initial_state

__all__ = [
    "Actor",
    "ControlLoopError",
    "ControlLoopResult",
    "Evaluation",
    "Plant",
    "Run",
    "RunError",
    "Safety",
    "SimulatedPlant",
    "SplineNoise",
    "Task",
    "TaskEnv",
    "cart_pole_swing_up",
    "evaluate",
    "interquartile_mean",
    "make_env",
    "open_run",
    "pendulum_swing_up",
    "record",
    "record_env",
    "run_control_loop",
    "uniform_initial_state",
]
