r"""An acrobot: two uniform rods in a row with a motor at the elbow only (Spong 1995).

.. math:: M(q) \ddot q + c(q, \dot q) = \tau_g(q) - d \odot \dot q + (0, k u)

with :math:`q_1` the angle of the first rod from upright and :math:`q_2` the angle of the second relative to the first; M, c and
:math:`\tau_g` are those of :mod:`dynamics.systems.two_link`.
"""

from typing import Literal

from torch import Tensor

from dynamics.analytic import MechanicalSystem
from dynamics.parameters import ParameterView, PhysicalParameter
from dynamics.systems.two_link import (
    accelerations,
    gravity_torques,
    kinetic_energy,
    potential_energy,
    rod_parameters,
    upright_mjcf,
)


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
        shoulder, elbow = gravity_torques(q1, q2, p)
        return accelerations(q2, v1, v2, shoulder, elbow + p.gain * u[..., 0], p)

    def energy(self, x: Tensor) -> Tensor:
        """Kinetic plus potential energy [J], zero height at the shoulder."""
        p = self.parameters_like(x)
        q1, q2, v1, v2 = x.unbind(-1)
        return kinetic_energy(q2, v1, v2, p) + potential_energy(q1, q2, p)

    def mjcf(self, *, torque_limit: float | None = None, timestep: float | None = None) -> str:
        """The same acrobot as an MJCF string.

        Args:
            torque_limit: range of the motor [N m]; None for no limit.
            timestep: of MuJoCo's integrator [s]; dt by default.
        """
        p = self.shared_values()
        limit = f'ctrllimited="true" ctrlrange="{-torque_limit!r} {torque_limit!r}"' if torque_limit else ""
        motor = f'<motor name="torque" joint="elbow" gear="{p["gain"]!r}" {limit}/>'
        return upright_mjcf("acrobot", p, timestep=timestep or self.dt, motors=motor)
