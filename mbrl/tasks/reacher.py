r"""Reacher: bring the fingertip of a planar arm to a goal that is another one in every episode, and keep it there.

.. math:: \ell(x, u) = \sqrt{d^2 + p^2} - p + 0.02 \, (\dot q_1^2 + \dot q_2^2) + 0.01 \, |u|^2 / \bar u^2

with the distance d of the fingertip from the goal [m], :math:`p` = 0.05 m and the torque limit :math:`\bar u`. The goal is in
the state, so planners and policies see it, and a batch of episodes has a goal each.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dynamics import Reacher
from mbrl.tasks.backend import on_backend
from mbrl.tasks.base import Task
from planners import FunctionCost

TORQUE_LIMIT = 1.0  # of each motor [N m]; turns the outstretched arm by half a turn in about three seconds
SMOOTHING = 0.05  # p [m]
CLOSE = 0.05  # distance that counts as reached [m]


def reacher(
    backend: Literal["mujoco", "torch"] = "mujoco",
    *,
    system: Reacher | None = None,
    torque_limit: float = TORQUE_LIMIT,
) -> Task:
    """Reach a goal in the plane with the fingertip of a two-link arm, and stay there.

    An episode starts at any angles, at rest, with a goal that is equally likely everywhere in the ring between 20 and 90 % of
    the way from the nearest to the farthest point that the arm reaches (0 and 1 m by default). To choose the goal, choose the
    state: columns ``goal_x`` and ``goal_y``.

    Args:
        backend: ``"mujoco"`` simulates the system's MuJoCo twin, ``"torch"`` the system itself.
        system: gives the physical parameters and dt; ``Reacher(dt=0.05)`` by default.
        torque_limit: of both motors [N m].

    Returns:
        A task of 5 s; success is a fingertip within 5 cm of the goal over the last second.

    Raises:
        ValueError: the backend is unknown or the limit is not positive.
    """
    system = Reacher(dt=0.05) if system is None else system
    if not 0 < torque_limit < math.inf:
        raise ValueError(f"torque_limit must be positive and finite, got {torque_limit}")
    steps_per_second = round(1.0 / system.dt)

    def to_goal(x: Tensor) -> Tensor:
        return x[..., 2:4] - system.fingertip(x)

    def stage(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        squared = to_goal(x).square().sum(-1)
        distance = squared / ((squared + SMOOTHING**2).sqrt() + SMOOTHING)
        return distance + 0.02 * x[..., 4:6].square().sum(-1) + 0.01 * (u / torque_limit).square().sum(-1)

    def observation(x: Tensor) -> Tensor:
        angles = x[..., :2]
        return torch.cat([torch.cos(angles), torch.sin(angles), x[..., 2:4], x[..., 4:6], to_goal(x)], dim=-1)

    def reached(xs: Tensor) -> Tensor:
        return (torch.linalg.vector_norm(to_goal(xs), dim=-1) < CLOSE).all(-1)

    return Task(
        "Reacher",
        on_backend(system, lambda: system.mjcf(torque_limit=torque_limit), backend),
        FunctionCost(stage),
        (-torque_limit, torque_limit),
        _initial_state(system),
        horizon=steps_per_second,
        episode_steps=5 * steps_per_second,
        observation=observation,
        success=lambda xs: reached(xs[..., -steps_per_second - 1 :, :]),
        state_units=["rad", "rad", "m", "m", "rad/s", "rad/s", "m/s", "m/s"],
        control_units=["N m", "N m"],
        observation_names=[
            *("cos_shoulder", "cos_elbow", "sin_shoulder", "sin_elbow", "goal_x", "goal_y"),
            *("shoulder_velocity", "elbow_velocity", "to_goal_x", "to_goal_y"),
        ],
        system=system,
    )


def _initial_state(system: Reacher) -> Callable[[int, torch.Generator], Tensor]:
    first, second = (getattr(system, f"length_{number}") for number in (1, 2))
    nearest = float((first - second).abs().max())  # of all worlds, where there are several
    farthest = float((first + second).min())
    inner, outer = (nearest + share * (farthest - nearest) for share in (0.2, 0.9))

    def sample(batch: int, generator: torch.Generator) -> Tensor:
        shoulder, elbow, direction, area = torch.rand(4, batch, generator=generator, dtype=torch.float64)
        radius = (inner**2 + (outer**2 - inner**2) * area).sqrt()
        shoulder, elbow, direction = (math.pi * (2.0 * turn - 1.0) for turn in (shoulder, elbow, direction))
        goal = radius * torch.cos(direction), radius * torch.sin(direction)
        rest = torch.zeros(batch, dtype=torch.float64)
        return torch.stack([shoulder, elbow, *goal, rest, rest, rest, rest], dim=-1)

    return sample
