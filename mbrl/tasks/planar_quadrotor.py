r"""Planar quadrotor: fly to the origin from any place nearby, and hover there.

.. math::
    \ell(x, u) = \sqrt{d^2 + p^2} - p + 0.1 \, (1 - \cos\theta) + 0.05 \, |\dot p|^2 + 0.005 \, \dot\theta^2
        + 0.05 \, |u - u_h|^2 / \bar u^2

with the distance d of the center from the origin [m], :math:`p` = 0.2 m, the velocity :math:`\dot p` of the center, the thrusts
:math:`u_h` that hover, and the thrust limit :math:`\bar u`.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from dynamics import PlanarQuadrotor
from mbrl.tasks.backend import on_backend
from mbrl.tasks.base import Task, uniform_initial_state
from planners import FunctionCost

THRUST_LIMIT = 5.0  # of each rotor [N]; both lift twice the weight
SMOOTHING = 0.2  # p [m]
CLOSE = 0.2  # distance that counts as there [m]


def planar_quadrotor_flight(
    backend: Literal["mujoco", "torch"] = "mujoco",
    *,
    system: PlanarQuadrotor | None = None,
    thrust_limit: float = THRUST_LIMIT,
) -> Task:
    """Fly a planar quadrotor to the origin, and hover there.

    An episode starts up to 2 m away along each axis, tilted by up to half a radian, in motion.

    Args:
        backend: ``"mujoco"`` simulates the system's MuJoCo twin, ``"torch"`` the system itself.
        system: gives the physical parameters and dt; ``PlanarQuadrotor(dt=0.02)`` by default.
        thrust_limit: of each rotor [N]; the smallest thrust is zero.

    Returns:
        A task of 5 s; success is a center within 0.2 m of the origin over the last second.

    Raises:
        ValueError: the backend is unknown or the limit is not positive.
    """
    system = PlanarQuadrotor(dt=0.02) if system is None else system
    if not 0 < thrust_limit < math.inf:
        raise ValueError(f"thrust_limit must be positive and finite, got {thrust_limit}")
    steps_per_second = round(1.0 / system.dt)

    def stage(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        squared = x[..., :2].square().sum(-1)
        distance = squared / ((squared + SMOOTHING**2).sqrt() + SMOOTHING)
        p = system.parameters_like(x)
        hover = (0.5 * p.mass * p.gravity / p.gain).unsqueeze(-1)
        motion = 0.05 * x[..., 3:5].square().sum(-1) + 0.005 * x[..., 5].square()
        return (
            distance
            + 0.1 * (1.0 - torch.cos(x[..., 2]))
            + motion
            + 0.05 * ((u - hover) / thrust_limit).square().sum(-1)
        )

    return Task(
        "PlanarQuadrotorFlight",
        on_backend(system, lambda: system.mjcf(thrust_limit=thrust_limit), backend),
        FunctionCost(stage),
        (0.0, thrust_limit),
        uniform_initial_state([-2.0, -2.0, -0.5, -0.5, -0.5, -1.0], [2.0, 2.0, 0.5, 0.5, 0.5, 1.0]),
        horizon=30,
        episode_steps=5 * steps_per_second,
        observation=_observation,
        success=lambda xs: _there(xs[..., -steps_per_second - 1 :, :]),
        state_units=["m", "m", "rad", "m/s", "m/s", "rad/s"],
        control_units=["N", "N"],
        observation_names=["x", "z", "cos_angle", "sin_angle", "x_velocity", "z_velocity", "angle_velocity"],
        system=system,
    )


def _there(xs: Tensor) -> Tensor:
    return (torch.linalg.vector_norm(xs[..., :2], dim=-1) < CLOSE).all(-1)


def _observation(x: Tensor) -> Tensor:
    angle = x[..., 2:3]
    return torch.cat([x[..., :2], torch.cos(angle), torch.sin(angle), x[..., 3:]], dim=-1)
