r"""Two uniform rods in a row, the first hinged at a fixed point: what an acrobot and planar arms have in common.

.. math:: M(q_2) \ddot q + c(q, \dot q) = \tau, \qquad
    M = \begin{pmatrix} I_1 + I_2 + m_2 l_1^2 + 2 h \cos q_2 & I_2 + h \cos q_2 \\ I_2 + h \cos q_2 & I_2 \end{pmatrix},
    \qquad c = h \sin q_2 \begin{pmatrix} -2 \dot q_1 \dot q_2 - \dot q_2^2 \\ \dot q_1^2 \end{pmatrix}

with :math:`I_i = m_i l_i^2 / 3`, :math:`h = m_2 l_1 l_2 / 2`, the angle :math:`q_1` of the first rod and :math:`q_2` of the
second relative to the first. Everything else that acts on the joints is in :math:`\tau`. Where gravity acts, :math:`q_1` is
from upright, and

.. math:: \tau_g = g \begin{pmatrix} (m_1 / 2 + m_2) l_1 \sin q_1 + m_2 l_2 \sin(q_1 + q_2) / 2 \\
    m_2 l_2 \sin(q_1 + q_2) / 2 \end{pmatrix}.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from dynamics.parameters import ParameterView, PhysicalParameter
from dynamics.systems.scene import SCENE


def rod_parameters(*, mass: float, length: float) -> dict[str, PhysicalParameter]:
    """Masses [kg] and lengths [m] of the two rods, of these nominal values, and the friction of the two joints."""
    positive = (0, float("inf"))
    return {
        "mass_1": PhysicalParameter(mass, "kg", positive, "log", "mass of the first rod"),
        "mass_2": PhysicalParameter(mass, "kg", positive, "log", "mass of the second rod"),
        "length_1": PhysicalParameter(length, "m", positive, "log", "length of the first rod"),
        "length_2": PhysicalParameter(length, "m", positive, "log", "length of the second rod"),
        "damping_1": PhysicalParameter(0.0, "N m s/rad", positive, description="viscous friction of the shoulder"),
        "damping_2": PhysicalParameter(0.0, "N m s/rad", positive, description="viscous friction of the elbow"),
    }


def accelerations(q2: Tensor, v1: Tensor, v2: Tensor, torque_1: Tensor, torque_2: Tensor, p: ParameterView) -> Tensor:
    """Angular accelerations [rad/s^2], ``(*batch, 2)``, from the elbow's angle, both velocities and both torques."""
    M11, M12, M22 = _mass_matrix(q2, p)
    coupling = 0.5 * p.mass_2 * p.length_1 * p.length_2 * torch.sin(q2)
    r1 = torque_1 + coupling * (2.0 * v1 * v2 + v2**2) - p.damping_1 * v1
    r2 = torque_2 - coupling * v1**2 - p.damping_2 * v2
    determinant = M11 * M22 - M12 * M12
    return torch.stack([(M22 * r1 - M12 * r2) / determinant, (M11 * r2 - M12 * r1) / determinant], dim=-1)


def kinetic_energy(q2: Tensor, v1: Tensor, v2: Tensor, p: ParameterView) -> Tensor:
    """Kinetic energy of both rods [J]."""
    M11, M12, M22 = _mass_matrix(q2, p)
    return 0.5 * M11 * v1**2 + M12 * v1 * v2 + 0.5 * M22 * v2**2


def gravity_torques(q1: Tensor, q2: Tensor, p: ParameterView) -> tuple[Tensor, Tensor]:
    """What the weight of the rods turns shoulder and elbow with [N m], for angles from upright."""
    second = 0.5 * p.mass_2 * p.gravity * p.length_2 * torch.sin(q1 + q2)
    first = (0.5 * p.mass_1 + p.mass_2) * p.gravity * p.length_1 * torch.sin(q1)
    return first + second, second


def potential_energy(q1: Tensor, q2: Tensor, p: ParameterView) -> Tensor:
    """Potential energy of both rods [J], zero height at the shoulder."""
    first = (0.5 * p.mass_1 + p.mass_2) * p.gravity * p.length_1 * torch.cos(q1)
    return first + 0.5 * p.mass_2 * p.gravity * p.length_2 * torch.cos(q1 + q2)


def upright_mjcf(name: str, values: Mapping[str, float], *, timestep: float, motors: str) -> str:
    """The rods in a vertical plane, with gravity, as an MJCF string.

    Args:
        name: of the model.
        values: masses, lengths, dampings and gravity by name.
        timestep: of MuJoCo's integrator [s].
        motors: the MJCF of the actuators at the joints ``shoulder`` and ``elbow``.
    """
    reach = values["length_1"] + values["length_2"]

    def rod(number: int) -> str:
        mass, length = values[f"mass_{number}"], values[f"length_{number}"]
        inertia = mass * length**2 / 12.0
        return (
            f'<inertial pos="0 0 {0.5 * length!r}" mass="{mass!r}" '
            f'diaginertia="{inertia!r} {inertia!r} {1e-6 * inertia!r}"/>'
            f'<geom type="capsule" fromto="0 0 0 0 0 {length!r}" size="{0.02 * reach!r}" rgba="0.85 0.45 0.1 1" '
            'contype="0" conaffinity="0"/>'
        )

    return f"""
<mujoco model="{name}">
  <option timestep="{timestep!r}" integrator="RK4" gravity="0 0 {-values["gravity"]!r}"/>
  {SCENE}
  <worldbody>
    <camera name="side" pos="0 {-3.5 * reach!r} 0" xyaxes="1 0 0 0 0 1"/>
    <body name="upper">
      <joint name="shoulder" type="hinge" axis="0 1 0" damping="{values["damping_1"]!r}"/>
      {rod(1)}
      <body name="lower" pos="0 0 {values["length_1"]!r}">
        <joint name="elbow" type="hinge" axis="0 1 0" damping="{values["damping_2"]!r}"/>
        {rod(2)}
      </body>
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>"""


def _mass_matrix(q2: Tensor, p: ParameterView) -> tuple[Tensor, Tensor, Tensor]:
    M22 = p.mass_2 * p.length_2**2 / 3.0
    cross = 0.5 * p.mass_2 * p.length_1 * p.length_2 * torch.cos(q2)
    M11 = (p.mass_1 / 3.0 + p.mass_2) * p.length_1**2 + M22 + 2.0 * cross
    return M11, M22 + cross, M22
