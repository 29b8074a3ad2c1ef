r"""Quadratic programs with bounds, many at once, by projected Newton.

.. math:: \min_x \tfrac12 x^\top H x + g^\top x \quad \text{s.t.} \quad \underline x \le x \le \overline x

Bertsekas (1982); Tassa, Mansard and Todorov (2014), algorithm 1: coordinates at a bound whose gradient pushes outwards are
clamped, a Newton step is taken in the others, and a projected line search decides its length.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.riccati import mv

ARMIJO = 0.1
STEPS = 0.5 ** torch.arange(12, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class BoxQPSolution:
    """Minimizers of a batch of quadratic programs.

    Attributes:
        x: ``(*batch, m)``.
        free: coordinates that are not clamped at the minimum, ``(*batch, m)`` of bool.
        factor: Cholesky factor of H on the free coordinates, of the identity on the others, ``(*batch, m, m)``.
        convex: whether H was positive definite wherever it was factorized, ``(*batch,)``.
        converged: whether the projected gradient vanished, ``(*batch,)``.
    """

    x: Tensor
    free: Tensor
    factor: Tensor
    convex: Tensor
    converged: Tensor


def box_qp(
    H: Tensor, g: Tensor, lower: Tensor, upper: Tensor, start: Tensor | None = None, *, max_iterations: int = 30
) -> BoxQPSolution:
    """Minimize over boxes.

    Args:
        H: ``(*batch, m, m)``, symmetric and positive definite.
        g: ``(*batch, m)``.
        lower: lower bounds ``(*batch, m)``, minus infinity where there is none.
        upper: upper bounds ``(*batch, m)``.
        start: where to start, ``(*batch, m)``; the clamped unconstrained minimizer by default.
        max_iterations: Newton steps at most; a few suffice where the set of active bounds does not change.
    """
    if H.shape[-1] == 2 and start is None:
        return _pair(H, g, lower, upper)
    L, info = torch.linalg.cholesky_ex(H)
    convex = info == 0
    L = torch.where(convex[..., None, None], L, _eye_like(H))
    newton = -_solved(L, g)
    inside = ((newton >= lower) & (newton <= upper)).all(-1)
    if bool((inside | ~convex).all()):
        everywhere = torch.ones_like(newton, dtype=torch.bool)
        return BoxQPSolution(newton, everywhere, L, convex, convex)
    x = torch.where(inside.unsqueeze(-1), newton, _clamp(newton if start is None else start, lower, upper))
    scale = 1e2 * torch.finfo(H.dtype).eps * (1.0 + g.abs() + (H.abs() @ x.abs().unsqueeze(-1)).squeeze(-1))
    for _ in range(max_iterations):
        gradient = g + mv(H, x)
        free = ~(((x <= lower) & (gradient > 0)) | ((x >= upper) & (gradient < 0)))
        L, ok = _factor_on(H, free)
        convex = convex & ok
        residual = torch.where(free, gradient, 0.0)
        converged = (residual.abs() <= scale).all(-1)
        if bool((converged | ~convex).all()):
            break
        moved = _projected_step(H, g, x, -_solved(L, residual), gradient, lower, upper)
        x = torch.where((converged | ~convex).unsqueeze(-1), x, moved)
    return BoxQPSolution(x, free, L, convex, converged & convex)


def _pair(H: Tensor, g: Tensor, lower: Tensor, upper: Tensor) -> BoxQPSolution:
    """Two coordinates, in closed form: the minimum is the unconstrained one or lies on one of the four edges."""
    a, b, c = H[..., 0, 0], H[..., 0, 1], H[..., 1, 1]
    determinant = a * c - b * b
    convex = (a > 0) & (determinant > torch.finfo(H.dtype).eps * a * c)
    a, c = torch.where(a > 0, a, 1.0), torch.where(c > 0, c, 1.0)
    determinant = torch.where(convex, determinant, 1.0)
    g0, g1 = g.unbind(-1)
    inner = torch.stack([b * g1 - c * g0, b * g0 - a * g1], dim=-1) / determinant.unsqueeze(-1)
    inside = ((inner >= lower) & (inner <= upper)).all(-1)
    if bool(inside.all()):
        x = inner
    else:
        ends = torch.stack([lower, upper], dim=-2)  # of both coordinates
        other0 = -(g0.unsqueeze(-1) + b.unsqueeze(-1) * ends[..., 1]) / a.unsqueeze(-1)
        other1 = -(g1.unsqueeze(-1) + b.unsqueeze(-1) * ends[..., 0]) / c.unsqueeze(-1)
        free = torch.cat([other1, other0], dim=-1)  # with x0 at its ends, then with x1 at its ends
        free = _clamp(free, lower[..., [1, 1, 0, 0]], upper[..., [1, 1, 0, 0]])
        fixed = torch.cat([ends[..., 0], ends[..., 1]], dim=-1)
        x0 = torch.cat([fixed[..., :2], free[..., 2:]], dim=-1)
        x1 = torch.cat([free[..., :2], fixed[..., 2:]], dim=-1)
        points = torch.stack([x0, x1], dim=-1)
        value = (points * (g.unsqueeze(-2) + 0.5 * (points @ H))).sum(-1).nan_to_num(nan=torch.inf, posinf=torch.inf)
        index = value.argmin(-1)[..., None, None].expand(*value.shape[:-1], 1, 2)
        x = torch.where(inside.unsqueeze(-1), inner, points.gather(-2, index).squeeze(-2))
    clamped = ((x <= lower) | (x >= upper)) & ~inside.unsqueeze(-1)
    L, _ = _factor_on(torch.where(convex[..., None, None], H, _eye_like(H)), ~clamped)
    return BoxQPSolution(x, ~clamped, L, convex, convex)


def _factor_on(H: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor of H where rows and columns are free, and of the identity elsewhere."""
    rows = free.to(H.dtype)
    reduced = H * rows.unsqueeze(-1) * rows.unsqueeze(-2) + torch.diag_embed(1.0 - rows)
    L, info = torch.linalg.cholesky_ex(reduced)
    ok = info == 0
    return torch.where(ok[..., None, None], L, _eye_like(H)), ok


def _projected_step(
    H: Tensor, g: Tensor, x: Tensor, step: Tensor, gradient: Tensor, lower: Tensor, upper: Tensor
) -> Tensor:
    """The longest of some projected steps that decreases the cost as Armijo's rule asks; x where none does."""
    lengths = STEPS.to(x).reshape(-1, *[1] * x.ndim)
    points = _clamp(x + lengths * step, lower, upper)
    change = points - x
    reduction = (change * (gradient + 0.5 * mv(H, change))).sum(-1)
    expected = (change * gradient).sum(-1)
    good = (reduction <= ARMIJO * expected) & (reduction <= 0)
    first = good.to(torch.uint8).argmax(0)
    index = first.unsqueeze(0).unsqueeze(-1).expand(1, *x.shape)
    chosen = points.gather(0, index).squeeze(0)
    return torch.where(good.any(0).unsqueeze(-1), chosen, x)


def _solved(L: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right.unsqueeze(-1), L).squeeze(-1)


def _clamp(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, lower), upper)


def _eye_like(H: Tensor) -> Tensor:
    return torch.eye(H.shape[-1], dtype=H.dtype, device=H.device).expand(H.shape)
