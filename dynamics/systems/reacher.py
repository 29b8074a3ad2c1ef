r"""A reacher: a planar arm of two uniform rods with a motor at each joint and no gravity, and a goal in its plane.

.. math:: M(q) \ddot q + c(q, \dot q) = k u - d \odot \dot q, \qquad \ddot g = 0

with :math:`q_1` the angle of the first rod from the x axis, :math:`q_2` the angle of the second relative to the first, M and c
those of :mod:`dynamics.systems.two_link`, and the goal g. The goal is part of the state, so that whoever sees the state sees
the goal, and a batch of states can have a goal each. Nothing pushes it: it rests where it starts, or keeps its velocity.
"""

from typing import Literal

import torch
from torch import Tensor

from dynamics.analytic import MechanicalSystem
from dynamics.parameters import ParameterView, PhysicalParameter
from dynamics.systems.scene import SCENE
from dynamics.systems.two_link import accelerations, kinetic_energy, rod_parameters

GOAL_MASS = 1e-3  # MuJoCo moves nothing without mass; it has no effect on the arm [kg]


class Reacher(MechanicalSystem):
    """Planar arm with state (shoulder, elbow [rad], goal_x, goal_y [m], their velocities) and two joint torques [N m].

    Args:
        dt: duration of one step [s].
        integrator: ``"rk4"`` or ``"semi_implicit_euler"``.
    """

    def __init__(self, dt: float = 0.05, *, integrator: Literal["rk4", "semi_implicit_euler"] = "rk4"):
        super().__init__(
            2,
            ["shoulder", "elbow", "goal_x", "goal_y"],
            dt,
            integrator=integrator,
            parameters={
                **rod_parameters(mass=1.0, length=0.5),
                "gain": PhysicalParameter(1.0, "1", description="torque per commanded torque"),
            },
            control_names=["shoulder_torque", "elbow_torque"],
            angles=[0, 1],
        )

    def acceleration(self, x: Tensor, u: Tensor, p: ParameterView) -> Tensor:
        """Accelerations of the joints [rad/s^2] and of the goal [m/s^2], ``(*batch, 4)``."""
        joints = accelerations(x[..., 1], x[..., 4], x[..., 5], p.gain * u[..., 0], p.gain * u[..., 1], p)
        return torch.cat([joints, torch.zeros_like(joints)], dim=-1)

    def energy(self, x: Tensor) -> Tensor:
        """Kinetic energy of arm and goal [J]."""
        goal = 0.5 * GOAL_MASS * x[..., 6:].square().sum(-1)
        return kinetic_energy(x[..., 1], x[..., 4], x[..., 5], self.parameters_like(x)) + goal

    def fingertip(self, x: Tensor) -> Tensor:
        """Where the arm ends [m], ``(*batch, 2)``, of states ``(*batch, 8)``; the shoulder is at the origin."""
        p = self.parameters_like(x)
        first, both = x[..., 0], x[..., 0] + x[..., 1]
        return torch.stack(
            [
                p.length_1 * torch.cos(first) + p.length_2 * torch.cos(both),
                p.length_1 * torch.sin(first) + p.length_2 * torch.sin(both),
            ],
            dim=-1,
        )

    def mjcf(self, *, torque_limit: float | None = None) -> str:
        """The same arm and goal as an MJCF string.

        Args:
            torque_limit: range of both motors [N m]; None for no limit.
        """
        p = self.shared_values()
        limit = f'ctrllimited="true" ctrlrange="{-torque_limit!r} {torque_limit!r}"' if torque_limit else ""
        reach = p["length_1"] + p["length_2"]
        looks = 'contype="0" conaffinity="0"'  # drawn, never touched

        def rod(number: int) -> str:
            mass, length = p[f"mass_{number}"], p[f"length_{number}"]
            inertia = mass * length**2 / 12.0
            return (
                f'<inertial pos="{0.5 * length!r} 0 0" mass="{mass!r}" '
                f'diaginertia="{1e-6 * inertia!r} {inertia!r} {inertia!r}"/>'
                f'<geom type="capsule" fromto="0 0 0 {length!r} 0 0" size="{0.03 * reach!r}" rgba="0.85 0.45 0.1 1" {looks}/>'
            )

        return f"""
<mujoco model="reacher">
  <option timestep="{self.dt!r}" integrator="RK4" gravity="0 0 0"/>
  {SCENE}
  <worldbody>
    <camera name="top" pos="0 0 {2.8 * reach!r}"/>
    <body name="upper">
      <joint name="shoulder" type="hinge" axis="0 0 1" damping="{p["damping_1"]!r}"/>
      {rod(1)}
      <body name="lower" pos="{p["length_1"]!r} 0 0">
        <joint name="elbow" type="hinge" axis="0 0 1" damping="{p["damping_2"]!r}"/>
        {rod(2)}
      </body>
    </body>
    <body name="goal">
      <joint name="goal_x" type="slide" axis="1 0 0"/>
      <joint name="goal_y" type="slide" axis="0 1 0"/>
      <inertial pos="0 0 0" mass="{GOAL_MASS!r}" diaginertia="1e-6 1e-6 1e-6"/>
      <geom type="sphere" size="{0.04 * reach!r}" rgba="0 0.6 0.45 1" {looks}/>
    </body>
  </worldbody>
  <actuator>
    <motor name="shoulder_torque" joint="shoulder" gear="{p["gain"]!r}" {limit}/>
    <motor name="elbow_torque" joint="elbow" gear="{p["gain"]!r}" {limit}/>
  </actuator>
</mujoco>"""
