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
