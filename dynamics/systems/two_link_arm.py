r"""An arm of two uniform rods in a vertical plane, with gravity and a motor at each joint.

.. math:: M(q) \ddot q + c(q, \dot q) = \tau_g(q) - d \odot \dot q + k u

with :math:`q_1` the angle of the first rod from upright and :math:`q_2` the angle of the second relative to the first; M, c and
:math:`\tau_g` are those of :mod:`dynamics.systems.two_link`. Without the first motor it is the acrobot.
"""

from typing import Literal

import torch
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


class TwoLinkArm(MechanicalSystem):
    """Arm with state (shoulder, elbow [rad], their velocities) and two joint torques [N m] as controls; upright is zero.

    Args:
        dt: duration of one step [s].
        integrator: ``"rk4"`` or ``"semi_implicit_euler"``.
    """

    def __init__(self, dt: float = 0.02, *, integrator: Literal["rk4", "semi_implicit_euler"] = "rk4"):
        super().__init__(
            2,
            ["shoulder", "elbow"],
            dt,
            integrator=integrator,
            parameters={
                **rod_parameters(mass=1.0, length=0.5),
                "gravity": PhysicalParameter(9.81, "m/s^2", description="gravitational acceleration"),
                "gain": PhysicalParameter(1.0, "1", description="torque per commanded torque"),
            },
            control_names=["shoulder_torque", "elbow_torque"],
            angles=[0, 1],
        )

    def acceleration(self, x: Tensor, u: Tensor, p: ParameterView) -> Tensor:
        """Angular accelerations [rad/s^2], ``(*batch, 2)``."""
        q1, q2, v1, v2 = x.unbind(-1)
        shoulder, elbow = gravity_torques(q1, q2, p)
        return accelerations(q2, v1, v2, shoulder + p.gain * u[..., 0], elbow + p.gain * u[..., 1], p)

    def energy(self, x: Tensor) -> Tensor:
        """Kinetic plus potential energy [J], zero height at the shoulder."""
        p = self.parameters_like(x)
        q1, q2, v1, v2 = x.unbind(-1)
        return kinetic_energy(q2, v1, v2, p) + potential_energy(q1, q2, p)

    def fingertip(self, x: Tensor) -> Tensor:
        """Where the arm ends, to the side and above the shoulder [m], ``(*batch, 2)``, of states ``(*batch, 4)``."""
        p = self.parameters_like(x)
        first, both = x[..., 0], x[..., 0] + x[..., 1]
        return torch.stack(
            [
                p.length_1 * torch.sin(first) + p.length_2 * torch.sin(both),
                p.length_1 * torch.cos(first) + p.length_2 * torch.cos(both),
            ],
            dim=-1,
        )

    def mjcf(self, *, torque_limit: float | None = None) -> str:
        """The same arm as an MJCF string.

        Args:
            torque_limit: range of both motors [N m]; None for no limit.
        """
        p = self.shared_values()
        limit = f'ctrllimited="true" ctrlrange="{-torque_limit!r} {torque_limit!r}"' if torque_limit else ""
        motors = "".join(
            f'<motor name="{joint}_torque" joint="{joint}" gear="{p["gain"]!r}" {limit}/>'
            for joint in ("shoulder", "elbow")
        )
        return upright_mjcf("two-link arm", p, timestep=self.dt, motors=motors)
