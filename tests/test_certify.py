"""Certificates of plans of any planner."""

import pytest
import torch

import mbrl
from planners import DDP, ICEM, LQR, Problem, QuadraticCost, certify, solve


def test_a_plan_by_sampling_is_near_a_minimum_and_no_minimum():
    problem = mbrl.pendulum_swing_up(backend="torch").problem(horizon=15)
    x0 = torch.tensor([[0.3, 0.0], [-0.2, 0.1]], dtype=torch.float64)
    sampled, optimal = solve(problem, ICEM(), x0), solve(problem, DDP(), x0)
    assert not bool(certify(sampled).optimal.any())
    assert bool(certify(optimal).optimal.all())
    torch.testing.assert_close(certify(optimal).residual, optimal.certificate.residual)
    assert bool((certify(sampled).residual > 10 * certify(optimal).residual).all())


@pytest.mark.parametrize("fields", [{"termination": lambda x: x[..., 0] > 9}, {"rate_limits": (-1.0, 1.0)}])
def test_what_the_conditions_do_not_know_is_refused(fields):
    task = mbrl.pendulum_swing_up(backend="torch").problem(horizon=5)
    problem = Problem(task.dynamics, task.cost, 5, control_limits=task.control_limits, **fields)
    solution = solve(problem, ICEM(num_samples=10, max_iterations=1), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(ValueError, match=f"do not know {next(iter(fields))}, which the problem has"):
        certify(solution)


def test_an_infinite_horizon_is_refused():
    from dynamics import DoubleIntegrator, LinearDynamics

    linear = DoubleIntegrator(dt=0.1).linearize(torch.zeros(2).double(), torch.zeros(1).double())
    eye = torch.eye(2, dtype=torch.float64)
    problem = Problem(LinearDynamics(linear.fx, linear.fu), QuadraticCost(eye, eye[:1, :1]), float("inf"))
    with pytest.raises(ValueError, match="infinite horizon"):
        certify(solve(problem, LQR(), torch.ones(2, dtype=torch.float64)))
