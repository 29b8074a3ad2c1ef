"""Convex programs against published optima, dense solves, scipy and finite differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dynamics import LinearDynamics, Pendulum
from planners import (
    DDP,
    LQR,
    ConvexProgram,
    FunctionCost,
    Implicit,
    InvalidGradientError,
    LinearEquality,
    LinearInequality,
    Problem,
    QuadraticCost,
    Slack,
    SolveError,
    StateInequality,
    StateLimits,
    Status,
    TerminalState,
    solve,
)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(n, seed, rank=None):
    F = draw(n, rank or n, seed=seed)
    return F @ F.mT


def published():
    """Problem, initial states of the bounded LQR benchmark: np.random.seed(42), A, B, b, x0 in this order."""
    r = np.random.RandomState(42)
    A, B, b = np.eye(8) + 0.2 * r.randn(8, 8), r.randn(8, 4), r.randn(8)
    eye = torch.eye(8).double()
    dynamics = LinearDynamics(torch.tensor(A), torch.tensor(B), torch.tensor(b))
    return Problem(dynamics, QuadraticCost(eye, eye[:4, :4], Q_terminal=eye), 20), torch.tensor(r.randn(32, 8))


@pytest.mark.parametrize(
    ("limit", "costs", "total", "first"),
    [
        (1e4, (39.246480296, 70.641020579), 2073.60322239, (-2.131651, 0.909898, 0.442298, -0.476020)),
        (1.0, (46.512372250, 77.971706718), 2933.26757382, (-1.0, 0.953027, 0.159043, -0.813287)),
    ],
)
def test_published_optima_with_control_limits(limit, costs, total, first):
    problem, x0 = published()
    solution = solve(replace(problem, control_limits=(-limit, limit)), ConvexProgram(), x0)
    assert solution.status.eq(Status.CONVERGED).all()
    np.testing.assert_allclose(solution.cost[:2], costs, rtol=0, atol=6e-10)
    np.testing.assert_allclose(solution.cost.sum(), total, rtol=0, atol=6e-9)
    np.testing.assert_allclose(solution.us[0, 0], first, rtol=0, atol=6e-7)
    assert float(solution.certificate.residual.max()) < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_without_constraints_it_is_lqr(seed):
    n, m, T = 3, 2, 6
    A, B, b = (draw(T, *shape, seed=seed + k) for k, shape in enumerate([(n, n), (n, m), (n,)]))
    H = positive(n + m, seed + 10)
    cost = QuadraticCost(
        H[:n, :n], H[n:, n:], H[:n, n:], draw(n, seed=seed + 3), draw(m, seed=seed + 4), positive(n, seed + 5, 1),
        goal=draw(T + 1, n, seed=seed + 6),
    )  # fmt: skip
    problem = Problem(LinearDynamics(A, B, b), cost, T, discount=0.9)
    x0 = draw(2, 2, n, seed=seed + 7).requires_grad_()
    ours, exact = (solve(problem, planner, x0) for planner in (ConvexProgram(), LQR()))
    for name in ("xs", "us", "cost"):
        torch.testing.assert_close(getattr(ours, name), getattr(exact, name), rtol=1e-8, atol=1e-8)
    (gradient,) = torch.autograd.grad(solve(problem, ConvexProgram(), x0, gradient=Implicit()).cost.sum(), x0)
    torch.testing.assert_close(gradient, ours.certificate.costates[..., 0, :], rtol=1e-8, atol=1e-8)


def constrained(T=5, previous=None, **changes):
    """Everything at once on an affine system with two states and two controls, and its numbers for an oracle."""
    slack = Slack(linear=0.3, quadratic=0.5)
    constraints = [
        StateLimits([-1.2, -float("inf")], [1.5, 0.9], name="box"),
        LinearInequality([[1.0, 0.5]], [[0.3, -0.2]], 0.8, name="mixed"),
        LinearEquality([[0.0, 0.0]], [[1.0, 1.0]], 0.1, soft=slack, name="balance"),
        StateLimits(upper=0.3, states=[0], soft=slack, name="soft box"),
        StateLimits(upper=0.1, states=[1], soft=Slack(quadratic=2.0), name="square"),
    ]
    terminal = [TerminalState([0.2], states=[0]), LinearInequality([[0.0, -1.0]], d=0.4, soft=Slack(linear=0.1))]
    A, B, b = torch.eye(2).double() + 0.2 * draw(2, 2), draw(2, 2, seed=1), 0.1 * draw(2, seed=2)
    cost = QuadraticCost(positive(2, 3), positive(2, 4), q=draw(2, seed=5), goal=[0.5, -0.5])
    fields = {
        "control_limits": (-0.8, torch.tensor([1.0, 0.7]).double()),
        "rate_limits": (-6.0, 5.0),
        "constraints": constraints,
        "terminal_constraints": terminal,
        "discount": 0.95,
    }
    return Problem(LinearDynamics(A, B, b, dt=0.2), cost, T, **(fields | changes))


def by_sampled_derivatives(problem, x0, previous):
    """The optimal cost by scipy: the library's own cost of a rollout with exact penalties, minimized over controls and slacks."""
    from scipy.optimize import minimize

    T, m = problem.horizon, problem.dynamics.control_dim
    lower, upper = (torch.as_tensor(v, dtype=torch.float64).expand(T, m) for v in problem.control_limits)
    hard = [c for c in problem.constraints if c.soft is None]
    soft = [c for c in problem.constraints if c.soft is not None]
    plain = replace(problem, constraints=(), terminal_constraints=())

    def rows(xs, us, chosen, terminal):
        parts = [c.value(xs[int(c.of_state) : -1], us[int(c.of_state) :], torch.arange(T)[int(c.of_state) :]).flatten()
                 for c in chosen]  # fmt: skip
        return parts + [c.value(xs[-1]) for c in terminal]

    last_hard = [c for c in problem.terminal_constraints if c.soft is None]
    last_soft = [c for c in problem.terminal_constraints if c.soft is not None]

    def unpack(z):
        us = z[: T * m].reshape(T, m)
        return problem.dynamics.rollout(x0, us), us, z[T * m :]

    def prices():
        xs, us, _ = unpack(torch.zeros(T * m).double())
        out = []
        for c, values in zip([*soft, *last_soft], rows(xs, us, soft, last_soft), strict=True):
            first = int(c.of_state) if c in soft else T
            steps = torch.arange(first, T if c in soft else T + 1).repeat_interleave(
                len(values) // ((T - first) if c in soft else 1)
            )
            out += [(problem.discount ** float(t), c) for t in steps]
        return out

    priced = prices()
    weight = torch.tensor([w for w, _ in priced], dtype=torch.float64)
    linear, quadratic = (
        torch.tensor([getattr(c.soft, name) for _, c in priced], dtype=torch.float64)
        for name in ("linear", "quadratic")
    )
    equality = torch.tensor([c.equality for _, c in priced])

    def objective(z):
        z = torch.tensor(z, requires_grad=True)
        xs, us, s = unpack(z)
        J = plain.trajectory_cost(xs, us) + (weight * (linear * s + 0.5 * quadratic * s**2)).sum()
        (g,) = torch.autograd.grad(J, z)
        return J.item(), g.numpy()

    def inequalities(z):
        xs, us, s = unpack(z)
        values = torch.cat(rows(xs, us, soft, last_soft))
        change = torch.cat([previous[None], us]).diff(dim=0) / problem.dynamics.dt
        low, high = problem.rate_limits
        parts = rows(xs, us, [c for c in hard if not c.equality], [])
        return torch.cat([*(-p for p in parts), s - values, (s + values)[equality], s, (high - change).flatten(),
                          (change - low).flatten()])  # fmt: skip

    def equalities(z):
        xs, us, _ = unpack(z)
        return torch.cat(rows(xs, us, [], last_hard))

    def jacobian(f):
        return lambda z: torch.autograd.functional.jacobian(f, torch.tensor(z)).numpy()

    bounds = [(float(lo), float(hi)) for lo, hi in zip(lower.flatten(), upper.flatten(), strict=True)]
    found = minimize(
        objective,
        np.zeros(T * m + len(priced)),
        jac=True,
        method="SLSQP",
        bounds=bounds + [(0, None)] * len(priced),
        constraints=[
            {"type": "ineq", "fun": lambda z: inequalities(torch.tensor(z)).numpy(), "jac": jacobian(inequalities)},
            {"type": "eq", "fun": lambda z: equalities(torch.tensor(z)).numpy(), "jac": jacobian(equalities)},
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success, found.message
    return found.fun, found.x[: T * m].reshape(T, m)


@pytest.mark.parametrize("seed", range(3))
def test_everything_at_once_against_scipy(seed):
    problem, x0, previous = constrained(), 0.5 * draw(2, seed=seed), torch.tensor([0.1, -0.1]).double()
    solution = solve(problem, ConvexProgram(), x0, previous_control=previous)
    cost, us = by_sampled_derivatives(problem, x0, previous)
    torch.testing.assert_close(float(solution.cost), cost, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(solution.us, torch.tensor(us), rtol=0, atol=1e-6)
    assert solution.violations["soft box"] >= 0
    assert float(solution.violations["box"]) <= 1e-9


def all_numbers():
    """Every number of a constrained problem by name."""
    return {
        "x0": 0.5 * draw(2, 2, seed=1),
        "A": torch.eye(2).double() + 0.2 * draw(2, 2),
        "B": draw(2, 2, seed=1),
        "b": 0.1 * draw(2, seed=2),
        "Q": positive(2, 3, rank=1),
        "R": positive(2, 4),
        "N": torch.zeros(2, 2).double(),
        "q": draw(2, seed=5),
        "r": 0.1 * draw(2, seed=6),
        "Q_terminal": positive(2, 7),
        "goal": draw(6, 2, seed=8),
        "lower": torch.tensor(-0.55).double(),
        "upper": torch.tensor([0.4, 0.3]).double(),
        "rise": torch.tensor(2.0).double(),
        "fall": torch.tensor(-3.0).double(),
        "previous": torch.tensor([0.1, 0.3]).double(),
        "C": torch.tensor([[1.0, 0.5]]).double(),
        "D": torch.tensor([[0.3, -0.2]]).double(),
        "d": torch.tensor([0.2]).double(),
        "box": torch.tensor([0.8, 0.2]).double(),
        "soft": torch.tensor([-0.1]).double(),
        "end": torch.tensor([0.2]).double(),
    }


def plan_of(numbers):
    """Controls and costs; Q and N lie in the range of a matrix of rank 1, so that the cost stays convex."""
    slack, v = Slack(linear=0.3, quadratic=0.5), numbers
    Q, R, Q_T = (0.5 * (v[k] + v[k].mT) for k in ("Q", "R", "Q_terminal"))
    cost = QuadraticCost(Q @ Q, R, Q @ v["N"], v["q"], v["r"], Q_T, goal=v["goal"])
    problem = constrained(
        control_limits=(v["lower"], v["upper"]),
        rate_limits=(v["fall"], v["rise"]),
        constraints=[
            StateLimits([-1.2, -float("inf")], v["box"]),
            LinearInequality(v["C"], v["D"], v["d"]),
            StateLimits(upper=v["soft"], states=[0], soft=slack),
        ],
        terminal_constraints=[TerminalState(v["end"], states=[0])],
    )
    dynamics = problem.dynamics.with_parameters(A=v["A"], B=v["B"], b=v["b"])
    problem = replace(problem, dynamics=dynamics, cost=cost)
    solution = solve(problem, ConvexProgram(), v["x0"], previous_control=v["previous"], gradient=Implicit())
    return solution.us, solution.cost


def test_gradients_reach_every_number():
    """Against finite differences, with limits, rates and constraints of every kind that are partly active."""
    numbers = {name: value.requires_grad_() for name, value in all_numbers().items()}
    us, cost = plan_of(numbers)
    weight, step = draw(*us.shape, seed=20), 1e-5
    gradients = torch.autograd.grad((weight * us).sum() + cost.sum(), list(numbers.values()))
    for k, (name, gradient) in enumerate(zip(numbers, gradients, strict=True)):
        direction, ends = draw(*gradient.shape, seed=30 + k), []
        for sign in (1.0, -1.0):
            us, cost = plan_of(numbers | {name: numbers[name].detach() + sign * step * direction})
            ends.append(float((weight * us).detach().sum() + cost.detach().sum()))
        expected, found = (ends[0] - ends[1]) / (2 * step), float((gradient * direction).sum())
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-7), name
        assert found != 0, name


@pytest.mark.parametrize("rank", [0, 1])
def test_gradients_by_a_terminal_cost_that_is_zero_or_singular(rank):
    """From there on along a positive semidefinite direction, by one-sided finite differences."""
    direction, base = positive(2, 9), (positive(2, 7, rank=1) if rank else torch.zeros(2, 2).double())

    def plan(Q_terminal):
        cost = QuadraticCost(positive(2, 3), positive(2, 4), goal=[0.5, -0.5], Q_terminal=Q_terminal)
        problem = replace(constrained(constraints=(), terminal_constraints=()), cost=cost)
        return solve(problem, ConvexProgram(), 0.5 * draw(2), gradient=Implicit()).us

    Q = base.clone().requires_grad_()
    weight, step = draw(5, 2, seed=11), 1e-5
    (gradient,) = torch.autograd.grad((weight * plan(Q)).sum(), Q)
    with torch.no_grad():
        values = [(weight * plan(base + k * step * direction)).sum() for k in range(3)]
    expected = (4 * values[1] - values[2] - 3 * values[0]) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-6, atol=1e-8)


def test_what_has_no_solution_is_a_status_of_its_own():
    """In one batch: solved, infeasible, and not a number; the others are as if alone."""
    problem = constrained(constraints=[StateLimits(-1.0, 1.0, name="corridor")], terminal_constraints=())
    x0 = torch.tensor([[0.1, 0.2], [5.0, 5.0], [float("nan"), 0.0]]).double()
    solution = solve(problem, ConvexProgram(), x0, throw=False)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE, Status.NO_FINITE_PLAN]
    assert solution.cost[1:].isinf().all()
    assert solution.us.isfinite().all()
    torch.testing.assert_close(solution.us[0], solve(problem, ConvexProgram(), x0[0]).us, rtol=0, atol=1e-12)
    with pytest.raises(SolveError, match=r"infeasible x 1: .*\n.*constraint 'corridor' is violated by up to"):
        solve(problem, ConvexProgram(), x0[1])


