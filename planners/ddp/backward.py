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

    Gradients are columns of the matrices, so that one product does for both: with [x, 1, u] in place of [x, u], a step is three
    products with F and two with the gains [K, k].

    Args:
        model: the linear-quadratic model.
        mu: regularization, ``(*batch,)``.
    """
    d, m = model.F.shape[-2], model.F.shape[-1] - model.F.shape[-2]
    V = torch.cat([model.P_T, model.p_T.unsqueeze(-1)], dim=-1)
    F_s, affine, costs = model.F.mT.unbind(-3), _affine(model).unbind(-3), _with_gradient(model).unbind(-3)
    limits = None if model.lower is None or model.upper is None else (model.lower.unbind(-2), model.upper.unbind(-2))
    ridge = mu[..., None, None] * torch.eye(m, dtype=V.dtype, device=V.device)
    solved = torch.ones_like(mu, dtype=torch.bool)
    gains, hessians, values = [], [], [V]
    for t in reversed(range(len(F_s))):
        Q = costs[t] + F_s[t] @ (V @ affine[t])
        Qx, Qu, Quu = Q[..., :d, : d + 1], Q[..., d:, : d + 1], Q[..., d:, d + 1 :]
        K, ok = _minimized(Quu + ridge, Qu, None if limits is None else (limits[0][t], limits[1][t]))
        solved = solved & ok
        V = Qx + K[..., :d].mT @ (Quu @ K + Qu) + Qu[..., :d].mT @ K
        P = V[..., :d]
        V = torch.cat([0.5 * (P + P.mT), V[..., d:]], dim=-1)
        gains.append(K)
        hessians.append(Q[..., d:, d:])
        values.append(V)
    gains, hessians, values = (torch.stack(found[::-1], dim=-3) for found in (gains, hessians, values))
    k, Qu, Quu = gains[..., d], hessians[..., 0], hessians[..., 1:]
    slope = (k * Qu).sum((-2, -1))
    bend = 0.5 * (k * mv(Quu, k)).sum((-2, -1))
    finite = slope.isfinite() & bend.isfinite()
    return LocalPolicy(k, gains[..., :d], Quu, values[..., :d], slope, bend, solved & finite)


def _affine(model: Model) -> Tensor:
    """The matrices that take [x, 1, u] to [x', 1], ``(*batch, T, d + 1, k + 1)``."""
    d = model.F.shape[-2]
    gap = torch.zeros_like(model.F[..., 0]) if model.gap is None else model.gap
    upper = torch.cat([model.F[..., :d], gap.unsqueeze(-1), model.F[..., d:]], dim=-1)
    lower = torch.zeros_like(upper[..., :1, :])
    lower[..., d] = 1.0
    return torch.cat([upper, lower], dim=-2)


def _with_gradient(model: Model) -> Tensor:
    """Stage Hessians with their gradients as a column between those of x and u, ``(*batch, T, k, k + 1)``."""
    d = model.F.shape[-2]
    return torch.cat([model.H[..., :d], model.g.unsqueeze(-1), model.H[..., d:]], dim=-1)


def _minimized(H: Tensor, Qu: Tensor, limits: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Gains and feedforward [K, k] ``(*batch, m, d + 1)`` from [Qux, Qu], and whether H is positive definite."""
    if H.shape[-1] == 1:
        ok = H > 0
        K = -Qu / torch.where(ok, H, 1.0)
        if limits is not None:
            K = _cut_off(K, limits)
        return K, ok[..., 0, 0]
    if limits is None:
        L, info = torch.linalg.cholesky_ex(H)
        ok = info == 0
        L = torch.where(ok[..., None, None], L, torch.eye(L.shape[-1], dtype=L.dtype, device=L.device))
        return -torch.cholesky_solve(Qu, L), ok
    found = box_qp(H, Qu[..., -1], *limits)
    K = -torch.cholesky_solve(torch.where(found.free.unsqueeze(-1), Qu[..., :-1], 0.0), found.factor)
    return torch.cat([K, found.x.unsqueeze(-1)], dim=-1), found.convex


def _cut_off(K: Tensor, limits: tuple[Tensor, Tensor]) -> Tensor:
    """[K, k] of one control within its limits, in closed form."""
    lower, upper = limits[0].unsqueeze(-1), limits[1].unsqueeze(-1)
    k = K[..., -1:]
    inside = (k > lower) & (k < upper)
    return torch.cat([torch.where(inside, K[..., :-1], 0.0), torch.minimum(torch.maximum(k, lower), upper)], dim=-1)
