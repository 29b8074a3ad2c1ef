"""The linear-quadratic model of a problem against differences of costs and steps."""

import pytest
import torch

from dynamics import Pendulum, Quadrotor, TorchDynamics
from planners import FunctionCost, GoalCost, Problem, QuadraticCost, ResidualCost, SmoothAbsCost, TransitionCost
from planners.expansion import (
    control_gradient,
    convex_hessians,
    costates,
    dynamics_curvature,
    expand_problem,
    stationarity,
    tangent_basis,
)

F64 = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def wheel(x, u):
    heading = x[..., 2]
    return x + 0.1 * torch.stack([u[..., 0] * torch.cos(heading), u[..., 0] * torch.sin(heading), u[..., 1]], dim=-1)


WHEEL = TorchDynamics(wheel, 3, 2, dt=0.1)


def stage(x, u, t):
    return torch.sin(x).square().sum(-1) * (1 + u[..., 0] ** 2) + torch.cosh(0.3 * u).sum(-1) + 0.1 * t * x[..., 0]


def attitude_stage(x, u, t):
    return x[..., :3].square().sum(-1) - x[..., 3] * u[..., 0] + x[..., 4] ** 2 * x[..., 7] + u.square().sum(-1)


def transition(x, u, x_next, t):
    return (x_next - x).pow(4).sum(-1) + torch.sin(x_next[..., 0]) * u[..., 1] + u.square().sum(-1)


def value(x):
    return torch.tanh(x).sum(-1).square()


PROBLEMS = {
    "a function": Problem(WHEEL, FunctionCost(stage, value), 4),
    "discount and value": Problem(WHEEL, FunctionCost(stage, value), 4, discount=0.8, terminal_value=value),
    "a quadratic cost": Problem(WHEEL, QuadraticCost(torch.eye(3, dtype=F64), torch.eye(2, dtype=F64)), 4),
    "the next state": Problem(WHEEL, TransitionCost(transition, value), 4, discount=0.9),
    "angles": Problem(Pendulum(), GoalCost(0.0, tensor(1.0, 0.2), [0.1], tensor(3.0, 1.0), angles=[0]), 4),
    "attitudes": Problem(Quadrotor(), FunctionCost(attitude_stage, lambda x: attitude_stage(x, x[..., :4], 0)), 3),
    "attitudes and the next state": Problem(
        Quadrotor(),
        TransitionCost(lambda x, u, x_next, t: attitude_stage(x_next, u, t) * (1 + x[..., 3])),
        3,
        discount=0.9,
        terminal_value=lambda x: x[..., 5] ** 2 + x[..., 3],
    ),
}


def trajectory(problem, batch=(2,), gap=0.0):
    """States (of unit attitudes) and controls near a rollout."""
    dynamics, T = problem.dynamics, problem.horizon
    if isinstance(dynamics, Quadrotor):
        x0 = dynamics.retract(dynamics.hover_state(torch.zeros(*batch, 3, dtype=F64)), 0.3 * draw(0, *batch, 12))
    else:
        x0 = draw(0, *batch, dynamics.state_dim)
    us = draw(1, *batch, T, dynamics.control_dim)
    xs = dynamics.rollout(x0, us, 3)
    return dynamics.retract(xs, gap * draw(2, *xs.shape[:-1], dynamics.tangent_dim)), us


def lagrangian(problem, xs, us, costate, dx, du):
    """Costs and dynamics weighted by costates at displaced states and controls; those reached stay where they are."""
    dynamics = problem.dynamics
    moved, u = dynamics.retract(xs, dx), us + du
    steps = 3 + torch.arange(us.shape[-2])
    x_next = dynamics(moved[..., :-1, :], u, steps)
    discount = problem.discount ** torch.arange(us.shape[-2] + 1, dtype=F64)
    total = (discount[:-1] * problem.cost.transition(moved[..., :-1, :], u, x_next, steps)).sum(-1)
    last = moved[..., -1, :]
    end = problem.cost.terminal(last) + (0.0 if problem.terminal_value is None else problem.terminal_value(last))
    chain = (costate[..., 1:, :] * dynamics.difference(x_next, xs[..., 1:, :])).sum((-2, -1))
    return total + discount[-1] * end + chain


@pytest.mark.parametrize("name", PROBLEMS)
@torch.no_grad()
def test_gradients_and_hessians_are_those_of_the_lagrangian(name):
    problem = PROBLEMS[name]
    xs, us = trajectory(problem)
    d, m, T, h = problem.dynamics.tangent_dim, us.shape[-1], us.shape[-2], 1e-4
    e = expand_problem(problem, xs, us, 3)
    costate = draw(5, 2, T + 1, d)
    H = e.H + dynamics_curvature(problem, e, xs, us, costate, 3)
    gradient = e.g + (e.F.mT @ costate[..., 1:, :].unsqueeze(-1)).squeeze(-1)
    zero_x, zero_u = xs.new_zeros(2, T + 1, d), torch.zeros_like(us)

    def displaced(dx, du):
        return lagrangian(problem, xs, us, costate, dx, du)

    for seed in range(4):
        dx, du = draw(10 + seed, 2, T + 1, d), draw(20 + seed, 2, T, m)
        z = torch.cat([dx[..., :-1, :], du], dim=-1)
        plus, minus, here = displaced(h * dx, h * du), displaced(-h * dx, -h * du), displaced(zero_x, zero_u)
        slope = (gradient * z).sum((-2, -1)) + (e.p_T * dx[..., -1, :]).sum(-1)
        bend = (z * (H @ z.unsqueeze(-1)).squeeze(-1)).sum((-2, -1))
        bend = bend + (dx[..., -1, :] * (e.P_T @ dx[..., -1, :].unsqueeze(-1)).squeeze(-1)).sum(-1)
        size = 1.0 + bend.abs() + slope.abs()
        assert bool(((plus - minus) / (2 * h) - slope).abs().le(1e-5 * size).all())
        assert bool(((plus + minus - 2 * here) / h**2 - bend).abs().le(2e-5 * size).all())


