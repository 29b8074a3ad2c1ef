r"""A cart-pole: a uniform rod, hinged on a cart that a force pushes along a rail.

With cart mass M, pole mass m, half length c = l/2 and I = m l^2 / 12,

.. math::
    (M + m) \ddot x + m c \cos\theta \, \ddot\theta &= k u - d_c \dot x + m c \sin\theta \, \dot\theta^2 \\
    m c \cos\theta \, \ddot x + (I + m c^2) \ddot\theta &= m g c \sin\theta - d_p \dot\theta

with :math:`\theta = 0` upright and positive angles leaning towards positive x.
"""

from typing import Literal

import torch
from torch import Tensor

from dynamics.analytic import MechanicalSystem
from dynamics.parameters import ParameterView, PhysicalParameter
from dynamics.systems.scene import SCENE


class CartPole(MechanicalSystem):
    """Cart-pole with state (position [m], angle [rad], their velocities) and a force [N] as control; upright is zero.

    Args:
        dt: duration of one step [s].
        integrator: ``"rk4"`` or ``"semi_implicit_euler"``.
    """

    def __init__(self, dt: float = 0.04, *, integrator: Literal["rk4", "semi_implicit_euler"] = "rk4"):
        positive = (0, float("inf"))
        super().__init__(
            1,
            ["position", "angle"],
            dt,
            integrator=integrator,
            parameters={
                "cart_mass": PhysicalParameter(1.0, "kg", positive, "log", "mass of the cart"),
                "pole_mass": PhysicalParameter(0.2, "kg", positive, "log", "mass of the pole"),
                "length": PhysicalParameter(0.6, "m", positive, "log", "length of the pole"),
                "gravity": PhysicalParameter(9.81, "m/s^2", description="gravitational acceleration"),
                "cart_damping": PhysicalParameter(0.0, "N s/m", positive, description="viscous friction of the rail"),
                "pole_damping": PhysicalParameter(
                    0.0, "N m s/rad", positive, description="viscous friction of the hinge"
                ),
                "gain": PhysicalParameter(1.0, "1", description="force per commanded force"),
            },
            control_names=["force"],
            angles=[1],
        )

    def acceleration(self, x: Tensor, u: Tensor, p: ParameterView) -> Tensor:
        """Accelerations of cart [m/s^2] and pole [rad/s^2], ``(*batch, 2)``."""
        angle, cart_velocity, pole_velocity = x[..., 1], x[..., 2], x[..., 3]
        sin, cos = torch.sin(angle), torch.cos(angle)
        moment = 0.5 * p.pole_mass * p.length  # m c
        M11, M12, M22 = p.cart_mass + p.pole_mass, moment * cos, p.pole_mass * p.length**2 / 3.0
        r1 = p.gain * u[..., 0] - p.cart_damping * cart_velocity + moment * sin * pole_velocity**2
        r2 = moment * p.gravity * sin - p.pole_damping * pole_velocity
        determinant = M11 * M22 - M12 * M12
        return torch.stack([(M22 * r1 - M12 * r2) / determinant, (M11 * r2 - M12 * r1) / determinant], dim=-1)

    def energy(self, x: Tensor) -> Tensor:
        """Kinetic plus potential energy [J], zero height at the hinge."""
        p = self.parameters_like(x)
        angle, cart_velocity, pole_velocity = x[..., 1], x[..., 2], x[..., 3]
        moment = 0.5 * p.pole_mass * p.length
        kinetic = (
            0.5 * (p.cart_mass + p.pole_mass) * cart_velocity**2
            + moment * torch.cos(angle) * cart_velocity * pole_velocity
            + p.pole_mass * p.length**2 * pole_velocity**2 / 6.0
        )
        return kinetic + moment * p.gravity * torch.cos(angle)

    def mjcf(
        self, *, rail: float | None = None, force_limit: float | None = None, timestep: float | None = None
    ) -> str:
        """The same cart-pole as an MJCF string.

        Args:
            rail: half length of the rail [m], where the cart hits an end stop; None for an endless rail. Without end stops
                MuJoCo's accelerations agree with :meth:`acceleration`.
            force_limit: range of the motor [N]; None for no limit.
            timestep: of MuJoCo's integrator [s]; dt by default.
        """
        p = self.shared_values()
        inertia = p["pole_mass"] * p["length"] ** 2 / 12.0
        stop = f'limited="true" range="{-rail!r} {rail!r}"' if rail else ""
        limit = f'ctrllimited="true" ctrlrange="{-force_limit!r} {force_limit!r}"' if force_limit else ""
        half_view = rail or 2.0
        looks = 'contype="0" conaffinity="0"'  # drawn, never touched
        rod = f'mass="{p["pole_mass"]!r}" diaginertia="{inertia!r} {inertia!r} {1e-6 * inertia!r}"'
        return f"""
<mujoco model="cart-pole">
  <option timestep="{timestep or self.dt!r}" integrator="RK4" gravity="0 0 {-p["gravity"]!r}"/>
  {SCENE}
  <worldbody>
    <camera name="side" pos="0 {-1.6 * half_view!r} 0" fovy="50" xyaxes="1 0 0 0 0 1"/>
    <geom type="capsule" fromto="{-half_view!r} 0 0 {half_view!r} 0 0" size="0.015" rgba="0.5 0.5 0.5 1" {looks}/>
    <body name="cart">
      <joint name="position" type="slide" axis="1 0 0" damping="{p["cart_damping"]!r}" {stop}/>
      <inertial pos="0 0 0" mass="{p["cart_mass"]!r}" diaginertia="0.01 0.01 0.01"/>
      <geom type="box" size="0.12 0.06 0.05" rgba="0.2 0.35 0.6 1" {looks}/>
      <body name="pole" pos="0 0 0">
        <joint name="angle" type="hinge" axis="0 1 0" damping="{p["pole_damping"]!r}"/>
        <inertial pos="0 0 {0.5 * p["length"]!r}" {rod}/>
        <geom type="capsule" fromto="0 -0.08 0 0 -0.08 {p["length"]!r}" size="0.025" rgba="0.85 0.45 0.1 1" {looks}/>
      </body>
    </body>
  </worldbody>
  <actuator><motor name="force" joint="position" gear="{p["gain"]!r}" {limit}/></actuator>
</mujoco>"""
