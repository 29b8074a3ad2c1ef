r"""A quadrotor in space: a rigid body with four rotors, its attitude a unit quaternion.

With position p and velocity v in the world, attitude q (body to world, R its matrix) and body rates :math:`\omega`,

.. math::
    \dot p = v, \quad \dot q = \tfrac12 \, q \otimes (0, \omega), \quad
    m \dot v = R e_3 \textstyle\sum_i k u_i - m g e_3, \quad J \dot\omega = \tau - \omega \times J \omega, \quad
    \tau = k \begin{pmatrix} a (u_2 - u_4) \\ a (u_3 - u_1) \\ c (u_1 - u_2 + u_3 - u_4) \end{pmatrix}

for rotors 1 to 4 at the ends of arms of length a along +x, +y, -x, -y of the body, which turn against each other: each reacts
with a torque c per thrust (Mellinger and Kumar 2011, "Minimum snap trajectory generation and control for quadrotors").

A step is the classical Runge-Kutta method for the displacement from the present state, in the tangent space there (Munthe-Kaas
1999): with :math:`q(t) = q \oplus \phi(t)`,

.. math:: \dot\phi = \omega + \tfrac12 \phi \times \omega + \tfrac1{12} \phi \times (\phi \times \omega) + O(|\phi|^4),

of which the terms that are left out matter to order 5 in a step. So the method keeps its order 4, and the next attitude
:math:`q \oplus \phi(h)` has unit length to the last digit.
"""

import torch
from torch import Tensor

from dynamics import integrators, quaternions
from dynamics.base import Dynamics, TimeStep
from dynamics.parameters import ParameterView, PhysicalParameter
from dynamics.systems.scene import SCENE