@pytest.mark.parametrize("name", PROBLEMS)
def test_costates_are_derivatives_of_the_cost_to_go(name):
    problem = PROBLEMS[name]
    xs, us = trajectory(problem)
    with torch.no_grad():
        e = expand_problem(problem, xs, us, 3)
        costate = costates(e)
    dynamics = problem.dynamics
    dx = xs.new_zeros(2, dynamics.tangent_dim).requires_grad_()
    du = us.clone().requires_grad_()
    reached = dynamics.rollout(dynamics.retract(xs[..., 0, :], dx), du, 3)
    cost = problem.trajectory_cost(reached, du, t0=3).sum()
    by_x, by_u = torch.autograd.grad(cost, (dx, du), materialize_grads=True)
    assert torch.allclose(costate[..., 0, :], by_x, rtol=1e-8, atol=1e-9)
    assert torch.allclose(control_gradient(e, costate), by_u, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["a function", "attitudes"])
@torch.no_grad()
def test_gaps_lead_from_the_states_to_those_reached(name):
    problem = PROBLEMS[name]
    xs, us = trajectory(problem, gap=0.1)
    e = expand_problem(problem, xs, us, 3)
    reached = problem.dynamics(xs[..., :-1, :], us, 3 + torch.arange(us.shape[-2]))
    found = problem.dynamics.retract(xs[..., 1:, :], e.gap)
    assert torch.allclose(problem.dynamics.difference(found, reached), torch.zeros_like(e.gap), atol=1e-12)
    assert float(e.gap.abs().max()) > 0.01


COSTS = {
    "goal": GoalCost(0.0, tensor(1.0, 0.2, 3.0), [0.1, 0.2], 2.0, angles=[2]),
    "smooth absolute": SmoothAbsCost(0.0, tensor(1.0, 0.2, 3.0), [0.1, 0.2], 2.0, angles=[2]),
    "residual": ResidualCost(lambda x, u, t: torch.cat([torch.sin(x), u], dim=-1), lambda x: torch.cos(x)),
    "function": FunctionCost(stage, value),
    "transition": TransitionCost(transition, value),
    "difference": GoalCost(0.0, 1.0) + -0.5 * GoalCost(1.0, 1.0, 0.1),
}


@pytest.mark.parametrize("name", COSTS)
@torch.no_grad()
def test_convex_models_are_positive_semidefinite(name):
    problem = Problem(WHEEL, COSTS[name], 4, discount=0.9)
    xs, us = trajectory(problem, (5,))
    e = expand_problem(problem, xs, us, 3)
    for hessian in convex_hessians(problem, e, xs, us, 3):
        assert torch.allclose(hessian, hessian.mT)
        assert float(torch.linalg.eigvalsh(hessian).min()) > -1e-9


@torch.no_grad()
def test_the_basis_of_the_tangent_space():
    dynamics = Quadrotor()
    xs, _ = trajectory(PROBLEMS["attitudes"])
    basis, h = tangent_basis(dynamics, xs), 1e-6
    assert basis.shape == (2, 4, 13, 12)
    for i in range(12):
        direction = h * torch.eye(12, dtype=F64)[i]
        change = (dynamics.retract(xs, direction) - dynamics.retract(xs, -direction)) / (2 * h)
        assert torch.allclose(basis[..., i], change, atol=1e-8)


def test_stationarity_is_relative_and_within_limits():
    us, limits = tensor(0.0, 1.0, -1.0).reshape(3, 1), (torch.full((3, 1), -1.0).double(), torch.ones(3, 1).double())
    inward = tensor(0.0, -5.0, 5.0).reshape(3, 1)  # at the limits, pushing outward
    one = torch.ones((), dtype=F64)
    assert float(stationarity(us, inward, inward, limits, one)) == 0.0
    assert float(stationarity(us, -inward, -inward, limits, one)) == 1.0
    assert float(stationarity(us, inward, inward, None, one)) == 1.0
    cancelled = tensor(1e-3, 0.0, 0.0).reshape(3, 1)
    assert float(stationarity(us, cancelled, 100.0 + 0 * us, None, one)) == pytest.approx(1e-5, rel=1e-3)
    assert float(stationarity(us, cancelled, 0 * us, None, 1e-6 * one)) == 1.0  # the unit of the cost does not matter
    near = tensor(1.0 - 1e-4, 0.0, 0.0).reshape(3, 1)  # the way to the limit counts, not how hard the gradient pushes
    assert float(stationarity(near, -1e3 * near, 0 * near, limits, one)) == pytest.approx(1e-4)
