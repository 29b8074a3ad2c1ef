r"""An acrobot: two uniform rods in a row with a motor at the elbow only (Spong 1995).

.. math:: M(q) \ddot q + c(q, \dot q) = \tau_g(q) - d \odot \dot q + (0, k u)

with :math:`q_1` the angle of the first rod from upright and :math:`q_2` the angle of the second relative to the first; M and c
are those of :mod:`dynamics.systems.two_link`.
"""

from typing import Literal

import torch
from torch import Tensor

from dynamics.analytic import MechanicalSystem
from dynamics.parameters import ParameterView, PhysicalParameter
from dynamics.systems.scene import SCENE
from dynamics.systems.two_link import accelerations, kinetic_energy, rod_parameters


class Acrobot(MechanicalSystem):
    """Acrobot with state (shoulder, elbow [rad], their velocities) and the elbow torque [N m] as control; upright is zero.

    Args:
        dt: duration of one step [s].
        integrator: ``"rk4"`` or ``"semi_implicit_euler"``.
    """

    def __init__(self, dt: float = 0.05, *, integrator: Literal["rk4", "semi_implicit_euler"] = "rk4"):
        super().__init__(
            1,
            ["shoulder", "elbow"],
            dt,
            integrator=integrator,
            parameters={
                **rod_parameters(mass=1.0, length=1.0),
                "gravity": PhysicalParameter(9.81, "m/s^2", description="gravitational acceleration"),
                "gain": PhysicalParameter(1.0, "1", description="torque per commanded torque"),
            },
            control_names=["torque"],
            angles=[0, 1],
        )

    def acceleration(self, x: Tensor, u: Tensor, p: ParameterView) -> Tensor:
        """Angular accelerations [rad/s^2], ``(*batch, 2)``."""
        q1, q2, v1, v2 = x.unbind(-1)
        second = 0.5 * p.mass_2 * p.gravity * p.length_2 * torch.sin(q1 + q2)
        first = (0.5 * p.mass_1 + p.mass_2) * p.gravity * p.length_1 * torch.sin(q1)
        return accelerations(q2, v1, v2, first + second, second + p.gain * u[..., 0], p)

    def energy(self, x: Tensor) -> Tensor:
        """Kinetic plus potential energy [J], zero height at the shoulder."""
        p = self.parameters_like(x)
        q1, q2, v1, v2 = x.unbind(-1)
        first = (0.5 * p.mass_1 + p.mass_2) * p.gravity * p.length_1 * torch.cos(q1)
        return kinetic_energy(q2, v1, v2, p) + first + 0.5 * p.mass_2 * p.gravity * p.length_2 * torch.cos(q1 + q2)

    def mjcf(self, *, torque_limit: float | None = None, timestep: float | None = None) -> str:
        """The same acrobot as an MJCF string.

        Args:
            torque_limit: range of the motor [N m]; None for no limit.
            timestep: of MuJoCo's integrator [s]; dt by default.
        """
        p = self.shared_values()
        limit = f'ctrllimited="true" ctrlrange="{-torque_limit!r} {torque_limit!r}"' if torque_limit else ""
        reach = p["length_1"] + p["length_2"]

        def rod(number: int) -> str:
            mass, length = p[f"mass_{number}"], p[f"length_{number}"]
            inertia = mass * length**2 / 12.0
            return (
                f'<inertial pos="0 0 {0.5 * length!r}" mass="{mass!r}" '
                f'diaginertia="{inertia!r} {inertia!r} {1e-6 * inertia!r}"/>'
                f'<geom type="capsule" fromto="0 0 0 0 0 {length!r}" size="0.04" rgba="0.85 0.45 0.1 1" '
                'contype="0" conaffinity="0"/>'
            )

        return f"""
<mujoco model="acrobot">
  <option timestep="{timestep or self.dt!r}" integrator="RK4" gravity="0 0 {-p["gravity"]!r}"/>
  {SCENE}
  <worldbody>
    <camera name="side" pos="0 {-3.5 * reach!r} 0" xyaxes="1 0 0 0 0 1"/>
    <body name="upper">
      <joint name="shoulder" type="hinge" axis="0 1 0" damping="{p["damping_1"]!r}"/>
      {rod(1)}
      <body name="lower" pos="0 0 {p["length_1"]!r}">
        <joint name="elbow" type="hinge" axis="0 1 0" damping="{p["damping_2"]!r}"/>
        {rod(2)}
      </body>
    </body>
  </worldbody>
  <actuator><motor name="torque" joint="elbow" gear="{p["gain"]!r}" {limit}/></actuator>
</mujoco>"""
