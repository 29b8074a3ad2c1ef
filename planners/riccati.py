r"""The Riccati recursion: one backward pass over a time-varying, affine linear-quadratic problem.

With stage cost and dynamics

.. math::
    \ell = \tfrac12 x^\top Q x + x^\top N u + \tfrac12 u^\top R u + q^\top x + r^\top u, \qquad x' = A x + B u + b,

and the value function :math:`V = \tfrac12 x^\top P x + p^\top x` of the next step, discounted by gamma,

.. math::
    Q_{xx} &= Q + \gamma A^\top P A, & Q_{xu} &= N + \gamma A^\top P B, & Q_{uu} &= R + \gamma B^\top P B, \\
    Q_x &= q + \gamma A^\top (p + P b), & Q_u &= r + \gamma B^\top (p + P b), \\
    K &= -Q_{uu}^{-1} Q_{xu}^\top, & k &= -Q_{uu}^{-1} Q_u .

The steps are a Python loop, everything else is batched.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LinearQuadratic:
    """A finite-horizon linear-quadratic problem; the batch axes of all fields broadcast.

    Attributes:
        A: ``(*batch, T, n, n)``. B: ``(*batch, T, n, m)``. b: ``(*batch, T, n)``.
        Q: ``(*batch, T, n, n)``. N: ``(*batch, T, n, m)``. R: ``(*batch, T, m, m)``.
        q: ``(*batch, T, n)``. r: ``(*batch, T, m)``.
        P_T: Hessian ``(*batch, n, n)`` and p_T: gradient ``(*batch, n)`` of the terminal cost at x = 0.
        discount: gamma.
    """

    A: Tensor
    B: Tensor
    b: Tensor
    Q: Tensor
    N: Tensor
    R: Tensor
    q: Tensor
    r: Tensor
    P_T: Tensor
    p_T: Tensor  # noqa: N815 (the terminal value's gradient, as in the recursion)
    discount: float = 1.0


@dataclass(frozen=True, eq=False)
class Riccati:
    """What the backward pass finds.

    Attributes:
        K: gains ``(*batch, T, m, n)``. k: feedforward ``(*batch, T, m)``; the control is ``K x + k``.
        P: value Hessians ``(*batch, T+1, n, n)``. p: value gradients at x = 0, ``(*batch, T+1, n)``.
        Quu: control Hessians ``(*batch, T, m, m)``.
        convex: whether every Quu is positive definite, ``(*batch,)``; gains are NaN where one is not.
    """

    K: Tensor
    k: Tensor
    P: Tensor
    p: Tensor
    Quu: Tensor
    convex: Tensor


def backward_pass(lq: LinearQuadratic) -> Riccati:
    """Solve a finite-horizon linear-quadratic problem by the recursion above."""
    P, p = lq.P_T, lq.p_T
    Ks, ks, Ps, ps, Quus, oks = [], [], [P], [p], [], []
    for t in reversed(range(lq.A.shape[-3])):
        A, B = lq.A[..., t, :, :], lq.B[..., t, :, :]
        PA, PB = P @ A, P @ B
        p_next = p + mv(P, lq.b[..., t, :])
        Qxx = lq.Q[..., t, :, :] + lq.discount * A.mT @ PA
        Qxu = lq.N[..., t, :, :] + lq.discount * A.mT @ PB
        Quu = lq.R[..., t, :, :] + lq.discount * B.mT @ PB
        Qx = lq.q[..., t, :] + lq.discount * mv(A.mT, p_next)
        Qu = lq.r[..., t, :] + lq.discount * mv(B.mT, p_next)
        K, k, ok = _minimize(Quu, Qxu.mT, Qu)
        P = Qxx + Qxu @ K
        P = 0.5 * (P + P.mT)
        p = Qx + mv(Qxu, k)
        for found, value in zip((Ks, ks, Ps, ps, Quus, oks), (K, k, P, p, Quu, ok), strict=True):
            found.append(value)
    return Riccati(
        K=_stack(Ks, 2),
        k=_stack(ks, 1),
        P=_stack(Ps, 2),
        p=_stack(ps, 1),
        Quu=_stack(Quus, 2),
        convex=torch.stack(torch.broadcast_tensors(*oks)).all(0),
    )


def algebraic_riccati(lq: LinearQuadratic, *, max_iterations: int = 60) -> tuple[Tensor, int]:
    r"""The stationary value Hessian, by structure-preserving doubling (Chu, Fan and Lin 2005, equation 2.8).

    With the cross term and the discount absorbed, :math:`A_0 = \sqrt\gamma (A - B R^{-1} N^\top)`,
    :math:`G_0 = \gamma B R^{-1} B^\top`, :math:`H_0 = Q - N R^{-1} N^\top`, and :math:`W = I + G H`,

    .. math::
        A \leftarrow A W^{-1} A, \quad G \leftarrow G + A W^{-1} G A^\top, \quad H \leftarrow H + A^\top H W^{-1} A,

    k iterations look 2^k steps ahead and H converges to P.

    Args:
        lq: a problem without time axis, R positive definite; its affine terms play no part.
        max_iterations: number of doublings at most.

    Returns:
        P ``(*batch, n, n)`` and the number of doublings. Whether P solves the equation is for the caller to check; it is
        not finite where the recursion diverges.
    """
    RN = solved(lq.R, lq.N.mT)
    A = math.sqrt(lq.discount) * (lq.A - lq.B @ RN)
    G = lq.discount * lq.B @ solved(lq.R, lq.B.mT)
    H = lq.Q - lq.N @ RN
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    iteration = 0
    while iteration < max_iterations:
        iteration += 1
        W_A, W_G = solved(eye + G @ H, torch.cat([A, G], dim=-1)).chunk(2, dim=-1)
        change = A.mT @ H @ W_A
        A, G, H = A @ W_A, G + A @ W_G @ A.mT, H + 0.5 * (change + change.mT)
        G = 0.5 * (G + G.mT)
        small = torch.linalg.matrix_norm(change) <= 4 * torch.finfo(A.dtype).eps * torch.linalg.matrix_norm(H)
        if bool((small | ~H.isfinite().all(-1).all(-1)).all()):
            break
    return H, iteration


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """``matrix^-1 right``; not finite, instead of an error for the whole batch, where a matrix is singular."""
    return torch.linalg.solve_ex(matrix, right).result


def _minimize(Quu: Tensor, Qux: Tensor, Qu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """K = -Quu^-1 Qux and k = -Quu^-1 Qu by Cholesky, NaN where Quu is not positive definite."""
    L, info = torch.linalg.cholesky_ex(Quu)
    ok = info == 0
    L = torch.where(ok[..., None, None], L, torch.full_like(L, float("nan")))
    batch = torch.broadcast_shapes(Qux.shape[:-2], Qu.shape[:-1])
    right = torch.cat([Qux.expand(*batch, *Qux.shape[-2:]), Qu.expand(*batch, Qu.shape[-1]).unsqueeze(-1)], dim=-1)
    solved = -torch.cholesky_solve(right, L)
    return solved[..., :-1], solved[..., -1], ok


def _stack(values: list[Tensor], core_ndim: int) -> Tensor:
    """Stack values found backwards in time along a time axis before their core axes."""
    return torch.stack(torch.broadcast_tensors(*reversed(values)), dim=-core_ndim - 1)


def mv(matrix: Tensor, vector: Tensor) -> Tensor:
    """Batched product of matrices ``(*batch, k, n)`` and vectors ``(*batch, n)``."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
