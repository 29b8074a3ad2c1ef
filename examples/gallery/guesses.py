"""First plans made of states, or of controls, which planners take as ``init=``."""

import torch
from torch import Tensor

from planners import Problem, Solution


def states_guess(problem: Problem, xs: Tensor, us: Tensor) -> Solution:
    """A plan of states ``(*batch, T+1, n)`` and controls ``(*batch, T, m)``; the states need not obey the dynamics."""
    return Solution(problem, xs, us, xs.new_zeros(xs.shape[:-2]), torch.zeros(xs.shape[:-2], dtype=torch.long))


def largest_violation(solution: Solution) -> float:
    """Over all constraints of all problems."""
    return max((float(violation.max()) for violation in solution.violations.values()), default=0.0)
