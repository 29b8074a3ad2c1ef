"""Plans are what their statuses and certificates say: units, prices, kinks at the start, refined and unrefined plans."""

from dataclasses import replace

import pytest
import torch

from dynamics import Dynamics, LinearDynamics, Pendulum
from planners import (
    DDP,
    LQR,
    ConvexProgram,
    FunctionCost,
    GoalCost,
    Implicit,
    Problem,
    QuadraticCost,
    Slack,
    StateInequality,
    Status,
    TerminalState,
    certify,
    solve,
)

F64 = torch.float64
A = torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=F64)
B = torch.tensor([[0.0], [0.1]], dtype=F64)
E1, E2 = torch.eye(1, dtype=F64), torch.eye(2, dtype=F64)
START = torch.tensor([1.0, 0.0], dtype=F64)


@pytest.mark.parametrize("unit", [1e-8, 1e-3, 1.0, 1e6])
def test_plans_do_not_depend_on_the_unit_of_the_cost(unit):
    problem = Problem(Pendulum(), QuadraticCost(unit * E2, 0.1 * unit * E1), 20, control_limits=(-3.0, 3.0))
    reference = Problem(Pendulum(), QuadraticCost(E2, 0.1 * E1), 20, control_limits=(-3.0, 3.0))
    ends = [TerminalState([0.0, 0.0])]
    for fields in ({}, {"terminal_constraints": ends, "control_limits": None}):
        plan, expected = (solve(replace(p, **fields), DDP(), START) for p in (problem, reference))
        torch.testing.assert_close(plan.us, expected.us, rtol=1e-4, atol=1e-4)
        assert bool(plan.certificate.optimal)


def test_plans_do_not_depend_on_the_units_of_the_controls():
    R = torch.diag(torch.tensor([0.1e10, 0.1], dtype=F64))
    both = LinearDynamics(torch.block_diag(A, A), torch.block_diag(B / 1e-5, B))
    problem = Problem(both, QuadraticCost(torch.eye(4, dtype=F64), R), 10)
    x0 = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=F64)
    assert float(solve(problem, DDP(), x0).cost) == pytest.approx(float(solve(problem, LQR(), x0).cost), rel=1e-9)
    small = 1e-6
    limited = Problem(
        LinearDynamics(A, B / small),
        QuadraticCost(E2, 0.1 / small**2 * E1),
        10,
        control_limits=(-0.5 * small, 0.5 * small),
    )
    optimum = float(solve(limited, ConvexProgram(), START).cost)
    assert float(solve(limited, DDP(), START).cost) == pytest.approx(optimum, rel=1e-6)


def test_a_heavy_terminal_weight_does_not_hide_the_rest():
    cost = QuadraticCost(
        torch.diag(torch.tensor([1.0, 0.0], dtype=F64)), E1, Q_terminal=torch.diag(torch.tensor([0.0, 1e9]))
    )
    problem = Problem(LinearDynamics(A, B), cost, 10)
    assert float(solve(problem, DDP(), START).cost) == pytest.approx(float(solve(problem, LQR(), START).cost), rel=1e-9)


def test_a_soft_equality_that_holds_gives_way_smoothly():
    ends = [TerminalState([0.0, 0.0], soft=Slack(quadratic=1.0))]
    problem = Problem(LinearDynamics(A, B), QuadraticCost(0 * E2, 0.1 * E1), 10, terminal_constraints=ends)
    slopes = []
    for start in (0.0, 1e-3):
        x0 = torch.tensor([start, 0.0], dtype=F64, requires_grad=True)
        solution = solve(problem, DDP(), x0, gradient=Implicit())
        assert bool(solution.certificate.gradient_valid)
        slopes.append(torch.autograd.grad(solution.us[0, 0], x0)[0])
    torch.testing.assert_close(slopes[0], slopes[1])


def test_a_state_row_without_derivative_at_the_start_does_not_count_there():
    rows = [StateInequality(lambda x: x.square().sum(-1, keepdim=True).sqrt() - 5.0)]
    dynamics = LinearDynamics(A, B, torch.tensor([0.1, 0.0], dtype=F64))
    cost = QuadraticCost(E2, 0.1 * E1, goal=START)
    found = []
    for constraints in (rows, []):
        x0 = torch.zeros(2, dtype=F64, requires_grad=True)
        solution = solve(Problem(dynamics, cost, 10, constraints=constraints), DDP(), x0, gradient=Implicit())
        assert bool(solution.K.isfinite().all())
        found.append((solution.us.detach(), torch.autograd.grad(solution.us[0, 0], x0)[0]))
    torch.testing.assert_close(found[0], found[1])


