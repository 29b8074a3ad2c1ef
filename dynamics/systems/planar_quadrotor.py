r"""A quadrotor seen from the side: a rigid body in a vertical plane with a rotor at the end of each of its two arms.

With thrusts :math:`u_l, u_r` of the left and the right rotor and the arm length a,

.. math::
    m \ddot x = k (u_l + u_r) \sin\theta, \qquad m \ddot z = k (u_l + u_r) \cos\theta - m g, \qquad
    I \ddot\theta = k a (u_l - u_r)

with :math:`\theta = 0` level and positive angles leaning towards positive x.
"""

from typing import Literal

import torch
from torch import Tensor

from dynamics.analytic import MechanicalSystem
from dynamics.parameters import ParameterView, PhysicalParameter
from dynamics.systems.scene import SCENE


class PlanarQuadrotor(MechanicalSystem):
    """Planar quadrotor with state (x, z [m], angle [rad], their velocities) and two rotor thrusts [N] as controls.

    Args:
        dt: duration of one step [s].
        integrator: ``"rk4"`` or ``"semi_implicit_euler"``.
    """

    mass: Tensor
    gravity: Tensor
    gain: Tensor

    def __init__(self, dt: float = 0.02, *, integrator: Literal["rk4", "semi_implicit_euler"] = "rk4"):
        positive = (0, float("inf"))
        super().__init__(
            2,
            ["x", "z", "angle"],
            dt,
            integrator=integrator,
            parameters={
                "mass": PhysicalParameter(0.5, "kg", positive, "log", "mass"),
                "inertia": PhysicalParameter(0.004, "kg m^2", positive, "log", "moment of inertia about the center"),
                "arm_length": PhysicalParameter(0.17, "m", positive, "log", "distance of a rotor from the center"),
                "gravity": PhysicalParameter(9.81, "m/s^2", description="gravitational acceleration"),
                "gain": PhysicalParameter(1.0, "1", description="thrust per commanded thrust"),
            },
            control_names=["left_thrust", "right_thrust"],
            angles=[2],
        )

    @property
    def hover_control(self) -> Tensor:
        """The thrusts that carry the weight of the level quadrotor [N]: ``(2,)``, or ``(W, 2)`` for parameters per world."""
        thrust = 0.5 * self.mass * self.gravity / self.gain
        return torch.stack([thrust, thrust], dim=-1)

    def acceleration(self, x: Tensor, u: Tensor, p: ParameterView) -> Tensor:
        """Accelerations of the center [m/s^2] and of the angle [rad/s^2], ``(*batch, 3)``."""
        angle, left, right = x[..., 2], p.gain * u[..., 0], p.gain * u[..., 1]
        lift = (left + right) / p.mass
        turn = p.arm_length * (left - right) / p.inertia
        return torch.stack([lift * torch.sin(angle), lift * torch.cos(angle) - p.gravity, turn], dim=-1)

    def energy(self, x: Tensor) -> Tensor:
        """Kinetic plus potential energy [J], zero height at z = 0."""
        p = self.parameters_like(x)
        kinetic = 0.5 * p.mass * x[..., 3:5].square().sum(-1) + 0.5 * p.inertia * x[..., 5] ** 2
        return kinetic + p.mass * p.gravity * x[..., 1]

    def mjcf(self, *, thrust_limit: float | None = None) -> str:
        """The same quadrotor as an MJCF string.

        Args:
            thrust_limit: largest thrust of each rotor [N], the smallest is zero then; None for no limits.
        """
        p = self.shared_values()
        limit = f'ctrllimited="true" ctrlrange="0 {thrust_limit!r}"' if thrust_limit else ""
        arm, inertia = p["arm_length"], p["inertia"]
        looks = 'contype="0" conaffinity="0"'  # drawn, never touched

        def rotor(name: str, x: float) -> str:
            disk = f'type="cylinder" size="{0.6 * arm!r} {0.04 * arm!r}" rgba="0.85 0.45 0.1 1"'
            place = f'pos="{x!r} 0 {0.1 * arm!r}"'
            return f'<site name="{name}" pos="{x!r} 0 0" size="0.001"/><geom {disk} {place} {looks}/>'

        motors = "".join(
            f'<motor name="{side}_thrust" site="{side}" gear="0 0 {p["gain"]!r} 0 0 0" {limit}/>'
            for side in ("left", "right")
        )
        return f"""
<mujoco model="planar quadrotor">
  <option timestep="{self.dt!r}" integrator="RK4" gravity="0 0 {-p["gravity"]!r}"/>
  {SCENE}
  <worldbody>
    <camera name="side" pos="0 -6 0" xyaxes="1 0 0 0 0 1"/>
    <body name="quadrotor">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="z" type="slide" axis="0 0 1"/>
      <joint name="angle" type="hinge" axis="0 1 0"/>
      <inertial pos="0 0 0" mass="{p["mass"]!r}" diaginertia="{inertia!r} {inertia!r} {inertia!r}"/>
      <geom type="capsule" fromto="{-arm!r} 0 0 {arm!r} 0 0" size="{0.08 * arm!r}" rgba="0.2 0.35 0.6 1" {looks}/>
      {rotor("left", -arm)}
      {rotor("right", arm)}
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>"""
