"""Sequential convexification against scipy, against convex programs, and what it says where there is no plan."""

from dataclasses import replace

import pytest
import torch

from dynamics import CartPole, MujocoDynamics, Pendulum, TorchDynamics
from planners import (
    ConvexProgram,
    Equality,
    FunctionCost,
    GoalCost,
    Problem,
    QuadraticCost,
    SequentialConvex,
    Slack,
    SolveError,
    StateEquality,
    StateInequality,
    Status,
    TerminalState,
    solve,
)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def drive(x, u):
    """A unicycle (x, y, heading) driven by speed and turning rate, 0.1 s a step."""
    speed, rate = u[..., 0], u[..., 1]
    moved = [
        x[..., 0] + 0.1 * speed * x[..., 2].cos(),
        x[..., 1] + 0.1 * speed * x[..., 2].sin(),
        x[..., 2] + 0.1 * rate,
    ]
    return torch.stack(moved, dim=-1)


def around_a_disc(T=20, **changes):
    """From the left to (2, 0) past a disc of radius 0.4 at (1, 0.1)."""
    disc = StateInequality(
        lambda x: 0.4**2 - (x[..., :2] - tensor(1.0, 0.1).to(x)).square().sum(-1, keepdim=True), name="disc"
    )
    cost = QuadraticCost(
        torch.diag(tensor(0.1, 0.1, 0.01)), 0.1 * torch.eye(2).double(), Q_terminal=torch.diag(tensor(10.0, 10.0, 1.0)),
        goal=[2.0, 0.0, 0.0],
    )  # fmt: skip
    fields = {
        "control_limits": (tensor(-1.5, -2.0), tensor(1.5, 2.0)),
        "constraints": [disc],
        "terminal_constraints": [disc],
    }
    return Problem(TorchDynamics(drive, 3, 2, dt=0.1), cost, T, **(fields | changes))


