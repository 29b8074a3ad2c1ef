"""Point navigation: a point mass in the plane finds a goal that is another one in each episode."""

import math
from typing import Literal

import torch
from torch import Tensor

from dynamics import DoubleIntegrator, MechanicalSystem
from dynamics.parameters import ParameterView
from dynamics.systems.scene import SCENE
from mbrl.tasks.backend import on_backend
from mbrl.tasks.base import Task
from mbrl.tasks.shaping import shaped
from planners import GoalCost

FORCE_LIMIT = 1.0  # along each axis [N]
RADIUS = 0.2  # of the goal [m]; at the speeds that can be reached a step is shorter than its diameter
NEAREST, FARTHEST = 1.0, 3.0  # distance of the goal at the start [m]


class PointAndGoal(MechanicalSystem):
    """A point mass and its goal, which rests: positions of both [m], then velocities of both [m/s].

    As a state the goal is known to policies, planners and learned models, and is drawn anew for each episode.

    Args:
        point: the point mass, with two axes.
        radius: of the goal in pictures [m].
    """

    def __init__(self, point: DoubleIntegrator, *, radius: float = RADIUS):
        if point.control_dim != 2:
            raise ValueError(f"point navigation is for a point mass with two axes, got {point.control_dim}")
        super().__init__(
            2,
            ["x", "y", "goal_x", "goal_y"],
            point.dt,
            integrator=point.integrator,
            parameters=point.physical_parameters,
            control_names=point.control_names,
        )
        self.point = point
        self.radius = radius

    def acceleration(self, x: Tensor, u: Tensor, p: ParameterView) -> Tensor:
        """Acceleration of the point and of the goal [m/s^2], ``(*batch, 4)``."""
        point = torch.cat([x[..., 0:2], x[..., 4:6]], dim=-1)
        acceleration = self.point.acceleration(point, u, p)
        return torch.cat([acceleration, torch.zeros_like(acceleration)], dim=-1)

    def energy(self, x: Tensor) -> Tensor:
        """Kinetic energy of the point [J]."""
        return 0.5 * self.parameters_like(x).mass * x[..., 4:6].square().sum(-1)

    def mjcf(self, *, force_limit: float | None = None) -> str:
        """The same point and goal as an MJCF string, seen from above.

        Args:
            force_limit: range of each motor [N]; None for no limit.
        """
        p = self.shared_values()
        limit = f' ctrllimited="true" ctrlrange="{-force_limit!r} {force_limit!r}"' if force_limit else ""
        axes = (("x", "1 0 0"), ("y", "0 1 0"))
        joints = "".join(
            f'<joint name="{n}" type="slide" axis="{axis}" damping="{p["damping"]!r}"/>' for n, axis in axes
        )
        goals = "".join(f'<joint name="goal_{n}" type="slide" axis="{axis}"/>' for n, axis in axes)
        motors = "".join(f'<motor name="force_{n}" joint="{n}" gear="{p["gain"]!r}"{limit}/>' for n, _ in axes)
        return f"""
<mujoco model="point navigation">
  <option timestep="{self.dt!r}" integrator="RK4" gravity="0 0 0"/>
  {SCENE}
  <worldbody>
    <camera name="top" pos="0 0 10" xyaxes="1 0 0 0 1 0"/>
    <body name="point" pos="0 0 0.1">
      {joints}
      <inertial pos="0 0 0" mass="{p["mass"]!r}" diaginertia="0.01 0.01 0.01"/>
      <geom type="sphere" size="0.12" rgba="0.85 0.45 0.1 1" contype="0" conaffinity="0"/>
    </body>
    <body name="goal">
      {goals}
      <inertial pos="0 0 0" mass="1" diaginertia="0.01 0.01 0.01"/>
      <geom type="cylinder" size="{self.radius!r} 0.01" rgba="0.2 0.6 0.3 1" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>"""


def point_navigation(
    backend: Literal["mujoco", "torch"] = "mujoco",
    *,
    system: DoubleIntegrator | None = None,
    success: float = 1.0,
    slack: float = 0.05,
    progress: float = 1.0,
) -> Task:
    """Steer a point mass to a goal that is drawn for each episode, one to three meters away, as soon as possible.

    The episode terminates within 0.2 m of the goal. The reward is that of :func:`mbrl.shaped` less one hundredth of the squared
    force: without progress (0) it is sparse.

    Args:
        backend: ``"mujoco"`` simulates the system's MuJoCo twin, ``"torch"`` the system itself.
        system: gives the physical parameters and dt; ``DoubleIntegrator(2, dt=0.1)`` by default.
        success: bonus at the goal.
        slack: penalty of every step.
        progress: reward per meter that the goal comes closer.

    Returns:
        A task of at most 10 s; success is reaching the goal.

    Raises:
        ValueError: the backend is unknown, the system has another number of axes, or a reward is negative.
    """
    system = DoubleIntegrator(2, dt=0.1) if system is None else system
    plant = PointAndGoal(system)
    plant = plant.with_parameters(**{name: getattr(system, name) for name in system.physical_parameters})
    if not 0.0 <= progress < math.inf:
        raise ValueError(f"progress must be finite and not negative, got {progress}")
    task = Task(
        "PointNavigation",
        on_backend(plant, lambda: plant.mjcf(force_limit=FORCE_LIMIT), backend),
        GoalCost(0.0, 0.0, 0.01),
        (-FORCE_LIMIT, FORCE_LIMIT),
        _initial_state,
        horizon=20,
        episode_steps=round(10.0 / plant.dt),
        observation=_observation,
        termination=_reached,
        success=lambda xs: _reached(xs).any(-1),
        state_units=["m"] * 4 + ["m/s"] * 4,
        control_units=["N", "N"],
        observation_names=["x", "y", "x_velocity", "y_velocity", "goal_ahead_x", "goal_ahead_y"],
        system=plant,
    )
    return shaped(
        task,
        success=success,
        reached=_reached if success else None,
        slack=slack,
        progress=(lambda x: -progress * _distance(x)) if progress else None,
    )


def _distance(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x[..., 2:4] - x[..., 0:2], dim=-1)


def _reached(x: Tensor) -> Tensor:
    return _distance(x) <= RADIUS


def _observation(x: Tensor) -> Tensor:
    return torch.cat([x[..., 0:2], x[..., 4:6], x[..., 2:4] - x[..., 0:2]], dim=-1)


def _initial_state(batch: int, generator: torch.Generator) -> Tensor:
    """At rest within a meter of the origin along each axis, the goal in any direction."""
    x, y, angle, distance = torch.rand(batch, 4, generator=generator, dtype=torch.float64).unbind(-1)
    start = 2.0 * torch.stack([x, y], dim=-1) - 1.0
    direction = torch.stack([torch.cos(2 * math.pi * angle), torch.sin(2 * math.pi * angle)], dim=-1)
    goal = start + (NEAREST + (FARTHEST - NEAREST) * distance).unsqueeze(-1) * direction
    return torch.cat([start, goal, torch.zeros(batch, 4, dtype=torch.float64)], dim=-1)
