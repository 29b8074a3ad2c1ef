"""Multiple shooting closes gaps whose closing costs something, also where the guess itself costs nothing."""

import pytest
import torch

from dynamics import DoubleIntegrator, Pendulum
from planners import DDP, Problem, QuadraticCost, Solution, TerminalState, solve


def free_of_charge(problem: Problem, x0: torch.Tensor, goal: torch.Tensor) -> Solution:
    """A straight line to the goal without control: no cost, no violation, no multiplier, gaps alone."""
    T = int(problem.horizon)
    share = torch.linspace(0.0, 1.0, T + 1, dtype=x0.dtype)[:, None]
    us = x0.new_zeros(T, problem.dynamics.control_dim)
    return Solution(problem, x0 + share * (goal - x0), us, x0.new_zeros(()), torch.tensor(0))


def least_effort(T: int, dt: float) -> float:
    """Half the sum of squared accelerations that move a unit mass by 1 m from rest to rest, by the normal equations."""
    A = torch.tensor([[1.0, dt], [0.0, 1.0]], dtype=torch.float64)
    B = torch.tensor([[0.5 * dt**2], [dt]], dtype=torch.float64)
    reach = torch.cat([torch.linalg.matrix_power(A, T - 1 - t) @ B for t in range(T)], dim=1)
    goal = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return 0.5 * float(goal @ torch.linalg.solve(reach @ reach.mT, goal))


@pytest.mark.parametrize("curvature", ["exact", "gauss-newton"])
def test_a_guess_without_cost_leads_to_the_least_effort(curvature):
    effort = QuadraticCost(torch.zeros(2, 2), torch.eye(1))
    goal = torch.tensor([1.0, 0.0], dtype=torch.float64)
    problem = Problem(DoubleIntegrator(1, dt=0.1), effort, 20, terminal_constraints=(TerminalState(goal),))
    x0 = torch.zeros(2, dtype=torch.float64)
    planner = DDP(shooting="multiple", curvature=curvature)
    plan = solve(problem, planner, x0, init=free_of_charge(problem, x0, goal))
    torch.testing.assert_close(plan.xs[-1], goal, rtol=0.0, atol=1e-8)
    assert float(plan.cost) == pytest.approx(least_effort(20, 0.1), rel=1e-8)


def test_a_pendulum_is_swung_up_from_a_line_that_needs_no_torque():
    effort = QuadraticCost(torch.zeros(2, 2), torch.eye(1))
    goal = torch.zeros(2, dtype=torch.float64)
    problem = Problem(Pendulum(0.1), effort, 20, terminal_constraints=(TerminalState(goal),))
    x0 = torch.tensor([3.0, 0.0], dtype=torch.float64)
    plan = solve(problem, DDP(shooting="multiple"), x0, init=free_of_charge(problem, x0, goal))
    torch.testing.assert_close(plan.xs[-1], goal, rtol=0.0, atol=1e-6)
    assert bool(plan.certificate.optimal)
