r"""Two uniform rods in a row, the first hinged at a fixed point: what an acrobot and a planar arm have in common.

.. math:: M(q_2) \ddot q + c(q, \dot q) = \tau, \qquad
    M = \begin{pmatrix} I_1 + I_2 + m_2 l_1^2 + 2 h \cos q_2 & I_2 + h \cos q_2 \\ I_2 + h \cos q_2 & I_2 \end{pmatrix},
    \qquad c = h \sin q_2 \begin{pmatrix} -2 \dot q_1 \dot q_2 - \dot q_2^2 \\ \dot q_1^2 \end{pmatrix}

with :math:`I_i = m_i l_i^2 / 3`, :math:`h = m_2 l_1 l_2 / 2`, the angle :math:`q_1` of the first rod and :math:`q_2` of the
second relative to the first. Everything else that acts on the joints is in :math:`\tau`.
"""

import torch
from torch import Tensor

from dynamics.parameters import ParameterView, PhysicalParameter


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


def _mass_matrix(q2: Tensor, p: ParameterView) -> tuple[Tensor, Tensor, Tensor]:
    M22 = p.mass_2 * p.length_2**2 / 3.0
    cross = 0.5 * p.mass_2 * p.length_1 * p.length_2 * torch.cos(q2)
    M11 = (p.mass_1 / 3.0 + p.mass_2) * p.length_1**2 + M22 + 2.0 * cross
    return M11, M22 + cross, M22
