"""Constraints as affine rows, about a plan or, where they are affine, everywhere."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dynamics.derivatives import jacobian, weighted_hessian
from planners.constraints import Constraint, Slack
from planners.convex.control_program import AffineRows
from planners.problem import Problem, check_rows


def linearized_constraints(
    problem: Problem,
    xs: Tensor,
    us: Tensor,
    t0: int,
    *,
    moved: Callable[[Tensor, Tensor], Tensor] = torch.add,
    tangent_dim: int | None = None,
    hard: Slack | None = None,
) -> Iterator[AffineRows]:
    """All constraints of a problem as rows in displacements (dx, du) from a plan, their batch axes in one.

    Args:
        problem: its constraints.
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.
        t0: step of the first control.
        moved: the state at a displacement dx from x, ``moved(x, dx)``.
        tangent_dim: size of dx; n by default.
        hard: the price of hard constraints; None leaves them hard.
    """
    T, size = us.shape[-2], tangent_dim or xs.shape[-1]
    steps = torch.arange(t0, t0 + T, device=us.device)
    for constraint in problem.constraints:
        first = int(constraint.of_state)
        x, u, t = xs[..., first:-1, :], us[..., first:, :], steps[first:]
        if first < T:
            yield _rows(constraint, x, u, t, first, size, moved, hard)
    for constraint in problem.terminal_constraints:
        yield _rows(constraint, xs[..., T:, :], None, None, T, size, moved, hard)


def constraint_curvature(
    problem: Problem,
    xs: Tensor,
    us: Tensor,
    t0: int,
    multipliers: Sequence[Tensor],
    *,
    moved: Callable[[Tensor, Tensor], Tensor],
    tangent_dim: int,
) -> tuple[Tensor, Tensor]:
    """Second derivatives of the constraints by (dx, du), weighted by multipliers ``(*batch, steps, k)`` in the order of rows.

    Returns:
        ``(*batch, T, d + m, d + m)`` for the stages, and ``(*batch, d, d)`` for the last state.
    """
    T, d = us.shape[-2], tangent_dim
    steps = torch.arange(t0, t0 + T, device=us.device)
    stage = us.new_zeros(*us.shape[:-1], d + us.shape[-1], d + us.shape[-1])
    last = us.new_zeros(*us.shape[:-2], d, d)
    weights = iter(multipliers)
    for constraint in problem.constraints:
        first = int(constraint.of_state)
        if first < T and not constraint.is_affine:
            at = xs[..., first:-1, :], us[..., first:, :], steps[first:]
            added = _curvature(constraint, *at, next(weights), d, moved)
            stage = stage + torch.nn.functional.pad(added, (0, 0, 0, 0, first, 0))
        elif first < T:
            next(weights)
    for constraint in problem.terminal_constraints:
        weight = next(weights)
        if not constraint.is_affine:
            last = last + _curvature(constraint, xs[..., T:, :], None, None, weight, d, moved).squeeze(-3)
    return stage, last


def _curvature(
    constraint: Constraint,
    x: Tensor,
    u: Tensor | None,
    t: Tensor | None,
    weight: Tensor,
    size: int,
    moved: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    width = size + (0 if u is None else u.shape[-1])
    displaced = _displaced(constraint, x, u, t, size, moved)
    return weighted_hessian(displaced, x.new_zeros(*x.shape[:-1], width), weight)


def affine_constraints(problem: Problem, x0: Tensor, t0: int) -> list[AffineRows]:
    """The affine constraints of a problem for initial states ``(*batch, n)``, differentiable in their numbers."""
    T = int(problem.horizon)
    xs, us = (
        x0.new_zeros(*x0.shape[:-1], count, size)
        for count, size in ((T + 1, x0.shape[-1]), (T, problem.dynamics.control_dim))
    )
    return list(linearized_constraints(problem, xs, us, t0))


def _rows(
    constraint: Constraint,
    x: Tensor,
    u: Tensor | None,
    t: Tensor | None,
    first: int,
    size: int,
    moved: Callable[[Tensor, Tensor], Tensor],
    hard: Slack | None,
) -> AffineRows:
    """The rows of one constraint at states ``(*batch, steps, n)``."""
    batch = tuple(x.shape[:-1])
    value = check_rows(constraint, constraint.value(x, u, t), batch)
    k = value.shape[-1]
    displaced = _displaced(constraint, x, u, t, size, moved)
    width = size + (0 if u is None else u.shape[-1])
    matrix = jacobian(displaced, x.new_zeros(*batch, width), k)
    return AffineRows(
        C=_flat(matrix[..., :size], 3),
        D=None if u is None else _flat(matrix[..., size:], 3),
        d=_flat(-value, 2),
        first=first,
        equality=constraint.equality,
        soft=constraint.soft or hard,
    )


def _displaced(
    constraint: Constraint,
    x: Tensor,
    u: Tensor | None,
    t: Tensor | None,
    size: int,
    moved: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor], Tensor]:
    """The rows of a constraint by displacements ``(*batch, steps, rows, d + m)``."""
    rows_t = None if t is None else t.unsqueeze(-1)

    def displaced(z: Tensor) -> Tensor:
        control = None if u is None else u.unsqueeze(-2) + z[..., size:]
        return constraint.value(moved(x.unsqueeze(-2), z[..., :size]), control, rows_t)

    return displaced


def _flat(value: Tensor, core: int) -> Tensor:
    """Batch axes in one, the last ``core`` kept, for the solver on the processor."""
    split = value.ndim - core
    return value.reshape(math.prod(value.shape[:split]), *value.shape[split:]).cpu()


def non_affine(constraints: Sequence[Constraint]) -> list[str]:
    """Names of the constraints that are not affine."""
    return [constraint.name for constraint in constraints if not constraint.is_affine]