def by_slsqp(problem, x0, us):
    """A local optimum by scipy's SLSQP over the controls of one problem, from a plan ``(T, m)``, with exact gradients."""
    from scipy.optimize import minimize

    T, m = us.shape
    lower, upper = (torch.as_tensor(v, dtype=torch.float64).expand(T, m).flatten() for v in problem.control_limits)
    steps = torch.arange(T)

    def cost(z):
        z = torch.tensor(z, requires_grad=True)
        us = z.reshape(T, m)
        J = problem.trajectory_cost(problem.dynamics.rollout(x0, us), us)
        return J.item(), torch.autograd.grad(J, z)[0].numpy()

    def rows(equality):
        def f(z):
            us = z.reshape(T, m)
            xs = problem.dynamics.rollout(x0, us)
            first = [int(c.of_state) for c in problem.constraints]
            parts = [
                c.value(xs[k:-1], us[k:], steps[k:]).flatten()
                for k, c in zip(first, problem.constraints, strict=True)
                if c.equality == equality and c.soft is None
            ]
            parts += [
                c.value(xs[-1]) for c in problem.terminal_constraints if c.equality == equality and c.soft is None
            ]
            return -torch.cat([torch.zeros(0).double(), *parts])

        return {
            "type": "eq" if equality else "ineq",
            "fun": lambda z: f(torch.tensor(z)).numpy(),
            "jac": lambda z: torch.autograd.functional.jacobian(f, torch.tensor(z), vectorize=True).numpy(),
        }

    found = minimize(
        cost,
        us.flatten().numpy(),
        jac=True,
        method="SLSQP",
        bounds=list(zip(lower.tolist(), upper.tolist(), strict=True)),
        constraints=[rows(False), rows(True)],
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert found.success, found.message
    return found.fun


@pytest.mark.parametrize("start", [(0.0, 0.0, 0.0), (0.0, 0.3, 0.5), (0.2, -0.4, -0.3)])
def test_a_unicycle_around_a_disc_against_scipy(start):
    problem, x0 = around_a_disc(), tensor(*start)
    solution = solve(problem, SequentialConvex(), x0)
    assert solution.status == Status.CONVERGED
    assert float(solution.violations["disc"]) <= 1e-9
    assert float(solution.cost) == pytest.approx(by_slsqp(problem, x0, disturbed(solution.us)), rel=1e-7)


def disturbed(us, by=0.05):
    """A plan nearby, so that scipy ends in the same local optimum if it is one."""
    return us + by * torch.randn(us.shape, generator=torch.Generator().manual_seed(0), dtype=us.dtype)


@pytest.mark.parametrize("start", [(3.1, 0.0), (1.0, 0.0)])
def test_a_pendulum_with_weak_torque_against_scipy(start):
    cost = GoalCost(0.0, [1.0, 0.1], [0.01], [10.0, 1.0], angles=[0])
    problem, x0 = Problem(Pendulum(0.05), cost, 25, control_limits=(-3.0, 3.0)), tensor(*start)
    solution = solve(problem, SequentialConvex(), x0)
    assert solution.status == Status.CONVERGED
    assert float(solution.cost) == pytest.approx(by_slsqp(problem, x0, disturbed(solution.us, 0.2)), rel=1e-7)


def test_nonlinear_equalities_against_scipy():
    """Drive with a coupling of the controls, and end on a circle."""
    coupled = Equality(lambda x, u, t: u[..., 1:] - 0.5 * u[..., :1] * x[..., 2:].cos(), name="coupling")
    circle = StateEquality(lambda x: x[..., :2].square().sum(-1, keepdim=True) - 1.0, name="circle")
    problem = around_a_disc(10, constraints=[coupled], terminal_constraints=[circle])
    x0 = tensor(0.1, 0.2, 0.3)
    solution = solve(problem, SequentialConvex(), x0)
    assert solution.status == Status.CONVERGED
    assert max(float(v) for v in solution.violations.values()) <= 1e-8
    assert float(solution.cost) == pytest.approx(by_slsqp(problem, x0, disturbed(solution.us)), rel=1e-7)


def test_convex_problems_are_solved_to_the_optimum():
    """Against the convex program itself, with everything that is honored: the first program is exact."""
    from test_convex_program import constrained, draw

    problem, x0, previous = constrained(), 0.3 * draw(3, 2), tensor(0.1, -0.1).expand(3, 2)
    exact = solve(problem, ConvexProgram(), x0, previous_control=previous)
    found = solve(problem, SequentialConvex(trust_radius=100.0), x0, previous_control=previous)
    assert found.status.eq(Status.CONVERGED).all()
    torch.testing.assert_close(found.us, exact.us, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.cost, exact.cost, rtol=1e-8, atol=1e-8)
    assert found.stats["iterations"] <= 4


def test_soft_constraints_are_paid_for():
    """An obstacle at a price that is above its multiplier is kept, one that is cheap is driven through."""
    hard, x0 = around_a_disc(12), tensor(0.2, -0.1, 0.0)
    (disc,) = hard.constraints
    kept = solve(hard, SequentialConvex(), x0)
    costs = []
    for price in (1e3, 0.1):
        soft = StateInequality(disc.function, soft=Slack(linear=price), name="disc")
        problem = replace(hard, constraints=[soft], terminal_constraints=[soft])
        costs.append(solve(problem, SequentialConvex(), x0, init=kept))
    assert float(costs[0].cost) == pytest.approx(float(kept.cost), rel=1e-7)
    assert float(costs[1].violations["disc"]) > 1e-3
    assert float(costs[1].cost) < float(kept.cost)


def test_states_on_a_circle():
    """A heading kept as a point (cos, sin) is planned as the angle is, constraint included."""
    from test_controllers import Heading

    def angle(x, u):
        return x + 0.1 * u

    def stage(heading):
        return lambda x, u, t: 1.0 - (heading(x) - 2.0).cos() + 0.01 * u.square().sum(-1)

    plans = []
    for dynamics, heading, x0 in (
        (Heading(), lambda x: torch.atan2(x[..., 1], x[..., 0]), tensor(1.0, 0.0)),
        (TorchDynamics(angle, 1, 1, dt=0.1), lambda x: x[..., 0], tensor(0.0)),
    ):
        short = StateInequality(lambda x, h=heading: h(x).unsqueeze(-1) - 1.2, name="short of it")
        problem = Problem(dynamics, FunctionCost(stage(heading)), 10, control_limits=(-3.0, 3.0), constraints=[short],
                          terminal_constraints=[short])  # fmt: skip
        plans.append(solve(problem, SequentialConvex(), x0))
    assert [int(plan.status) for plan in plans] == [Status.CONVERGED, Status.CONVERGED]
    torch.testing.assert_close(plans[0].us, plans[1].us, rtol=0, atol=1e-5)
    assert float(plans[0].us.abs().max()) > 2.0  # the constraint is reached and kept
    torch.testing.assert_close(plans[0].cost, plans[1].cost, rtol=1e-9, atol=1e-9)


def test_derivatives_by_finite_differences():
    """The same plan without exact derivatives, which leave out the curvature of the dynamics."""
    exact, differenced = around_a_disc(12), around_a_disc(12)
    differenced.dynamics.derivatives = "finite-difference"
    plans = [solve(problem, SequentialConvex(), tensor(0.2, -0.4, -0.3)) for problem in (exact, differenced)]
    assert all(plan.status == Status.CONVERGED for plan in plans)
    torch.testing.assert_close(plans[1].cost, plans[0].cost, rtol=1e-6, atol=1e-6)


def test_a_simulator():
    """The cart-pole in MuJoCo: no worse there than the plan for nearly the same physics in torch."""
    cost = QuadraticCost(torch.eye(4).double(), 0.1 * torch.eye(1).double(), Q_terminal=10.0 * torch.eye(4).double())
    simulator, formula = (
        Problem(dynamics, cost, 10, control_limits=(-10.0, 10.0))
        for dynamics in (
            MujocoDynamics(CartPole(0.02).mjcf(rail=5.0)),
            CartPole(0.02, integrator="semi_implicit_euler"),
        )
    )
    x0 = tensor(0.1, 0.2, 0.0, 0.0)
    plan, other = (solve(problem, SequentialConvex(), x0) for problem in (simulator, formula))
    elsewhere = simulator.trajectory_cost(simulator.dynamics.rollout(x0, other.us), other.us)
    assert plan.status <= Status.STALLED
    assert float(plan.cost) <= float(elsewhere) + 1e-9 <= 1.02 * float(plan.cost)


def test_what_cannot_be_reached_is_infeasible():
    """In one batch with what can: a goal farther away than the speed allows, with the miss by name."""
    problem = around_a_disc(
        5, constraints=(), terminal_constraints=[TerminalState([0.3, 0.0], states=[0, 1], name="goal")]
    )
    x0 = tensor([0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [float("nan"), 0.0, 0.0])
    solution = solve(problem, SequentialConvex(max_iterations=60), x0, throw=False)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE, Status.NO_FINITE_PLAN]
    assert float(solution.violations["goal"][1]) > 3.9
    alone = solve(problem, SequentialConvex(max_iterations=60), x0[0])
    torch.testing.assert_close(solution.us[0], alone.us, rtol=0, atol=1e-8)
    with pytest.raises(SolveError, match=r"constraint 'goal' is violated by up to 3\.95"):
        solve(problem, SequentialConvex(max_iterations=60), x0[1])


def test_a_previous_plan_is_where_it_starts():
    problem, x0 = around_a_disc(), tensor([0.0, 0.3, 0.5], [0.2, -0.4, -0.3])
    first = solve(problem, SequentialConvex(), x0)
    second = solve(problem, SequentialConvex(), x0, init=first)
    assert second.stats["iterations"] <= 4 < first.stats["iterations"]
    torch.testing.assert_close(second.cost, first.cost, rtol=1e-7, atol=1e-7)


def test_iterations_and_time_run_out_honestly():
    problem, x0 = around_a_disc(), tensor(0.0, 0.3, 0.5)
    few = solve(problem, SequentialConvex(max_iterations=2), x0, throw=False)
    assert few.status in (Status.ITERATION_LIMIT, Status.INFEASIBLE)
    assert (few.status == Status.INFEASIBLE) == (float(few.violations["disc"]) > 2e-6)
    free = replace(problem, constraints=(), terminal_constraints=())
    assert solve(free, SequentialConvex(max_iterations=1), x0).status == Status.ITERATION_LIMIT
    assert solve(free, SequentialConvex(), x0, out_of_time=lambda: True).status == Status.TIME_LIMIT


@pytest.mark.parametrize("penalty", [1e-3, 1e4])
def test_the_first_penalty_hardly_matters(penalty):
    problem, x0 = around_a_disc(12), tensor(0.2, -0.4, -0.3)
    costs = [float(solve(problem, SequentialConvex(penalty=p), x0).cost) for p in (penalty, 100.0)]
    assert costs[0] == pytest.approx(costs[1], rel=1e-6)


def test_fields_are_checked():
    for name in ("tolerance", "feasibility_tolerance", "trust_radius", "penalty"):
        with pytest.raises(ValueError, match=f"{name} must be positive, got -1"):
            SequentialConvex(**{name: -1.0})
    with pytest.raises(ValueError, match="max_iterations must be an integer of at least 1, got 0"):
        SequentialConvex(max_iterations=0)
    with pytest.raises(ValueError, match="SequentialConvex cannot honor: termination"):
        solve(around_a_disc(termination=lambda x: x[..., 0] > 3.0), SequentialConvex(), torch.zeros(3).double())
