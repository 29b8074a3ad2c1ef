r"""An arm with seven motors that holds a peg: its MJCF, and where the peg is, in torch.

.. math:: r(q) = p_7 + R_7 \, \rho, \qquad \dot r = \sum_{i=1}^7 \dot q_i \, a_i \times (r - p_i)

with the joints' positions :math:`p_i = p_{i-1} + R_{i-1} o_i`, axes :math:`a_i` and rotations :math:`R_i = R_{i-1}
\exp(q_i [a_i]_\times)`. The order of the joints and the lengths are about those of a PR2's arm; masses, motors and damping are
those of an arm of that size, and no machine's in particular. The arm lies along x where all angles are zero, with z upward. As a
PR2's springs do, it carries its own weight, so that no motor has to.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PEG_RADIUS = 0.015  # [m]
PEG_LENGTH = 0.25  # from the wrist's roll joint to the tip [m]
HAND_LENGTH = 0.09  # of it that is in the hand [m]
TOUCHES = 'contype="1" conaffinity="0"'  # what has conaffinity 1
LOOKS = 'contype="0" conaffinity="0"'  # drawn, never touched


@dataclass(frozen=True)
class Joint:
    """A hinge and the link behind it.

    Attributes:
        name: of the joint.
        axis: x, y or z of its frame, which is its parent's turned by the parent's angle.
        offset: from the parent joint, along the parent's x axis [m].
        range: of its angle [rad].
        torque: limit of its motor [N m].
        damping: [N m s/rad].
        armature: inertia of motor and gear, seen from the joint [kg m^2].
        link: mass [kg], length along x and radius [m] of a capsule.
    """

    name: str
    axis: str
    offset: float
    range: tuple[float, float]
    torque: float
    damping: float
    armature: float
    link: tuple[float, float, float]


JOINTS = (
    Joint("shoulder_pan", "z", 0.0, (-1.5, 1.5), 20.0, 4.0, 0.2, (4.0, 0.1, 0.08)),
    Joint("shoulder_lift", "y", 0.1, (-1.5, 1.0), 20.0, 4.0, 0.2, (2.0, 0.1, 0.075)),
    Joint("upper_arm_roll", "x", 0.0, (-2.0, 2.0), 10.0, 2.0, 0.1, (2.5, 0.4, 0.06)),
    Joint("elbow_flex", "y", 0.4, (0.0, 2.4), 10.0, 2.0, 0.1, (1.0, 0.1, 0.055)),
    Joint("forearm_roll", "x", 0.0, (-2.5, 2.5), 5.0, 0.5, 0.03, (1.5, 0.32, 0.045)),
    Joint("wrist_flex", "y", 0.32, (-1.0, 2.2), 5.0, 0.5, 0.03, (0.3, 0.03, 0.04)),
    Joint("wrist_roll", "x", 0.0, (-2.5, 2.5), 2.0, 0.2, 0.01, (0.6, HAND_LENGTH, 0.035)),
)
COLORS = ("0.35 0.38 0.42 1", "0.85 0.45 0.1 1")


def peg_points(q: Tensor, v: Tensor, along: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Points of the peg's axis in the world [m] and their velocities [m/s], ``(*batch, points, 3)`` each.

    Args:
        q: angles ``(*batch, 7)``.
        v: their velocities ``(*batch, 7)``.
        along: how far each point is from the wrist's roll joint [m].
    """
    axes = {name: q.new_tensor(direction).expand(*q.shape[:-1], 3) for name, direction in _UNIT.items()}
    position = torch.zeros_like(axes["x"])
    positions, turned_about = [], []
    for i, joint in enumerate(JOINTS):
        position = position + joint.offset * axes["x"]
        positions.append(position)
        turned_about.append(axes[joint.axis])
        first, second = _OTHERS[joint.axis]
        cos, sin = torch.cos(q[..., i, None]), torch.sin(q[..., i, None])
        turned = cos * axes[first] + sin * axes[second], cos * axes[second] - sin * axes[first]
        axes = axes | dict(zip((first, second), turned, strict=True))
    points = torch.stack([position + distance * axes["x"] for distance in along], dim=-2)
    arms = points.unsqueeze(-2) - torch.stack(positions, dim=-2).unsqueeze(-3)  # (*batch, points, 7, 3)
    swept = torch.linalg.cross(torch.stack(turned_about, dim=-2).unsqueeze(-3).expand_as(arms), arms)
    return points, (v[..., None, :, None] * swept).sum(-2)


_UNIT = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
_OTHERS = {"x": ("y", "z"), "y": ("z", "x"), "z": ("x", "y")}


def arm_mjcf() -> tuple[str, str]:
    """Body of the arm, for a ``worldbody``, and its motors, for an ``actuator`` element."""
    opening, closing = "", ""
    for i, joint in enumerate(JOINTS):
        mass, length, radius = joint.link
        low, high = joint.range
        axis = " ".join(f"{number:g}" for number in _UNIT[joint.axis])
        opening += (
            f'<body name="{joint.name}" pos="{joint.offset!r} 0 0" gravcomp="1">'
            f'<joint name="{joint.name}" type="hinge" axis="{axis}" limited="true" range="{low!r} {high!r}" '
            f'damping="{joint.damping!r}" armature="{joint.armature!r}"/>'
            f'<geom type="capsule" fromto="0 0 0 {length!r} 0 0" size="{radius!r}" mass="{mass!r}" '
            f'rgba="{COLORS[i % 2]}" {TOUCHES if joint is JOINTS[-1] else LOOKS}/>'
        )
        closing += "</body>"
    peg = (
        f'<geom name="peg" type="capsule" fromto="{HAND_LENGTH!r} 0 0 {PEG_LENGTH - PEG_RADIUS!r} 0 0" '
        f'size="{PEG_RADIUS!r}" mass="0.2" rgba="0.2 0.45 0.75 1" {TOUCHES}/>'
    )
    motors = "".join(
        f'<motor name="{joint.name}_torque" joint="{joint.name}" ctrllimited="true" '
        f'ctrlrange="{-joint.torque!r} {joint.torque!r}"/>'
        for joint in JOINTS
    )
    return opening + peg + closing, motors
