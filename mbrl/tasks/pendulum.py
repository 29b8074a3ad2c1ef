"""Pendulum swing-up with a motor too weak to lift the rod at once."""

import math
from typing import Literal

import torch
from torch import Tensor

from dynamics import Pendulum
from mbrl.tasks.backend import on_backend
from mbrl.tasks.base import Task, uniform_initial_state
from mbrl.tasks.swing_up import upright
from planners import GoalCost, SmoothAbsCost

TORQUE_LIMIT = 2.0  # [N m]; holding the rod level takes 4.9


def pendulum_swing_up(
    backend: Literal["mujoco", "torch"] = "mujoco",
    *,
    system: Pendulum | None = None,
    torque_limit: float = TORQUE_LIMIT,
) -> Task:
    """Swing a pendulum up from near hanging and hold it.

    Args:
        backend: ``"mujoco"`` simulates the system's MuJoCo twin, ``"torch"`` the system itself.
        system: gives the physical parameters and dt; ``Pendulum(dt=0.05)`` by default.
        torque_limit: of the motor [N m].

    Returns:
        A task of 10 s; success is an angle within 0.2 rad of upright over the last second.

    Raises:
        ValueError: the backend is unknown.
    """
    system = Pendulum(dt=0.05) if system is None else system
    steps_per_second = round(1.0 / system.dt)
    return Task(
        "PendulumSwingUp",
        on_backend(system, lambda: system.mjcf(torque_limit=torque_limit), backend),
        SmoothAbsCost(state_weights=[1.0, 0.0], angles=[0]) + GoalCost(0.0, [0.0, 0.02], 0.01),
        (-torque_limit, torque_limit),
        uniform_initial_state([math.pi - 0.3, -0.3], [math.pi + 0.3, 0.3]),
        horizon=2 * steps_per_second,
        episode_steps=10 * steps_per_second,
        observation=_observation,
        success=lambda xs: upright(xs[..., -steps_per_second - 1 :, 0]),
        state_units=["rad", "rad/s"],
        control_units=["N m"],
        observation_names=["cos_angle", "sin_angle", "angle_velocity"],
        system=system,
    )


def _observation(x: Tensor) -> Tensor:
    return torch.stack([torch.cos(x[..., 0]), torch.sin(x[..., 0]), x[..., 1]], dim=-1)
