r"""The manifold of MuJoCo states (qpos, qvel, act): vectors, and unit quaternions of free and ball joints.

A displacement of a quaternion is a rotation vector :math:`\phi` in the body's frame, :math:`q \oplus \phi = q \otimes
\exp(\phi / 2)`, as in ``mj_integratePos`` and ``mj_differentiatePos``. With :math:`E(q) = \partial (q \oplus \phi) /
\partial \phi` at zero, :math:`4 \times 3` and :math:`E^\top E = I/4`, a gradient :math:`g` by the numbers in x becomes
:math:`E^\top g` on the tangent space, and a tangent gradient :math:`\lambda` becomes :math:`4 E \lambda`: the gradient
of a function that, like MuJoCo's step, does not depend on the length of q.
"""

# pyright: reportAttributeAccessIssue=false
# (the compiled parts of mujoco have no type stubs)

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dynamics import quaternions

if TYPE_CHECKING:
    import mujoco


class StateManifold:
    """Tangent space of the states of a MuJoCo model, in batched torch.

    Args:
        model: the MuJoCo model.

    Attributes:
        tangent_dim: 2 nv + na.
    """

    def __init__(self, model: "mujoco.MjModel"):
        from mujoco import mjtJoint

        nq, nv, na = model.nq, model.nv, model.na
        self.tangent_dim = 2 * nv + na
        offset = {mjtJoint.mjJNT_FREE: 3, mjtJoint.mjJNT_BALL: 0}  # of the rotation within the joint's coordinates
        rotations = [(j, offset[t]) for j, t in enumerate(map(mjtJoint, model.jnt_type)) if t in offset]
        q = torch.tensor([[model.jnt_qposadr[j] + k] for j, k in rotations], dtype=torch.long).reshape(-1, 1)
        v = torch.tensor([[model.jnt_dofadr[j] + k] for j, k in rotations], dtype=torch.long).reshape(-1, 1)
        self._quaternions, self._rotations = q + torch.arange(4), v + torch.arange(3)  # (joints, 4), (joints, 3)
        self._x_numbers = _others(nq + nv + na, self._quaternions)
        self._dx_numbers = _others(self.tangent_dim, self._rotations)
        self._x_order = torch.cat([self._x_numbers, self._quaternions.flatten()]).argsort()
        self._dx_order = torch.cat([self._dx_numbers, self._rotations.flatten()]).argsort()

    @property
    def is_flat(self) -> bool:
        """Whether there are no quaternions, so that the tangent space is the state space."""
        return len(self._quaternions) == 0

    def difference(self, x1: Tensor, x0: Tensor) -> Tensor:
        """The tangent vector at x0 that leads to x1, ``(*batch, tangent_dim)``."""
        if self.is_flat:
            return x1 - x0
        q1, q0 = x1[..., self._quaternions], x0[..., self._quaternions]
        numbers = x1[..., self._x_numbers] - x0[..., self._x_numbers]
        return self._tangent(numbers, quaternions.displacement(q1, q0))

    def retract(self, x: Tensor, dx: Tensor) -> Tensor:
        """The state reached from x along the tangent vector dx, ``(*batch, n)``."""
        if self.is_flat:
            return x + dx
        numbers = x[..., self._x_numbers] + dx[..., self._dx_numbers]
        return self._ambient(numbers, quaternions.displaced(x[..., self._quaternions], dx[..., self._rotations]))

    def to_tangent(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient by tangent vectors at x of a function with ``gradient`` by the numbers in x."""
        if self.is_flat:
            return gradient
        q, g = x[..., self._quaternions], gradient[..., self._quaternions]
        rotation = 0.5 * (
            q[..., :1] * g[..., 1:] - g[..., :1] * q[..., 1:] + torch.linalg.cross(g[..., 1:], q[..., 1:])
        )
        return self._tangent(gradient[..., self._x_numbers], rotation)

    def to_ambient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient by the numbers in x of a function with ``gradient`` by tangent vectors at x."""
        if self.is_flat:
            return gradient
        q, g = x[..., self._quaternions], gradient[..., self._rotations]
        scalar = -(q[..., 1:] * g).sum(-1, keepdim=True)
        vector = q[..., :1] * g + torch.linalg.cross(q[..., 1:], g)
        scaled = 2.0 * torch.cat([scalar, vector], dim=-1) / q.square().sum(-1, keepdim=True)
        return self._ambient(gradient[..., self._dx_numbers], scaled)

    def _ambient(self, numbers: Tensor, rotated: Tensor) -> Tensor:
        numbers, rotated = _same_batch(numbers, rotated)
        return torch.cat([numbers, rotated.flatten(-2)], dim=-1)[..., self._x_order]

    def _tangent(self, numbers: Tensor, rotations: Tensor) -> Tensor:
        numbers, rotations = _same_batch(numbers, rotations)
        return torch.cat([numbers, rotations.flatten(-2)], dim=-1)[..., self._dx_order]


def _others(size: int, taken: Tensor) -> Tensor:
    return torch.tensor(sorted(set(range(size)) - set(taken.flatten().tolist())), dtype=torch.long)


def _same_batch(numbers: Tensor, per_joint: Tensor) -> tuple[Tensor, Tensor]:
    batch = torch.broadcast_shapes(numbers.shape[:-1], per_joint.shape[:-2])
    return numbers.expand(*batch, -1), per_joint.expand(*batch, -1, -1)
