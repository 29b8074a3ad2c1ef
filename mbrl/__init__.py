"""Learning: tasks, environments, training and evaluation."""

from mbrl.control_loop import ControlLoopError, ControlLoopResult, Plant, Safety, run_control_loop
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
from mbrl.policies import Actor, SplineNoise, UniformNoise
from mbrl.recording import record
from mbrl.runs import Run, RunError, RunGroup, RunRecord, add_evaluation, find_runs, group_runs, open_run, read_run
from mbrl.simulated_plant import SimulatedPlant
from mbrl.tasks import (
    Task,
    acrobot_swing_up,
    car_parking,
    cart_pole_swing_up,
    discretized,
    half_cheetah,
    hopper,
    pendulum_swing_up,
    planar_quadrotor_flight,
    point_navigation,
    reacher,
    shaped,
    uniform_initial_state,
)

__all__ = [
    "Actor",
    "ControlLoopError",
    "ControlLoopResult",
    "Evaluation",
    "FrameStack",
    "MujocoVectorEnv",
    "Plant",
    "Run",
    "RunError",
    "RunGroup",
    "RunRecord",
    "Safety",
    "SimulatedPlant",
    "SplineNoise",
    "Task",
    "TaskEnv",
    "TaskVectorEnv",
    "UniformNoise",
    "acrobot_swing_up",
    "add_evaluation",
    "car_parking",
    "cart_pole_swing_up",
    "discretized",
    "evaluate",
    "find_runs",
    "group_runs",
    "half_cheetah",
    "hopper",
    "interquartile_mean",
    "make_env",
    "make_mujoco_vec_env",
    "make_vec_env",
    "open_run",
    "pendulum_swing_up",
    "planar_quadrotor_flight",
    "point_navigation",
    "reacher",
    "read_run",
    "record",
    "record_env",
    "run_control_loop",
    "shaped",
    "uniform_initial_state",
]
