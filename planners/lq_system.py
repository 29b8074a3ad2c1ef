r"""The optimality conditions of a linear-quadratic problem as one linear system, factorized once, solved for many right sides.

Unknown are displacements :math:`z_t = (\delta x_t, \delta u_t)`, costates :math:`\nu` and row multipliers :math:`y`:

.. math::
    H_t z_t + q_t + F_t^\top \nu_{t+1} - (\nu_t, 0) + C_t^\top y_t &= 0, \\
    F_t z_t + b_t - \delta x_{t+1} &= 0, \qquad \delta x_0 = 0, \\
    C_t z_t + h_t - c_t y_t &= 0,

the first without the rows of pinned controls, whose :math:`\delta u` is zero; for the last state likewise with
:math:`H_T, q_T, C_T, h_T`. A row of compliance c = 0 is an equality; one with c > 0 is a quadratic price :math:`1/(2c)`.

The factorization is a Riccati recursion in which equalities have a small compliance. What that and the arithmetic leave over is
removed by iterative refinement, whose residuals are those of the system itself. Dependent rows get multipliers of least norm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.batches import where_rows
from planners.riccati import mv

COMPLIANCE = 1e-8
"""Of an equality in the factorization, relative to what the recursion makes of the Hessian."""

MAX_REFINEMENTS = 12


@dataclass(frozen=True, eq=False)
class LQRight:
    """A right side (q, b, h of the equations), or a residual.

    Attributes:
        q: ``(*batch, T, k)``. q_T: ``(*batch, d)``.
        b: ``(*batch, T, d)``.
        h: ``(*batch, T, r)``. h_T: ``(*batch, r_T)``.
    """

    q: Tensor
    q_T: Tensor  # noqa: N815 (the symbols of the equations)
    b: Tensor
    h: Tensor
    h_T: Tensor  # noqa: N815


@dataclass(frozen=True, eq=False)
class LQSolution:
    """A solution.

    Attributes:
        dx: ``(*batch, T+1, d)``. du: ``(*batch, T, m)``.
        nu: costates ``(*batch, T+1, d)``; the first row belongs to the initial state.
        y: ``(*batch, T, r)``. y_T: ``(*batch, r_T)``; zero in rows that are not active.
    """

    dx: Tensor
    du: Tensor
    nu: Tensor
    y: Tensor
    y_T: Tensor  # noqa: N815

    def plus(self, other: "LQSolution") -> "LQSolution":
        """The sum."""
        return LQSolution(
            self.dx + other.dx, self.du + other.du, self.nu + other.nu, self.y + other.y, self.y_T + other.y_T
        )


@dataclass(frozen=True, eq=False)
class LQSystem:
    """The matrices; no rows are matrices with r = 0.

    Attributes:
        F: ``(*batch, T, d, k)``. H: ``(*batch, T, k, k)``. H_T: ``(*batch, d, d)``.
        free: controls that are not pinned, ``(*batch, T, m)`` of bool.
        C: ``(*batch, T, r, k)``. C_T: ``(*batch, r_T, d)``.
        active: rows that are part of the system, ``(*batch, T, r)`` of bool. active_T: ``(*batch, r_T)``.
        compliance: c, ``(*batch, T, r)``. compliance_T: ``(*batch, r_T)``.
    """

    F: Tensor
    H: Tensor
    H_T: Tensor
    free: Tensor
    C: Tensor
    active: Tensor
    compliance: Tensor
    C_T: Tensor
    active_T: Tensor  # noqa: N815
    compliance_T: Tensor  # noqa: N815

    def factorized(self) -> "LQFactor":
        """The Riccati recursion; see :class:`LQFactor`."""
        weight, weight_T = self._stiffness()
        H = self.H + self.C.mT @ (weight.unsqueeze(-1) * self.C)
        P = self.H_T + self.C_T.mT @ (weight_T.unsqueeze(-1) * self.C_T)
        d = self.F.shape[-2]
        Ps, Ks, Ls, Quus, oks = [P], [], [], [], []
        for F, H_t, free in zip(
            *(reversed(v.unbind(a)) for v, a in ((self.F, -3), (H, -3), (self.free, -2))), strict=True
        ):
            Q = H_t + F.mT @ (P @ F)
            f = free.to(Q)
            Qux = Q[..., d:, :d] * f.unsqueeze(-1)
            Quu = Q[..., d:, d:] * f.unsqueeze(-1) * f.unsqueeze(-2) + torch.diag_embed(1.0 - f)
            L, info = torch.linalg.cholesky_ex(Quu)
            ok = info == 0
            L = torch.where(ok[..., None, None], L, torch.eye(L.shape[-1], dtype=L.dtype, device=L.device))
            K = -torch.cholesky_solve(Qux, L)
            P = Q[..., :d, :d] + Q[..., :d, d:] @ K
            P = 0.5 * (P + P.mT)
            for found, value in ((Ps, P), (Ks, K), (Ls, L), (Quus, Quu), (oks, ok)):
                found.append(value)
        stack = [torch.stack(found[::-1], dim=-3) for found in (Ps, Ks, Ls, Quus)]
        return LQFactor(self, *stack, convex=torch.stack(oks).all(0), weight=weight, weight_T=weight_T)

    def residual(self, right: LQRight, s: LQSolution) -> LQRight:
        """What a solution leaves over of the equations."""
        z = torch.cat([s.dx[..., :-1, :], s.du], dim=-1)
        d = self.F.shape[-2]
        q = mv(self.H, z) + right.q + mv(self.F.mT, s.nu[..., 1:, :]) + mv(self.C.mT, s.y)
        q_x, q_u = q[..., :d] - s.nu[..., :-1, :], torch.where(self.free, q[..., d:], 0.0)
        last = s.dx[..., -1, :]
        h = mv(self.C, z) + right.h - self.compliance * s.y
        h_T = mv(self.C_T, last) + right.h_T - self.compliance_T * s.y_T
        return LQRight(
            q=torch.cat([q_x, q_u], dim=-1),
            q_T=mv(self.H_T, last) + right.q_T - s.nu[..., -1, :] + mv(self.C_T.mT, s.y_T),
            b=mv(self.F, z) + right.b - s.dx[..., 1:, :],
            h=torch.where(self.active, h, 0.0),
            h_T=torch.where(self.active_T, h_T, 0.0),
        )

    def _stiffness(self) -> tuple[Tensor, Tensor]:
        """The weights 1 / (c + epsilon) of the rows in the factorization; zero where a row is not active."""
        size = self.H.diagonal(dim1=-2, dim2=-1).abs().amax(-1).amax(-1)
        size = torch.maximum(size, self.H_T.diagonal(dim1=-2, dim2=-1).abs().amax(-1)).clamp_min(1e-30)
        floor = (COMPLIANCE if self.H.dtype == torch.float64 else 1e-4) / size
        weight = torch.where(self.active, 1.0 / (self.compliance + floor[..., None, None]), 0.0)
        return weight, torch.where(self.active_T, 1.0 / (self.compliance_T + floor.unsqueeze(-1)), 0.0)


@dataclass(frozen=True, eq=False)
class LQFactor:
    """A factorized system.

    Attributes:
        system: the system.
        P: ``(*batch, T+1, d, d)``. K: gains ``(*batch, T, m, d)``, zero in rows of pinned controls.
        L: Cholesky factors ``(*batch, T, m, m)`` of Quu: the control Hessians, with rows of the identity for pinned controls.
        convex: whether every Quu is positive definite, ``(*batch,)``: the minimum is strict.
    """

    system: LQSystem
    P: Tensor
    K: Tensor
    L: Tensor
    Quu: Tensor
    convex: Tensor
    weight: Tensor
    weight_T: Tensor  # noqa: N815

    def curvature(self) -> Tensor:
        """The smallest eigenvalue of any control Hessian on the free controls, ``(*batch,)``; infinite where none is free."""
        pinned = torch.diag_embed((~self.system.free).to(self.Quu))
        size = self.Quu.abs().amax((-2, -1), keepdim=True)
        values = torch.linalg.eigvalsh(self.Quu.nan_to_num() + pinned * size.nan_to_num())
        smallest = torch.where(self.system.free.any(-1), values[..., 0], torch.inf)
        return smallest.amin(-1)

    def solve(self, right: LQRight) -> LQSolution:
        """Solve for a right side, to the accuracy of the arithmetic where the system allows it."""
        solution = self._solve_once(right)
        left = self.system.residual(right, solution)
        size = _size(left)
        for _ in range(MAX_REFINEMENTS):
            if not bool((size > 0).any()):
                break
            candidate = solution.plus(self._solve_once(left))
            left_candidate = self.system.residual(right, candidate)
            new = _size(left_candidate)
            better = new < size
            if not bool(better.any()):
                break
            solution, left = where_rows(better, candidate, solution), where_rows(better, left_candidate, left)
            slow = new > 0.5 * size
            size = torch.where(better, new, size)
            if bool((slow | ~better).all()):
                break
        return solution

    def _solve_once(self, right: LQRight) -> LQSolution:
        system, d = self.system, self.system.F.shape[-2]
        q = right.q + mv(system.C.mT, self.weight * right.h)
        p = right.q_T + mv(system.C_T.mT, self.weight_T * right.h_T)
        q_u = torch.where(system.free, q[..., d:], 0.0)
        free = system.free.to(q)
        by_step = (system.F.mT, self.P[..., 1:, :, :], self.K.mT, self.L)
        F_t, P_next, K_t, L = (value.unbind(-3) for value in by_step)
        q_x, q_u, b, free = (value.unbind(-2) for value in (q[..., :d], q_u, right.b, free))
        ps, ks = [p], []
        for t in reversed(range(len(b))):
            forward = mv(F_t[t], p + mv(P_next[t], b[t]))
            Qu = q_u[t] + free[t] * forward[..., d:]
            k = -torch.cholesky_solve(Qu.unsqueeze(-1), L[t]).squeeze(-1)
            p = q_x[t] + forward[..., :d] + mv(K_t[t], Qu)
            ps.append(p)
            ks.append(k)
        ps, ks = ps[::-1], ks[::-1]
        dx, K, F = torch.zeros_like(p), self.K.unbind(-3), system.F.unbind(-3)
        dxs, dus = [dx], []
        for t in range(len(b)):
            dus.append(mv(K[t], dx) + ks[t])
            dx = mv(F[t], torch.cat([dx, dus[-1]], dim=-1)) + b[t]
            dxs.append(dx)
        dx, du = torch.stack(dxs, dim=-2), torch.stack(dus, dim=-2)
        z = torch.cat([dx[..., :-1, :], du], dim=-1)
        return LQSolution(
            dx,
            du,
            nu=mv(self.P, dx) + torch.stack(ps, dim=-2),
            y=self.weight * (mv(system.C, z) + right.h),
            y_T=self.weight_T * (mv(system.C_T, dx[..., -1, :]) + right.h_T),
        )


def _size(right: LQRight) -> Tensor:
    """The largest number of a residual, ``(*batch,)``; infinite where it is not finite."""
    sizes = [
        value.abs().flatten(-2).amax(-1) if value.numel() else value.new_zeros(value.shape[:-2])
        for value in (right.q, right.b, right.h)
    ]
    sizes += [v.abs().amax(-1) if v.shape[-1] else v.new_zeros(v.shape[:-1]) for v in (right.q_T, right.h_T)]
    return torch.stack(torch.broadcast_tensors(*sizes)).amax(0).nan_to_num(nan=torch.inf, posinf=torch.inf)
