r"""Acrobot swing-up: two rods, a motor between them, and nothing that holds the first one up.

.. math::
    \ell(x, u) &= \rho(q_1) + \rho(q_1 + q_2) + 0.01 \, (\dot q_1^2 + \dot q_2^2) + 0.01 \, (u / \bar u)^2,
    \qquad \rho(\theta) = \sqrt{2 (1 - \cos\theta) + p^2} - p, \quad p = 0.1 \\
    \ell_T(x) &= c V(x) / (c + V(x)), \qquad V(x) = \tfrac12 x^\top P x

with the rods' angles from upright, the torque limit :math:`\bar u`, and P of the infinite-horizon regulator of the
linearization and the stage cost's Hessian at upright. Near upright, V is what it will cost to hold, which no plan of 0.4 s
can see: without it, the rods come up and fall down again. Far away it means nothing, and :math:`\ell_T` levels off at c.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dynamics import Acrobot, LinearDynamics
from mbrl.tasks.backend import on_backend
from mbrl.tasks.base import Task, uniform_initial_state
from mbrl.tasks.swing_up import upright
from planners import LQR, Cost, FunctionCost, Problem, QuadraticCost, solve

TORQUE_LIMIT = 10.0  # [N m]; holding the lower rod level takes 4.9, and no torque of the elbow holds the upper one
FRAME_SKIP = 2  # MuJoCo steps of 12.5 ms per control step
SMOOTHING = 0.1  # p
PLAN = (
    0.4  # horizon; 0.3 does not see the swing, and in 0.5 samples of an unstable motion scatter too far to hold it [s]
)
LARGEST_TERMINAL = 1000.0  # c, some ten times what a plan that hangs costs


def acrobot_swing_up(
    backend: Literal["mujoco", "torch"] = "mujoco",
    *,
    system: Acrobot | None = None,
    torque_limit: float = TORQUE_LIMIT,
) -> Task:
    """Swing an acrobot up from near hanging and hold both rods upright, with the motor at the elbow alone.

    The default acrobot's lower rod (1 m) is twice as long as its upper one. With equal rods the balance is so delicate that
    holding them is a matter of hundredths of a radian, whatever the torque.

    Args:
        backend: ``"mujoco"`` simulates the system's MuJoCo twin with two integration steps per control step, ``"torch"`` the
            system itself.
        system: gives the physical parameters and dt; by default ``Acrobot(dt=0.025)`` with an upper rod of 0.5 m.
        torque_limit: of the motor [N m].

    Returns:
        A task of 10 s; success is both rods within 0.2 rad of upright over the last second.

    Raises:
        ValueError: the backend is unknown, the limit is not positive, or a parameter has one value per world.
    """
    system = Acrobot(dt=0.025).with_parameters(length_1=0.5) if system is None else system
    per_world = [name for name in system.physical_parameters if getattr(system, name).ndim > 0]
    if per_world:
        raise ValueError(
            f"the cost is that of one acrobot, got one value per world for: {', '.join(per_world)}; make the task with the "
            "nominal system and plan on the others, task.problem(system.with_parameters(...))"
        )
    if not 0 < torque_limit < math.inf:
        raise ValueError(f"torque_limit must be positive and finite, got {torque_limit}")
    steps_per_second = round(1.0 / system.dt)

    def mjcf() -> str:
        return system.mjcf(torque_limit=torque_limit, timestep=system.dt / FRAME_SKIP)

    return Task(
        "AcrobotSwingUp",
        on_backend(system, mjcf, backend, frame_skip=FRAME_SKIP),
        _cost(system, torque_limit),
        (-torque_limit, torque_limit),
        uniform_initial_state([math.pi - 0.1, -0.1, -0.1, -0.1], [math.pi + 0.1, 0.1, 0.1, 0.1]),
        horizon=round(PLAN * steps_per_second),
        episode_steps=10 * steps_per_second,
        observation=_observation,
        success=lambda xs: _upright(xs[..., -steps_per_second - 1 :, :]),
        state_units=["rad", "rad", "rad/s", "rad/s"],
        control_units=["N m"],
        observation_names=[
            "cos_shoulder",
            "sin_shoulder",
            "cos_elbow",
            "sin_elbow",
            "shoulder_velocity",
            "elbow_velocity",
        ],
        system=system,
    )


def _cost(system: Acrobot, torque_limit: float) -> Cost:
    def stage(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        first, second = (_smooth_abs(angle) for angle in (x[..., 0], x[..., 0] + x[..., 1]))
        return first + second + 0.01 * x[..., 2:].square().sum(-1) + 0.01 * (u[..., 0] / torque_limit).square()

    return FunctionCost(stage, _cost_to_hold(system, FunctionCost(stage)))


def _cost_to_hold(system: Acrobot, stage: Cost) -> Callable[[Tensor], Tensor]:
    """The terminal cost: the regulator's cost-to-go about upright, leveled off."""
    rest, still = torch.zeros(4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    near = system.linearize(rest, still)
    hessian = stage.expand(rest, still, 0)
    quadratic = QuadraticCost(hessian.xx.detach(), hessian.uu.detach())
    regulator = Problem(LinearDynamics(near.fx.detach(), near.fu.detach(), dt=system.dt), quadratic, math.inf)
    P: Tensor = solve(regulator, LQR(), rest).P  # type: ignore[assignment]

    def terminal(x: Tensor) -> Tensor:
        error = torch.cat([torch.remainder(x[..., :2] + math.pi, 2.0 * math.pi) - math.pi, x[..., 2:]], dim=-1)
        value = 0.5 * (error @ P.to(x) * error).sum(-1)
        return LARGEST_TERMINAL * value / (LARGEST_TERMINAL + value)

    return terminal


def _smooth_abs(angle: Tensor) -> Tensor:
    squared = 4.0 * torch.sin(0.5 * angle).square()
    return squared / ((squared + SMOOTHING**2).sqrt() + SMOOTHING)


def _upright(xs: Tensor) -> Tensor:
    return upright(xs[..., 0]) & upright(xs[..., 0] + xs[..., 1])


def _observation(x: Tensor) -> Tensor:
    first, second = x[..., 0], x[..., 1]
    angles = torch.stack([torch.cos(first), torch.sin(first), torch.cos(second), torch.sin(second)], dim=-1)
    return torch.cat([angles, x[..., 2:]], dim=-1)
