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
        rotation = _rotation_vector(_product(q0 * q0.new_tensor([1.0, -1.0, -1.0, -1.0]), q1))
        return self._tangent(x1[..., self._x_numbers] - x0[..., self._x_numbers], rotation)

    def retract(self, x: Tensor, dx: Tensor) -> Tensor:
        """The state reached from x along the tangent vector dx, ``(*batch, n)``."""
        if self.is_flat:
            return x + dx
        rotated = _product(x[..., self._quaternions], _half_turn(dx[..., self._rotations]))
        numbers = x[..., self._x_numbers] + dx[..., self._dx_numbers]
        return self._ambient(numbers, rotated / rotated.norm(dim=-1, keepdim=True))

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

    def _ambient(self, numbers: Tensor, quaternions: Tensor) -> Tensor:
        numbers, quaternions = _same_batch(numbers, quaternions)
        return torch.cat([numbers, quaternions.flatten(-2)], dim=-1)[..., self._x_order]

    def _tangent(self, numbers: Tensor, rotations: Tensor) -> Tensor:
        numbers, rotations = _same_batch(numbers, rotations)
        return torch.cat([numbers, rotations.flatten(-2)], dim=-1)[..., self._dx_order]


def _others(size: int, taken: Tensor) -> Tensor:
    return torch.tensor(sorted(set(range(size)) - set(taken.flatten().tolist())), dtype=torch.long)


def _same_batch(numbers: Tensor, per_joint: Tensor) -> tuple[Tensor, Tensor]:
    batch = torch.broadcast_shapes(numbers.shape[:-1], per_joint.shape[:-2])
    return numbers.expand(*batch, -1), per_joint.expand(*batch, -1, -1)


def _product(p: Tensor, q: Tensor) -> Tensor:
    """Product of quaternions (w, x, y, z), ``(..., 4)``."""
    p, q = torch.broadcast_tensors(p, q)
    scalar = p[..., :1] * q[..., :1] - (p[..., 1:] * q[..., 1:]).sum(-1, keepdim=True)
    vector = p[..., :1] * q[..., 1:] + q[..., :1] * p[..., 1:] + torch.linalg.cross(p[..., 1:], q[..., 1:])
    return torch.cat([scalar, vector], dim=-1)


_SMALL = 1e-6  # squared half angle below which three terms of the series are exact in float64, derivatives included


def _half_turn(rotation: Tensor) -> Tensor:
    """The quaternion of rotation vectors ``(..., 3)``, differentiable at zero."""
    half = 0.5 * rotation
    s = half.square().sum(-1, keepdim=True)
    angle = torch.where(s < _SMALL, torch.ones_like(s), s).sqrt()
    cos = torch.where(s < _SMALL, 1.0 - s / 2.0 + s**2 / 24.0, angle.cos())
    sinc = torch.where(s < _SMALL, 1.0 - s / 6.0 + s**2 / 120.0, angle.sin() / angle)
    return torch.cat([cos, sinc * half], dim=-1)


def _rotation_vector(q: Tensor) -> Tensor:
    """The shortest rotation vector of quaternions ``(..., 4)`` of any length, differentiable at the identity."""
    q = torch.where(q[..., :1] < 0.0, -q, q)
    w, vector = q[..., :1], q[..., 1:]
    s = vector.square().sum(-1, keepdim=True)
    small = s < _SMALL * w.square()
    sin = torch.where(small, torch.ones_like(s), s).sqrt()
    ratio = s / torch.where(small, w, torch.ones_like(w)).square()
    series = (1.0 - ratio / 3.0 + ratio.square() / 5.0) / torch.where(small, w, torch.ones_like(w))
    return 2.0 * torch.where(small, series, torch.atan2(sin, w) / sin) * vector