def test_gradients_of_a_batch_in_which_one_has_no_solution():
    problem = constrained(constraints=[StateLimits(-1.0, 1.0)], terminal_constraints=())
    x0 = torch.tensor([[0.1, 0.2], [5.0, 5.0]]).double().requires_grad_()
    us = solve(problem, ConvexProgram(), x0, throw=False, gradient=Implicit()).us
    (gradient,) = torch.autograd.grad(us[0].sum(), x0)
    alone = x0[0].detach().requires_grad_()
    (expected,) = torch.autograd.grad(solve(problem, ConvexProgram(), alone, gradient=Implicit()).us.sum(), alone)
    torch.testing.assert_close(gradient[0], expected, rtol=0, atol=1e-10)
    assert gradient[1].tolist() == [0.0, 0.0]
    us = solve(problem, ConvexProgram(), x0, throw=False, gradient=Implicit()).us
    with pytest.raises(InvalidGradientError, match="1 of 2 plans have no valid gradient: 1 are not converged"):
        torch.autograd.grad(us.sum(), x0)
    us = solve(problem, ConvexProgram(), x0, throw=False, gradient=Implicit(invalid="zero")).us
    torch.testing.assert_close(torch.autograd.grad(us.sum(), x0)[0], gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_ddp(seed):
    """Costs and gradients on what both honor: affine constraints, hard and soft, limits, a discount."""
    problem = constrained(rate_limits=None, terminal_constraints=())
    x0 = (0.3 * draw(2, 2, seed=seed)).requires_grad_()
    ours, other = (
        solve(problem, planner, x0, gradient=Implicit()) for planner in (ConvexProgram(), DDP(tolerance=1e-9))
    )
    torch.testing.assert_close(ours.cost, other.cost, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(ours.us, other.us, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(solution.cost.sum(), x0)[0] for solution in (ours, other)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_costs_that_are_unbounded_or_not_convex():
    dynamics, x0 = LinearDynamics(torch.eye(1).double(), torch.eye(1).double()), torch.zeros(1).double()
    zero, one = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
    falling = Problem(dynamics, QuadraticCost(zero, zero, r=[1.0]), 3)
    assert solve(falling, ConvexProgram(), x0, throw=False).status == Status.UNBOUNDED
    halfway = replace(falling, control_limits=(-float("inf"), 1.0))
    assert solve(halfway, ConvexProgram(), x0, throw=False).status == Status.UNBOUNDED
    stuck = Problem(LinearDynamics(one, zero), QuadraticCost(one, one), 3, terminal_constraints=[TerminalState(1.0)])
    assert solve(stuck, ConvexProgram(), x0, throw=False).status == Status.INFEASIBLE
    bent = Problem(dynamics, QuadraticCost(one, -one), 3, control_limits=(-1.0, 1.0))
    assert solve(bent, ConvexProgram(), x0, throw=False).status == Status.NOT_CONVEX
    linear = Problem(dynamics, QuadraticCost(zero, zero, r=[1.0]), 3, control_limits=(-1.0, 1.0))
    torch.testing.assert_close(solve(linear, ConvexProgram(), x0).us, -torch.ones(3, 1).double())


def test_a_control_before_the_plan_that_leaves_no_way_into_the_limits():
    problem = constrained(constraints=(), terminal_constraints=())
    far = torch.tensor([9.0, 0.0]).double()
    solution = solve(problem, ConvexProgram(), torch.zeros(2).double(), previous_control=far, throw=False)
    assert solution.status == Status.LIMITS_IN_CONFLICT
    lower, upper = problem.limits_like(solution.us)
    assert ((solution.us >= lower) & (solution.us <= upper)).all()


def test_redundant_constraints_change_nothing():
    """Given twice, their multipliers are not unique; the plan and its gradient are."""
    rows = LinearInequality([[1.0, 0.5]], [[0.3, -0.2]], 0.2)
    once, twice = (constrained(constraints=[rows] * k, terminal_constraints=()) for k in (1, 2))
    x0 = torch.tensor([0.05, -0.1]).double().requires_grad_()
    plans = [solve(problem, ConvexProgram(), x0, gradient=Implicit()).us for problem in (once, twice)]
    torch.testing.assert_close(*plans, rtol=0, atol=1e-9)
    gradients = [torch.autograd.grad(us.square().sum(), x0)[0] for us in plans]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-7)


def test_goals_of_a_batch():
    goals, x0 = 0.2 * draw(3, 2), 0.5 * draw(3, 2, seed=1)
    problem = constrained(constraints=(), terminal_constraints=[TerminalState(goals)], rate_limits=None)
    solution = solve(problem, ConvexProgram(), x0)
    torch.testing.assert_close(solution.xs[:, -1], goals, rtol=0, atol=1e-9)


def test_single_precision_is_solved_in_double():
    problem, x0 = constrained(), 0.5 * draw(2, seed=2)
    single, double = solve(problem, ConvexProgram(), x0.float()), solve(problem, ConvexProgram(), x0)
    assert single.us.dtype == single.cost.dtype == torch.float32
    torch.testing.assert_close(single.us.double(), double.us, rtol=0, atol=1e-5)


def test_one_step_and_rows_that_apply_nowhere():
    """With T = 1 a constraint of the state alone has no step to apply to."""
    problem = constrained(T=1, constraints=[StateLimits(-0.01, 0.01)], terminal_constraints=(), rate_limits=None)
    free = solve(replace(problem, constraints=()), ConvexProgram(), torch.tensor([0.5, 0.5]).double())
    torch.testing.assert_close(solve(problem, ConvexProgram(), free.xs[0]).us, free.us)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dynamics": Pendulum()},
            r"ConvexProgram needs LinearDynamics, got Pendulum; plan it with SequentialConvex\(\)",
        ),
        (
            {"cost": FunctionCost(lambda x, u, t: x[..., 0] ** 4)},
            r"needs a quadratic cost, got FunctionCost; plan it with SequentialConvex\(\)",
        ),
        (
            {"constraints": [StateInequality(lambda x: 1.0 - x.square(), name="disc")]},
            r"affine, which disc is not declared to be; plan it with SequentialConvex\(\)",
        ),
        ({"termination": lambda x: x[..., 0] > 9.0}, "cannot honor: termination"),
    ],
)
def test_what_is_not_convex_is_refused_with_what_plans_it(change, message):
    with pytest.raises(ValueError, match=message):
        solve(
            replace(constrained(control_limits=None, rate_limits=None), **change),
            ConvexProgram(),
            torch.zeros(2).double(),
        )


def test_fields_are_checked():
    with pytest.raises(ValueError, match="max_iterations must be an integer of at least 1, got 0"):
        ConvexProgram(max_iterations=0)
    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        ConvexProgram(tolerance=0)