class Quadrotor(Dynamics):
    """Quadrotor with state (position [m], attitude w, x, y, z, velocity [m/s], body rates [rad/s]) and four thrusts [N].

    The state has 13 numbers and 12 degrees of freedom. A tangent vector is (displacement [m], rotation vector in the body's
    frame [rad], change of velocity, change of body rates); q and -q are the same attitude, and differences take the shortest
    rotation. States, their order and frames are those of a MuJoCo body with a free joint. The step does not depend on the
    length of q and returns a unit quaternion. The parameters are of the size of an AscTec Hummingbird.

    Args:
        dt: duration of one step [s].
    """

    mass: Tensor
    inertia: Tensor
    arm_length: Tensor
    torque_coefficient: Tensor
    gravity: Tensor
    gain: Tensor

    def __init__(self, dt: float = 0.02):
        positive = (0, float("inf"))
        inertia = torch.tensor([0.0023, 0.0023, 0.004], dtype=torch.float64)
        super().__init__(
            13,
            4,
            dt,
            tangent_dim=12,
            parameters={
                "mass": PhysicalParameter(0.5, "kg", positive, "log", "mass"),
                "inertia": PhysicalParameter(inertia, "kg m^2", positive, "log", "principal moments of inertia, (3,)"),
                "arm_length": PhysicalParameter(0.17, "m", positive, "log", "distance of a rotor from the center"),
                "torque_coefficient": PhysicalParameter(0.016, "m", description="torque of a rotor per thrust"),
                "gravity": PhysicalParameter(9.81, "m/s^2", description="gravitational acceleration"),
                "gain": PhysicalParameter(1.0, "1", description="thrust per commanded thrust"),
            },
            state_names=[
                *("x", "y", "z", "qw", "qx", "qy", "qz"),
                *(f"{axis}_velocity" for axis in ("x", "y", "z", "rx", "ry", "rz")),
            ],
            control_names=[f"thrust_{i}" for i in (1, 2, 3, 4)],
        )

    @property
    def hover_control(self) -> Tensor:
        """The thrusts that carry the weight of the level quadrotor [N]: ``(4,)``, or ``(W, 4)`` for parameters per world."""
        return torch.stack([0.25 * self.mass * self.gravity / self.gain] * 4, dim=-1)

    def hover_state(self, position: Tensor) -> Tensor:
        """At rest and level at positions ``(*batch, 3)`` [m]: states ``(*batch, 13)``."""
        upright = position.new_tensor([1.0] + [0.0] * 9)
        return torch.cat([position, upright.expand(*position.shape[:-1], 10)], dim=-1)

    def forward(self, x: Tensor, u: Tensor, t: TimeStep = None) -> Tensor:
        """The next state, ``(*batch, 13)``."""
        self.check_step(x, u)
        p = self.parameters_like(x)

        def derivative(dx: Tensor, u: Tensor) -> Tensor:
            y = self.retract(x, dx)
            rotation_rate = _rate_of_displacement(dx[..., 3:6], y[..., 10:])
            return torch.cat([y[..., 7:10], rotation_rate, self.acceleration(y, u, p)], dim=-1)

        here = x.new_zeros(*x.shape[:-1], self.tangent_dim)
        return self.retract(x, integrators.rk4(derivative, here, u, self.dt))

    def acceleration(self, x: Tensor, u: Tensor, p: ParameterView) -> Tensor:
        """Acceleration in the world [m/s^2] and of the body rates [rad/s^2], ``(*batch, 6)``; q has unit length."""
        qw, qx, qy, qz = x[..., 3:7].unbind(-1)
        rates = x[..., 10:]
        u1, u2, u3, u4 = (p.gain.unsqueeze(-1) * u).unbind(-1)
        lift = (u1 + u2 + u3 + u4) / p.mass
        linear = [
            lift * 2.0 * (qx * qz + qw * qy),
            lift * 2.0 * (qy * qz - qw * qx),
            lift * (1.0 - 2.0 * (qx * qx + qy * qy)) - p.gravity,
        ]
        yaw = p.torque_coefficient * (u1 - u2 + u3 - u4)
        torque = torch.stack([p.arm_length * (u2 - u4), p.arm_length * (u3 - u1), yaw], dim=-1)
        angular = (torque - torch.linalg.cross(rates, p.inertia * rates)) / p.inertia
        return torch.cat([torch.stack(linear, dim=-1), angular], dim=-1)

    def energy(self, x: Tensor) -> Tensor:
        """Kinetic plus potential energy [J], zero height at z = 0."""
        p = self.parameters_like(x)
        kinetic = 0.5 * p.mass * x[..., 7:10].square().sum(-1) + 0.5 * (p.inertia * x[..., 10:].square()).sum(-1)
        return kinetic + p.mass * p.gravity * x[..., 2]

    def difference(self, x1: Tensor, x0: Tensor) -> Tensor:
        """The tangent vector at x0 that leads to x1, ``(*batch, 12)``, by the shortest rotation."""
        change = x1 - x0
        rotation = quaternions.displacement(x1[..., 3:7], x0[..., 3:7])
        return torch.cat([change[..., :3], rotation, change[..., 7:]], dim=-1)

    def retract(self, x: Tensor, dx: Tensor) -> Tensor:
        """The state reached from x along the tangent vector dx, ``(*batch, 13)``, with a unit quaternion."""
        position, rates = x[..., :3] + dx[..., :3], x[..., 7:] + dx[..., 6:]
        return torch.cat([position, quaternions.displaced(x[..., 3:7], dx[..., 3:6]), rates], dim=-1)

    def mjcf(self, *, thrust_limit: float | None = None) -> str:
        """The same quadrotor, with the present (shared) parameter values, as an MJCF string.

        MuJoCo integrates attitudes otherwise: accelerations are equal, steps agree up to the errors of the integrators.

        Args:
            thrust_limit: largest thrust of each rotor [N], the smallest is zero then; None for no limits.

        Raises:
            ValueError: parameters have one value per world; a MuJoCo model has one.
        """
        per_world = [name for name, p in self.physical_parameters.items() if getattr(self, name).shape != p.shape]
        if per_world:
            raise ValueError(
                f"an MJCF model has one value per parameter, got one per world for: {', '.join(per_world)}"
            )
        gain, yaw, arm = float(self.gain), float(self.torque_coefficient), float(self.arm_length)
        limit = f'ctrllimited="true" ctrlrange="0 {thrust_limit!r}"' if thrust_limit else ""
        looks = 'contype="0" conaffinity="0"'  # drawn, never touched
        rotors, motors = [], []
        for i, (x, y, turn) in enumerate([(arm, 0.0, 1), (0.0, arm, -1), (-arm, 0.0, 1), (0.0, -arm, -1)], start=1):
            rotors.append(
                f'<site name="rotor_{i}" pos="{x!r} {y!r} 0" size="0.001"/>'
                f'<geom type="capsule" fromto="0 0 0 {x!r} {y!r} 0" size="{0.06 * arm!r}" rgba="0.2 0.35 0.6 1" {looks}/>'
                f'<geom type="cylinder" pos="{x!r} {y!r} {0.1 * arm!r}" size="{0.6 * arm!r} {0.03 * arm!r}" '
                f'rgba="{"0.85 0.45 0.1 1" if i == 1 else "0.5 0.5 0.5 1"}" {looks}/>'
            )
            gear = f"0 0 {gain!r} 0 0 {turn * gain * yaw!r}"
            motors.append(f'<motor name="thrust_{i}" site="rotor_{i}" gear="{gear}" {limit}/>')
        return f"""
<mujoco model="quadrotor">
  <option timestep="{self.dt!r}" integrator="RK4" gravity="0 0 {-float(self.gravity)!r}"/>
  {SCENE}
  <worldbody>
    <camera name="side" pos="0 -4 1" xyaxes="1 0 0 0 0.25 1"/>
    <body name="quadrotor">
      <freejoint/>
      <inertial pos="0 0 0" mass="{float(self.mass)!r}" diaginertia="{" ".join(map(repr, self.inertia.tolist()))}"/>
      {"".join(rotors)}
    </body>
  </worldbody>
  <actuator>{"".join(motors)}</actuator>
</mujoco>"""


def _rate_of_displacement(rotation: Tensor, rates: Tensor) -> Tensor:
    """How a small displacement ``(*batch, 3)`` of an attitude that turns with body rates grows, see above."""
    first = torch.linalg.cross(rotation, rates)
    return rates + 0.5 * first + torch.linalg.cross(rotation, first) / 12.0
