r"""The backward pass with control limits.

.. math::
    Q_t(z) = Q_z^\top z + \tfrac12 z^\top Q_{zz} z, \qquad
    Q_z = g_t + F_t^\top (p_{t+1} + P_{t+1} d_t), \qquad Q_{zz} = H_t + F_t^\top P_{t+1} F_t,

is minimized over the controls by a box-constrained quadratic program with :math:`Q_{uu} + \mu I` (Tassa, Mansard and Todorov
2014); the gains of clamped controls are zero. The value function is updated with the unregularized :math:`Q_{uu}` (Tassa, Erez
and Todorov 2012, equations 11a to 11c).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.batches import mapped
from planners.box_qp import box_qp
from planners.riccati import mv


@dataclass(frozen=True, eq=False)
class LocalPolicy:
    r"""What a backward pass finds: :math:`u = \bar u + \alpha k + K \delta x`.

    Attributes:
        k: ``(*batch, T, m)``. K: ``(*batch, T, m, d)``.
        Quu: unregularized control Hessians ``(*batch, T, m, m)``. P: value Hessians ``(*batch, T+1, d, d)``.
        slope: expected change of the cost per step length, ``(*batch,)``, not positive.
        bend: half its second derivative, so that the expected change is ``slope * alpha + bend * alpha**2``.
        solved: whether every regularized control Hessian was positive definite, ``(*batch,)``.
    """

    k: Tensor
    K: Tensor
    Quu: Tensor
    P: Tensor
    slope: Tensor
    bend: Tensor
    solved: Tensor


@dataclass(frozen=True, eq=False)
class Model:
    """What a backward pass is handed: see :class:`planners.expansion.Expansion`, and the limits of the displacements.

    Attributes:
        F, gap, g, H, p_T, P_T: as in the expansion, constraints included.
        lower, upper: limits minus controls, ``(*batch, T, m)``; None without limits.
    """

    F: Tensor
    gap: Tensor | None
    g: Tensor
    H: Tensor
    p_T: Tensor  # noqa: N815 (the symbols of the recursion)
    P_T: Tensor
    lower: Tensor | None = None
    upper: Tensor | None = None

    def where(self, mask: Tensor) -> "Model":
        """The model of the problems of a mask ``(*batch,)``, in a batch ``(B,)``."""
        return mapped(self, lambda v: v[mask])


def backward_pass(model: Model, mu: Tensor) -> LocalPolicy:
    """The local policy about a trajectory.

    Args:
        model: the linear-quadratic model.
        mu: regularization, ``(*batch,)``.
    """
    d = model.F.shape[-2]
    p, P = model.p_T, model.P_T
    F_s, H_s, g_s = model.F.unbind(-3), model.H.unbind(-3), model.g.unbind(-2)
    gaps = None if model.gap is None else model.gap.unbind(-2)
    limits = None if model.lower is None or model.upper is None else (model.lower.unbind(-2), model.upper.unbind(-2))
    eye = torch.eye(g_s[0].shape[-1] - d, dtype=p.dtype, device=p.device)
    ridge = mu[..., None, None] * eye
    solved = torch.ones_like(mu, dtype=torch.bool)
    slope, bend = torch.zeros_like(mu), torch.zeros_like(mu)
    ks, Ks, Quus, Ps = [], [], [], [P]
    for t in reversed(range(len(F_s))):
        F_t = F_s[t].mT
        Qz = g_s[t] + mv(F_t, p if gaps is None else p + mv(P, gaps[t]))
        Qzz = H_s[t] + F_t @ (P @ F_s[t])
        Qx, Qu = Qz[..., :d], Qz[..., d:]
        Qxx, Qux, Quu = Qzz[..., :d, :d], Qzz[..., d:, :d], Qzz[..., d:, d:]
        k, K, ok = _minimized(Quu + ridge, Qu, Qux, None if limits is None else (limits[0][t], limits[1][t]))
        solved = solved & ok
        K_t, Quu_k = K.mT, mv(Quu, k)
        slope = slope + (k * Qu).sum(-1)
        bend = bend + 0.5 * (k * Quu_k).sum(-1)
        p = Qx + mv(K_t, Quu_k + Qu) + mv(Qux.mT, k)
        half = K_t @ (0.5 * (Quu @ K) + Qux)
        P = 0.5 * (Qxx + Qxx.mT) + half + half.mT
        ks.append(k)
        Ks.append(K)
        Quus.append(Quu)
        Ps.append(P)
    return LocalPolicy(
        k=torch.stack(ks[::-1], dim=-2),
        K=torch.stack(Ks[::-1], dim=-3),
        Quu=torch.stack(Quus[::-1], dim=-3),
        P=torch.stack(Ps[::-1], dim=-3),
        slope=slope,
        bend=bend,
        solved=solved & slope.isfinite() & bend.isfinite(),
    )


def _minimized(
    H: Tensor, Qu: Tensor, Qux: Tensor, limits: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Feedforward k, gains K, and whether H is positive definite."""
    if H.shape[-1] == 1:
        return _minimized_scalar(H[..., 0, 0], Qu, Qux, limits)
    if limits is None:
        L, info = torch.linalg.cholesky_ex(H)
        ok = info == 0
        L = torch.where(ok[..., None, None], L, torch.eye(L.shape[-1], dtype=L.dtype, device=L.device))
        both = -torch.cholesky_solve(torch.cat([Qu.unsqueeze(-1), Qux], dim=-1), L)
        return both[..., 0], both[..., 1:], ok
    found = box_qp(H, Qu, *limits)
    K = -torch.cholesky_solve(torch.where(found.free.unsqueeze(-1), Qux, 0.0), found.factor)
    return found.x, K, found.convex


def _minimized_scalar(
    h: Tensor, Qu: Tensor, Qux: Tensor, limits: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for one control, in closed form."""
    ok = h > 0
    inverse = (1.0 / torch.where(ok, h, 1.0)).unsqueeze(-1)
    k, K = -inverse * Qu, -inverse.unsqueeze(-1) * Qux
    if limits is None:
        return k, K, ok
    inside = (k > limits[0]) & (k < limits[1])
    return torch.minimum(torch.maximum(k, limits[0]), limits[1]), torch.where(inside.unsqueeze(-1), K, 0.0), ok
