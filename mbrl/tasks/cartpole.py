"""Cart-pole swing-up on a rail with end stops."""

import math
from typing import Literal

import torch
from torch import Tensor

from dynamics import CartPole
from mbrl.tasks.backend import on_backend
from mbrl.tasks.base import Task, uniform_initial_state
from mbrl.tasks.swing_up import upright
from planners import FunctionCost, GoalCost, SmoothAbsCost

FORCE_LIMIT = 10.0  # [N]
RAIL = 1.8  # half length [m]
SAFE_RAIL = 1.5  # beyond it the cost grows steeply [m]
FRAME_SKIP = 4  # MuJoCo steps of 10 ms per control step


def cart_pole_swing_up(backend: Literal["mujoco", "torch"] = "mujoco", *, system: CartPole | None = None) -> Task:
    """Swing a pole up by moving its cart, and hold it, without hitting the ends of the rail.

    Args:
        backend: ``"mujoco"`` simulates the system's MuJoCo twin with end stops at +-1.8 m and four integration steps per
            control step; ``"torch"`` the system itself, whose rail is endless.
        system: gives the physical parameters and dt; ``CartPole(dt=0.04)`` by default.

    Returns:
        A task of 10 s; success is an angle within 0.2 rad of upright over the last second.

    Raises:
        ValueError: the backend is unknown.
    """
    system = CartPole(dt=0.04) if system is None else system
    steps_per_second = round(1.0 / system.dt)

    def mjcf() -> str:
        return system.mjcf(rail=RAIL, force_limit=FORCE_LIMIT, timestep=system.dt / FRAME_SKIP)

    cost = SmoothAbsCost(state_weights=[0.0, 1.0, 0.0, 0.0], angles=[1])
    cost = cost + GoalCost(0.0, [0.2, 0.0, 0.0, 0.005], 0.01 / FORCE_LIMIT**2) + 20.0 * FunctionCost(_beyond_safe_rail)
    return Task(
        "CartPoleSwingUp",
        on_backend(system, mjcf, backend, frame_skip=FRAME_SKIP),
        cost,
        (-FORCE_LIMIT, FORCE_LIMIT),
        uniform_initial_state([-0.1, math.pi - 0.1, -0.1, -0.1], [0.1, math.pi + 0.1, 0.1, 0.1]),
        horizon=30,
        episode_steps=10 * steps_per_second,
        observation=_observation,
        success=lambda xs: upright(xs[..., -steps_per_second - 1 :, 1]),
        state_units=["m", "rad", "m/s", "rad/s"],
        control_units=["N"],
        observation_names=["position", "cos_angle", "sin_angle", "position_velocity", "angle_velocity"],
        system=system,
    )


def _beyond_safe_rail(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
    # each side on its own: the second derivative of abs makes torch load its compiler, which takes seconds
    return torch.relu(x[..., 0] - SAFE_RAIL).square() + torch.relu(-x[..., 0] - SAFE_RAIL).square()


def _observation(x: Tensor) -> Tensor:
    angle = x[..., 1]
    return torch.stack([x[..., 0], torch.cos(angle), torch.sin(angle), x[..., 2], x[..., 3]], dim=-1)
