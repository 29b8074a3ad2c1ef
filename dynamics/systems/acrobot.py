r"""An acrobot: two uniform rods in a row with a motor at the elbow only (Spong 1995).

.. math:: M(q) \ddot q + c(q, \dot q) = \tau_g(q) - d \odot \dot q + (0, k u)

with :math:`q_1` the angle of the first rod from upright and :math:`q_2` the angle of the second relative to the first.
"""

from typing import Literal

import torch
from torch import Tensor

from dynamics.analytic import MechanicalSystem
from dynamics.parameters import ParameterView, PhysicalParameter
from dynamics.systems.scene import SCENE


class Acrobot(MechanicalSystem):
    """Acrobot with state (shoulder, elbow [rad], their velocities) and the elbow torque [N m] as control; upright is zero.

    Args:
        dt: duration of one step [s].
        integrator: ``"rk4"`` or ``"semi_implicit_euler"``.
    """

    def __init__(self, dt: float = 0.05, *, integrator: Literal["rk4", "semi_implicit_euler"] = "rk4"):
        positive = (0, float("inf"))
        super().__init__(
            1,
            ["shoulder", "elbow"],
            dt,
            integrator=integrator,
            parameters={
                "mass_1": PhysicalParameter(1.0, "kg", positive, "log", "mass of the first rod"),
                "mass_2": PhysicalParameter(1.0, "kg", positive, "log", "mass of the second rod"),
                "length_1": PhysicalParameter(1.0, "m", positive, "log", "length of the first rod"),
                "length_2": PhysicalParameter(1.0, "m", positive, "log", "length of the second rod"),
                "gravity": PhysicalParameter(9.81, "m/s^2", description="gravitational acceleration"),
                "damping_1": PhysicalParameter(
                    0.0, "N m s/rad", positive, description="viscous friction of the shoulder"
                ),
                "damping_2": PhysicalParameter(0.0, "N m s/rad", positive, description="viscous friction of the elbow"),
                "gain": PhysicalParameter(1.0, "1", description="torque per commanded torque"),
            },
            control_names=["torque"],
            angles=[0, 1],
        )

    def acceleration(self, x: Tensor, u: Tensor, p: ParameterView) -> Tensor:
        """Angular accelerations [rad/s^2], ``(*batch, 2)``."""
        q1, q2, v1, v2 = x.unbind(-1)
        M11, M12, M22 = self._mass_matrix(q2, p)
        coupling = 0.5 * p.mass_2 * p.length_1 * p.length_2 * torch.sin(q2)
        second = 0.5 * p.mass_2 * p.gravity * p.length_2 * torch.sin(q1 + q2)
        first = (0.5 * p.mass_1 + p.mass_2) * p.gravity * p.length_1 * torch.sin(q1)
        r1 = first + second + coupling * (2.0 * v1 * v2 + v2**2) - p.damping_1 * v1
        r2 = second - coupling * v1**2 - p.damping_2 * v2 + p.gain * u[..., 0]
        determinant = M11 * M22 - M12 * M12
        return torch.stack([(M22 * r1 - M12 * r2) / determinant, (M11 * r2 - M12 * r1) / determinant], dim=-1)

    def _mass_matrix(self, q2: Tensor, p: ParameterView) -> tuple[Tensor, Tensor, Tensor]:
        M22 = p.mass_2 * p.length_2**2 / 3.0
        cross = 0.5 * p.mass_2 * p.length_1 * p.length_2 * torch.cos(q2)
        M11 = (p.mass_1 / 3.0 + p.mass_2) * p.length_1**2 + M22 + 2.0 * cross
        return M11, M22 + cross, M22

    def energy(self, x: Tensor) -> Tensor:
        """Kinetic plus potential energy [J], zero height at the shoulder."""
        p = self.parameters_like(x)
        q1, q2, v1, v2 = x.unbind(-1)
        M11, M12, M22 = self._mass_matrix(q2, p)
        kinetic = 0.5 * M11 * v1**2 + M12 * v1 * v2 + 0.5 * M22 * v2**2
        first = (0.5 * p.mass_1 + p.mass_2) * p.gravity * p.length_1 * torch.cos(q1)
        return kinetic + first + 0.5 * p.mass_2 * p.gravity * p.length_2 * torch.cos(q1 + q2)

    def mjcf(self, *, torque_limit: float | None = None) -> str:
        """The same acrobot as an MJCF string.

        Args:
            torque_limit: range of the motor [N m]; None for no limit.
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
  <option timestep="{self.dt!r}" integrator="RK4" gravity="0 0 {-p["gravity"]!r}"/>
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