def test_a_cost_without_derivative_at_the_plan_ends_at_once():
    cost = FunctionCost(lambda x, u, t: x.square().sum(-1).sqrt() + 0.1 * u.square().sum(-1))
    solution = solve(Problem(LinearDynamics(A, B), cost, 10), DDP(), torch.zeros(2, dtype=F64))
    assert int(solution.status) == Status.STALLED
    assert solution.stats["iterations"] == 0
    assert bool(solution.K.isfinite().all())


def test_a_soft_constraint_does_not_break_a_hard_one_of_its_name():
    constraints = [
        StateInequality(lambda x: x[..., :1] - 0.1, soft=Slack(quadratic=0.1)),
        StateInequality(lambda x: x[..., :1] - 50.0),
    ]
    solution = solve(Problem(LinearDynamics(A, B), QuadraticCost(E2, E1), 10, constraints=constraints), DDP(), START)
    assert int(solution.status) == Status.CONVERGED
    assert float(solution.violations["StateInequality"]) > 0.5


def test_a_plan_whose_states_are_not_those_of_its_controls_is_not_optimal():
    solution = solve(Problem(LinearDynamics(A, B), QuadraticCost(E2, E1), 10), DDP(), START)
    invented = replace(solution, xs=torch.cat([solution.xs[:1], 0 * solution.xs[1:]]), us=0 * solution.us)
    assert not bool(certify(invented).optimal)
    assert float(certify(invented).violation) == pytest.approx(1.0)


def hurried(x0, **options):
    cost = GoalCost([3.14159, 0.0], terminal_weights=10.0, control_weights=0.01)
    problem = Problem(Pendulum(), cost, 30, control_limits=(-3.0, 3.0))
    return solve(problem, DDP(max_iterations=1), x0, **options)


def test_refining_a_plan_never_makes_it_worse_and_each_element_is_its_own():
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(16, 2, generator=generator, dtype=F64) * torch.tensor([3.0, 1.0], dtype=F64)
    plain, refined = hurried(x0), hurried(x0, gradient=Implicit())
    kept = ~refined.certificate.optimal
    assert torch.equal(refined.us[kept].detach(), plain.us[kept])
    assert bool((refined.status[refined.certificate.optimal] == int(Status.CONVERGED)).all())
    for i in range(4):
        alone = hurried(x0[i], gradient=Implicit())
        torch.testing.assert_close(alone.us, refined.us[i], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(alone.K, refined.K[i], rtol=1e-4, atol=1e-5)


def test_zero_gradients_of_invalid_plans_are_those_of_the_cost_too():
    weight = torch.tensor(1.0, dtype=F64, requires_grad=True)
    cost = FunctionCost(lambda x, u, t: weight * (1 - torch.cos(x[..., 0])) + 0.01 * u.square().sum(-1))
    problem = Problem(Pendulum(), cost, 40, control_limits=(-3.0, 3.0))
    x0 = torch.tensor([3.1, 0.0], dtype=F64)
    solution = solve(problem, DDP(max_iterations=1), x0, gradient=Implicit(invalid="zero"))
    assert not bool(solution.certificate.optimal)
    assert float(torch.autograd.grad(solution.cost + 0 * weight, weight)[0]) == 0.0


class SinglePrecision(Dynamics):
    """A network that computes in its own precision, whatever comes in."""

    def __init__(self):
        super().__init__(2, 1, 0.1)
        self.net = torch.nn.Linear(3, 2)

    def forward(self, x, u, t=None):
        return (x.float() + 0.1 * torch.tanh(self.net(torch.cat([x, u], dim=-1).float()))).to(x)


def test_tolerances_follow_a_model_in_single_precision():
    torch.manual_seed(0)
    problem = Problem(SinglePrecision(), QuadraticCost(E2, 0.1 * E1), 10)
    x0 = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    solution = solve(problem, DDP(), x0, gradient=Implicit())
    assert bool(solution.certificate.optimal.all())
    solution.us.sum().backward()
    assert bool(problem.dynamics.net.weight.grad.isfinite().all())


def test_a_detached_solution_has_no_graph_anywhere():
    x0 = torch.tensor([0.5, 0.0], dtype=F64, requires_grad=True)
    rows = [StateInequality(lambda x: x[..., 1:] - 0.5)]
    problem = Problem(LinearDynamics(A, B), QuadraticCost(E2, E1), 10, constraints=rows)
    solution = solve(problem, DDP(), x0, gradient=Implicit()).detach()
    tensors = [solution.xs, solution.us, solution.cost, *solution.violations.values(), *solution.multipliers]
    assert not any(tensor.requires_grad for tensor in tensors)
