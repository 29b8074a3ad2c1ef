r"""Unit quaternions (w, x, y, z) as rotations, and rotation vectors as displacements of them.

A displacement of q is a rotation vector :math:`\phi` [rad] in the rotated frame:

.. math:: q \oplus \phi = q \otimes \exp(\phi / 2), \qquad q_1 \ominus q_0 = 2 \log(q_0^{-1} \otimes q_1)

q and -q are the same rotation; the logarithm is that of the shortest one. First and second derivatives by autograd are
right everywhere, at zero displacement too, but at half a turn, where two rotations are the shortest.
"""

import torch
from torch import Tensor


def product(p: Tensor, q: Tensor) -> Tensor:
    """Product of quaternions ``(..., 4)``: first the rotation q, then p."""
    p, q = torch.broadcast_tensors(p, q)
    scalar = p[..., :1] * q[..., :1] - (p[..., 1:] * q[..., 1:]).sum(-1, keepdim=True)
    vector = p[..., :1] * q[..., 1:] + q[..., :1] * p[..., 1:] + torch.linalg.cross(p[..., 1:], q[..., 1:])
    return torch.cat([scalar, vector], dim=-1)


def conjugate(q: Tensor) -> Tensor:
    """The inverse of unit quaternions ``(..., 4)``."""
    return q * q.new_tensor([1.0, -1.0, -1.0, -1.0])


def displaced(q: Tensor, rotation: Tensor) -> Tensor:
    """Quaternions ``(..., 4)`` turned by rotation vectors ``(..., 3)`` in their own frames, of unit length."""
    turned = product(q, exponential(rotation))
    return turned / turned.norm(dim=-1, keepdim=True)


def displacement(q1: Tensor, q0: Tensor) -> Tensor:
    """The shortest rotation vectors ``(..., 3)`` in the frames of q0 that turn q0 into q1, both of any length."""
    return logarithm(product(conjugate(q0), q1))


_SMALL = 1e-6  # squared half angle below which three terms of the series are exact in float64, derivatives included


def exponential(rotation: Tensor) -> Tensor:
    """The unit quaternions ``(..., 4)`` of rotation vectors ``(..., 3)``, differentiable at zero."""
    half = 0.5 * rotation
    s = half.square().sum(-1, keepdim=True)
    angle = torch.where(s < _SMALL, torch.ones_like(s), s).sqrt()
    cos = torch.where(s < _SMALL, 1.0 - s / 2.0 + s**2 / 24.0, angle.cos())
    sinc = torch.where(s < _SMALL, 1.0 - s / 6.0 + s**2 / 120.0, angle.sin() / angle)
    return torch.cat([cos, sinc * half], dim=-1)


def logarithm(q: Tensor) -> Tensor:
    """The shortest rotation vectors ``(..., 3)`` of quaternions ``(..., 4)`` of any length, differentiable at the identity."""
    q = torch.where(q[..., :1] < 0.0, -q, q)
    w, vector = q[..., :1], q[..., 1:]
    s = vector.square().sum(-1, keepdim=True)
    small = s < _SMALL * w.square()
    sin = torch.where(small, torch.ones_like(s), s).sqrt()
    ratio = s / torch.where(small, w, torch.ones_like(w)).square()
    series = (1.0 - ratio / 3.0 + ratio.square() / 5.0) / torch.where(small, w, torch.ones_like(w))
    return 2.0 * torch.where(small, series, torch.atan2(sin, w) / sin) * vector
