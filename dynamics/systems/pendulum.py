r"""A pendulum: a uniform rod on a motor.

.. math:: \tfrac13 m l^2 \ddot\theta = \tfrac12 m g l \sin\theta - d \dot\theta + k u

with :math:`\theta = 0` upright.
"""

from typing import Literal

import torch
from torch import Tensor

from dynamics.analytic import MechanicalSystem
from dynamics.parameters import ParameterView, PhysicalParameter
from dynamics.systems.scene import SCENE


class Pendulum(MechanicalSystem):
    """Pendulum with state (angle [rad], angular velocity [rad/s]) and a torque [N m] as control; upright is zero.

    Args:
        dt: duration of one step [s].
        integrator: ``"rk4"`` or ``"semi_implicit_euler"``.
    """

    def __init__(self, dt: float = 0.05, *, integrator: Literal["rk4", "semi_implicit_euler"] = "rk4"):
        super().__init__(
            1,
            ["angle"],
            dt,
            integrator=integrator,
            parameters={
                "mass": PhysicalParameter(1.0, "kg", (0, float("inf")), "log", "mass of the rod"),
                "length": PhysicalParameter(1.0, "m", (0, float("inf")), "log", "length of the rod"),
                "gravity": PhysicalParameter(9.81, "m/s^2", description="gravitational acceleration"),
                "damping": PhysicalParameter(0.0, "N m s/rad", (0, float("inf")), description="viscous friction"),
                "gain": PhysicalParameter(1.0, "1", description="torque per commanded torque"),
            },
            control_names=["torque"],
            angles=[0],
        )

    def acceleration(self, x: Tensor, u: Tensor, p: ParameterView) -> Tensor:
        """Angular acceleration [rad/s^2], ``(*batch, 1)``."""
        angle, velocity = x[..., 0], x[..., 1]
        gravity_torque = 0.5 * p.mass * p.gravity * p.length * torch.sin(angle)
        torque = gravity_torque - p.damping * velocity + p.gain * u[..., 0]
        return (3.0 * torque / (p.mass * p.length**2)).unsqueeze(-1)

    def energy(self, x: Tensor) -> Tensor:
        """Kinetic plus potential energy [J], zero height at the pivot."""
        p = self.parameters_like(x)
        kinetic = p.mass * p.length**2 * x[..., 1] ** 2 / 6.0
        return kinetic + 0.5 * p.mass * p.gravity * p.length * torch.cos(x[..., 0])

    def mjcf(self, *, torque_limit: float | None = None) -> str:
        """The same pendulum as an MJCF string.

        Args:
            torque_limit: range of the motor [N m]; None for no limit.
        """
        p = self.shared_values()
        inertia = p["mass"] * p["length"] ** 2 / 12.0
        limit = f'ctrllimited="true" ctrlrange="{-torque_limit!r} {torque_limit!r}"' if torque_limit else ""
        return f"""
<mujoco model="pendulum">
  <option timestep="{self.dt!r}" integrator="RK4" gravity="0 0 {-p["gravity"]!r}"/>
  {SCENE}
  <worldbody>
    <camera name="side" pos="0 -{3.5 * p["length"]!r} 0" xyaxes="1 0 0 0 0 1"/>
    <body name="rod">
      <joint name="angle" type="hinge" axis="0 1 0" damping="{p["damping"]!r}"/>
      <inertial pos="0 0 {0.5 * p["length"]!r}" mass="{p["mass"]!r}" diaginertia="{inertia!r} {inertia!r} {1e-6 * inertia!r}"/>
      <geom type="capsule" fromto="0 0 0 0 0 {p["length"]!r}" size="0.04" rgba="0.85 0.45 0.1 1" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <actuator><motor name="torque" joint="angle" gear="{p["gain"]!r}" {limit}/></actuator>
</mujoco>"""
