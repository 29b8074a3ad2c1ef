"""Whether the problems of a batch can be solved apart from each other."""

import torch
from torch import Tensor

from planners.problem import Problem


def divides(problem: Problem, xs: Tensor, us: Tensor, t0: int) -> bool:
    """Whether some problems of a batch evaluate alone as they do among the others.

    A model with parameters for each world, a goal for each element and functions that close over tensors with batch axes belong
    to their batch: they raise errors for another one, or give other numbers. Everything that a solve evaluates is tried on two
    elements. Small batches gain nothing and are not tried.

    Args:
        problem: the problem.
        xs: states ``(*batch, T+1, n)`` to try.
        us: controls ``(*batch, T, m)`` to try.
        t0: step of the first control.
    """
    batch = us.shape[:-2]
    count = batch.numel()
    if count < 4:
        return False
    rows = torch.tensor([count - 1, 0], device=us.device)
    flat_xs, flat_us = xs.reshape(count, *xs.shape[-2:]), us.reshape(count, *us.shape[-2:])
    try:
        together = _evaluated(problem, xs, us, t0)
        apart = _evaluated(problem, flat_xs[rows], flat_us[rows], t0)
    except Exception:  # whatever a function of the user raises for another batch than its own
        return False
    for whole, part in zip(together, apart, strict=True):
        if whole.shape[: len(batch)] != batch:
            return False
        chosen = whole.reshape(count, *whole.shape[len(batch) :])[rows]
        if chosen.shape != part.shape or not torch.allclose(chosen, part, rtol=1e-6, atol=1e-9, equal_nan=True):
            return False
    return True


def _evaluated(problem: Problem, xs: Tensor, us: Tensor, t0: int) -> list[Tensor]:
    """What depends on the batch: next states, stage and terminal costs, rows of constraints."""
    steps = t0 + torch.arange(us.shape[-2], device=us.device)
    x, x_next, last = xs[..., :-1, :], xs[..., 1:, :], xs[..., -1, :]
    found = [problem.dynamics(x, us, steps), problem.cost.transition(x, us, x_next, steps), problem.cost.terminal(last)]
    found += [problem.dynamics(x[..., 0, :], us[..., 0, :], t0)]
    if problem.terminal_value is not None:
        found.append(problem.terminal_value(last))
    found += [constraint.value(x, us, steps) for constraint in problem.constraints]
    found += [constraint.value(last, None, None) for constraint in problem.terminal_constraints]
    return found
