"""Derivatives of plans by central differences of plans, both ends polished."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from planners import DDP, Implicit, Problem, Solution, solve
from planners.implicit import with_derivatives

POLISHED = Implicit(tolerance=1e-11)
PLANNER = DDP(tolerance=1e-8, max_iterations=300)


def weights(value: Tensor, seed: int) -> Tensor:
    """Fixed random numbers in the shape of a value."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)


def loss_of(solution: Solution) -> Tensor:
    """A number that depends on all states, controls and costs."""
    sums = [(weights(v, seed) * v).sum() for seed, v in enumerate((solution.xs, solution.us, solution.cost))]
    return sums[0] + sums[1] + 0.1 * sums[2]


def gradient_errors(
    make: Callable[..., tuple[Problem, Tensor]],
    values: Sequence[Tensor],
    *,
    how: Implicit = POLISHED,
    planner: DDP = PLANNER,
    step: float = 1e-5,
    loss: Callable[[Solution], Tensor] = loss_of,
    directions: int = 2,
) -> tuple[list[float], Solution]:
    """Relative errors of directional derivatives by each of some tensors, and the solution.

    Args:
        make: the problem and x0 as functions of the tensors.
        values: the tensors at which to differentiate.
        how: how to differentiate, and to which residual both ends are polished.
        planner: what solves.
        step: of the central differences.
        loss: of the solution.
        directions: random directions for each tensor.
    """
    values = [value.detach().double() for value in values]
    leaves = [value.clone().requires_grad_() for value in values]
    problem, x0 = make(*leaves)
    base = solve(problem, planner, x0, gradient=how)
    gradients = torch.autograd.grad(loss(base), leaves, allow_unused=True)
    errors = []
    for i, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
        if gradient is None:
            errors.append(float("inf"))
            continue
        worst = 0.0
        for k in range(directions):
            direction = weights(value, 100 + 10 * i + k)
            ends = []
            for sign in (1.0, -1.0):
                moved = list(values)
                moved[i] = value + sign * step * direction
                ends.append(float(loss(polished_plan(*make(*moved), base, how))))
            expected = (ends[0] - ends[1]) / (2 * step)
            found = float((gradient * direction).sum())
            noise = 1e8 * torch.finfo(torch.float64).eps * abs(ends[0]) / step  # 1e3 roundings are 1e-5 of it
            scale = max(abs(expected), 1e-2 * float(gradient.norm() * direction.norm()), noise)
            worst = max(worst, abs(found - expected) / scale)
        errors.append(worst)
    return errors, base


def polished_plan(problem: Problem, x0: Tensor, near: Solution, how: Implicit) -> Solution:
    """The plan of a problem from another one that is near, by Newton steps."""
    with torch.no_grad():
        xs = problem.dynamics.rollout(x0, near.us)
        multipliers = near.multipliers and tuple(y.detach() for y in near.multipliers)
        start = replace(near, problem=problem, xs=xs, us=near.us.detach(), multipliers=multipliers)
        found = with_derivatives(start, x0, how)
    assert bool((found.certificate.residual <= found.certificate.tolerance).all())
    return found
