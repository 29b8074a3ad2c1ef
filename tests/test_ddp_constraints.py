"""Constrained plans against convex programs (CVXPY) and nonlinear ones (SciPy), which know nothing of this library."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from oracles import optimality
from reference_problems import UNICYCLE, raised_pendulum, unicycle_around_disc

from dynamics import LinearDynamics, TorchDynamics
from planners import (
    DDP,
    Equality,
    Inequality,
    LinearEquality,
    LinearInequality,
    Problem,
    QuadraticCost,
    Slack,
    SolveError,
    StateLimits,
    Status,
    TerminalState,
    solve,
)

F64 = torch.float64
N, M, T = 3, 2, 8


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# linear-quadratic problems as convex programs


class Program:
    """The same linear-quadratic problem in CVXPY."""

    def __init__(self, seed, *, limit=None, discount=1.0):
        rng = np.random.default_rng(seed)
        self.A, self.B = np.eye(N) + 0.2 * rng.standard_normal((N, N)), rng.standard_normal((N, M))
        self.b, self.x0 = 0.2 * rng.standard_normal(N), 2.0 * rng.standard_normal(N)
        self.x, self.u = cp.Variable((T + 1, N)), cp.Variable((T, M))
        self.gamma = discount ** np.arange(T + 1)
        stages = self.gamma[:-1] @ (cp.sum(self.x[:-1] ** 2, axis=1) + cp.sum(self.u**2, axis=1)) / 2
        self.cost = stages + 5.0 * self.gamma[-1] * cp.sum_squares(self.x[-1]) / 2
        self.rows = [self.x[0] == self.x0]
        self.rows += [self.x[t + 1] == self.A @ self.x[t] + self.B @ self.u[t] + self.b for t in range(T)]
        if limit is not None:
            self.rows += [self.u <= limit, self.u >= -limit]
        self.limit, self.discount = limit, discount

    def problem(self, **fields):
        eye = torch.eye(N, dtype=F64)
        cost = QuadraticCost(eye, eye[:M, :M], Q_terminal=5.0 * eye)
        dynamics = LinearDynamics(*(torch.from_numpy(v) for v in (self.A, self.B, self.b)))
        limits = None if self.limit is None else (-self.limit, self.limit)
        return Problem(dynamics, cost, T, control_limits=limits, discount=self.discount, **fields)

    def price(self, violation, slack, weight=1.0):
        """Of violations, an expression that is convex and not negative."""
        return weight * (slack.linear * cp.sum(violation) + 0.5 * slack.quadratic * cp.sum_squares(violation))

    def optimum(self, rows=(), price=0.0):
        program = cp.Problem(cp.Minimize(self.cost + price), [*self.rows, *rows])
        tolerances = ("tol_gap_abs", "tol_gap_rel", "tol_feas", "tol_ktratio")
        program.solve(solver=cp.CLARABEL, **dict.fromkeys(tolerances, 1e-13))
        return torch.from_numpy(self.u.value), float(program.value)


def assert_optimal(program, problem, us, cost, atol=1e-6):
    solution = solve(problem, DDP(), torch.from_numpy(program.x0))
    assert int(solution.status) == Status.CONVERGED
    assert torch.allclose(solution.us, us, atol=atol, rtol=0), float((solution.us - us).abs().max())
    assert float(solution.cost) == pytest.approx(cost, rel=1e-8)
    assert bool(solution.certificate.optimal)
    hard = {c.name for c in problem.all_constraints if c.soft is None}
    assert all(float(v) <= 1e-8 for name, v in solution.violations.items() if name in hard)
    return solution


@pytest.mark.parametrize("seed", range(3))
def test_hard_inequalities_and_their_duals(seed):
    program = Program(seed, limit=1.5)
    C, D, d = draw(seed, 2, N), draw(seed + 10, 2, M), tensor(0.3, 0.1)
    rows = [C.numpy() @ program.x[t] + D.numpy() @ program.u[t] <= d.numpy() for t in range(T)]
    us, cost = program.optimum(rows)
    solution = assert_optimal(program, program.problem(constraints=[LinearInequality(C, D, d)]), us, cost)
    duals = torch.from_numpy(np.stack([row.dual_value for row in rows]))
    assert float(duals.max()) > 0.01  # some row matters
    assert torch.allclose(solution.multipliers[0], duals, atol=1e-5)
    assert solution.multipliers[1].shape == (0,)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_state_limits_do_not_count_at_the_first_state(discount):
    program = Program(1, discount=discount)
    limit = 0.1
    assert float(np.abs(program.x0[:2]).max()) > 5 * limit
    below, above = program.x[1:, :2] >= -limit, program.x[1:, :2] <= limit
    us, cost = program.optimum([below, above])
    limits = [StateLimits(-limit, limit, states=[0, 1])]
    problem = program.problem(constraints=limits, terminal_constraints=limits)
    solution = assert_optimal(program, problem, us, cost)
    found = torch.cat([solution.multipliers[0][1:], solution.multipliers[1][None]])
    duals = torch.from_numpy(np.concatenate([above.dual_value, below.dual_value], axis=-1))
    assert torch.allclose(found, duals, atol=1e-5)
    assert bool((solution.multipliers[0][0] == 0).all())


@pytest.mark.parametrize("limit", [None, 1.5])
def test_terminal_equalities_and_their_duals(limit):
    program, goal = Program(2, limit=limit), np.array([0.3, -0.2])
    row = program.x[-1, :2] == goal
    us, cost = program.optimum([row])
    problem = program.problem(terminal_constraints=[TerminalState(goal.tolist(), states=[0, 1])])
    solution = assert_optimal(program, problem, us, cost)
    assert torch.allclose(solution.multipliers[1].abs(), torch.from_numpy(np.abs(row.dual_value)), atol=1e-5)


def test_equalities_along_the_way():
    program = Program(3)
    C, D, d = draw(0, 1, N), draw(1, 1, M), tensor(0.2)
    us, cost = program.optimum([C.numpy() @ program.x[t] + D.numpy() @ program.u[t] == d.numpy() for t in range(T)])
    assert_optimal(program, program.problem(constraints=[LinearEquality(C, D, d)]), us, cost)


@pytest.mark.parametrize("copies", [2, 3])
def test_dependent_rows(copies):
    program, goal = Program(2, limit=1.5), np.array([0.3, -0.2])
    us, cost = program.optimum([program.x[-1, :2] == goal, program.x[1:-1] <= 0.8])
    constraints = [StateLimits(upper=0.8, name=f"limits {i}") for i in range(copies)]
    ends = [TerminalState(goal.tolist(), states=[0, 1], name=f"goal {i}") for i in range(copies)]
    assert_optimal(program, program.problem(constraints=constraints, terminal_constraints=ends), us, cost)


SLACKS = {
    "linear, exact": Slack(100.0),
    "linear, at its price": Slack(0.3),
    "quadratic": Slack(quadratic=2.0),
    "both": Slack(0.2, 1.0),
    "both, exact": Slack(100.0, 1.0),
}


@pytest.mark.parametrize("name", SLACKS)
@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_soft_inequalities(name, discount):
    program, slack, limit = Program(4, limit=8.0, discount=discount), SLACKS[name], 0.1
    x = program.x[:, :2]
    price = sum(
        program.price(cp.pos(x[t] - limit), slack, program.gamma[t])
        + program.price(cp.pos(-limit - x[t]), slack, program.gamma[t])
        for t in range(1, T)
    )
    us, cost = program.optimum(price=price)
    constraint = StateLimits(-limit, limit, states=[0, 1], soft=slack)
    solution = assert_optimal(program, program.problem(constraints=[constraint]), us, cost, atol=3e-6)
    broken = float(solution.violations["StateLimits"])
    assert (broken < 1e-8) if "exact" in name else (broken > 1e-3)
    assert float(solution.multipliers[0].max()) > 0.01


@pytest.mark.parametrize("name", SLACKS)
def test_soft_equalities(name):
    program, slack, goal = Program(5), SLACKS[name], np.array([0.6, -0.5, 0.2])
    us, cost = program.optimum(price=program.price(cp.abs(program.x[-1] - goal), slack))
    problem = program.problem(terminal_constraints=[TerminalState(goal.tolist(), soft=slack)])
    solution = assert_optimal(program, problem, us, cost, atol=3e-6)
    assert (float(solution.violations["TerminalState"]) < 1e-8) == ("exact" in name)


def test_terminal_inequalities():
    program = Program(6)
    C, d = draw(0, 2, N), tensor(-0.5, 0.1)
    us, cost = program.optimum([C.numpy() @ program.x[-1] <= d.numpy()])
    assert_optimal(program, program.problem(terminal_constraints=[LinearInequality(C, d=d)]), us, cost)


def test_hard_and_soft_rows_together():
    program, slack = Program(7, limit=1.5), Slack(0.1, 3.0)
    price = program.price(cp.pos(program.x[1:-1] - 0.4), slack)
    us, cost = program.optimum([program.x[-1, 0] == 0.25], price)
    problem = program.problem(
        constraints=[StateLimits(upper=0.4, soft=slack)], terminal_constraints=[TerminalState([0.25], states=[0])]
    )
    assert_optimal(program, problem, us, cost, atol=3e-6)


# nonlinear problems


@pytest.mark.parametrize("make", [unicycle_around_disc, raised_pendulum])
def test_nonlinear_constrained_optima(make):
    reference = make()
    solution = solve(reference.problem, DDP(), reference.x0)
    cost, _ = reference.evaluate(solution.us)
    residual, violation = optimality(reference.formula, reference.x0.numpy(), solution.us.numpy())
    assert violation <= 1e-8
    assert residual <= 1e-5 * max(1.0, float(reference.optimal_cost))
    assert float(cost) == pytest.approx(float(reference.optimal_cost), rel=1e-7)
    assert all(float(v) <= 1e-8 for v in solution.violations.values())
    assert bool(solution.certificate.optimal)


def test_gauss_newton_keeps_constraints_to_its_tolerance():
    reference = unicycle_around_disc()
    solution = solve(reference.problem, DDP(curvature="gauss-newton"), reference.x0)
    assert float(solution.cost) == pytest.approx(float(reference.optimal_cost), rel=1e-6)
    assert all(float(v) <= 1e-6 for v in solution.violations.values())


def limited_product():
    """The unicycle with the product of speed and turn rate limited."""
    eye = torch.eye(3, dtype=F64)
    cost = QuadraticCost(100.0 * eye, eye[:2, :2], Q_terminal=100.0 * eye)

    def step(x, u):
        heading = x[..., 2]
        moved = torch.stack([u[..., 0] * torch.cos(heading), u[..., 0] * torch.sin(heading), u[..., 1]], dim=-1)
        return x + 0.1 * moved

    row = Inequality(lambda x, u, t: u[..., :1] * u[..., 1:].neg() - 2.0, name="product")
    return Problem(TorchDynamics(step, 3, 2, dt=0.1), cost, 12, control_limits=(-8.0, 8.0), constraints=[row])


def test_a_limited_product_of_controls():
    from scipy.optimize import minimize

    problem, x0 = limited_product(), np.array([-1.0, -1.0, 1.0])
    solution = solve(problem, DDP(), torch.from_numpy(x0))
    shape = (12, 2)
    result = minimize(
        lambda z: float(UNICYCLE.cost(x0, z.reshape(shape))),
        solution.us.numpy().ravel() + 0.05 * np.random.default_rng(0).standard_normal(24),
        jac=lambda z: UNICYCLE.gradient(x0, z.reshape(shape)).ravel(),
        bounds=[(-8.0, 8.0)] * 24,
        constraints={"type": "ineq", "fun": lambda z: z[0::2] * z[1::2] + 2.0},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    product = -(solution.us[:, 0] * solution.us[:, 1]) - 2.0
    assert float(product.max()) == pytest.approx(0.0, abs=1e-8)  # it matters
    assert float(solution.cost) == pytest.approx(result.fun, rel=1e-7)
    assert np.allclose(solution.us.numpy(), result.x.reshape(shape), atol=1e-4)


@pytest.mark.slow
def test_batches_equal_single_solves():
    problem, x0 = limited_product(), tensor(-1.0, -1.0, 1.0) + 0.3 * draw(0, 2, 2, 3)
    together = solve(problem, DDP(), x0)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert torch.allclose(solve(problem, DDP(), x0[i, j]).us, together.us[i, j], atol=1e-8)


def test_limits_of_each_problem_of_a_batch():
    x0 = tensor(-1.0, -1.0, 1.0) + 0.2 * draw(0, 2, 3, 3)
    upper = torch.linspace(3.0, 6.0, 6, dtype=F64).reshape(2, 3, 1, 1)
    row = Inequality(lambda x, u, t: u[..., :1] * u[..., 1:].neg() - 2.0)

    def problem(limit):
        base = limited_product()
        return Problem(base.dynamics, base.cost, 12, control_limits=(-limit, limit), constraints=[row])

    together = solve(problem(upper), DDP(), x0)
    assert torch.allclose(solve(problem(float(upper[1, 1])), DDP(), x0[1, 1]).us, together.us[1, 1], atol=1e-8)


def test_multiple_shooting_reaches_the_same_constrained_optimum():
    reference = unicycle_around_disc()
    expected = solve(reference.problem, DDP(), reference.x0)
    start = reference.start()
    for seed in range(2):
        guess = type(start)(
            start.problem, start.xs + 0.2 * draw(seed, *start.xs.shape), start.us, start.cost, start.status
        )
        solution = solve(reference.problem, DDP(shooting="multiple"), reference.x0, init=guess)
        assert torch.equal(solution.xs, reference.problem.dynamics.rollout(reference.x0, solution.us))
        assert all(float(v) <= 1e-8 for v in solution.violations.values())
        assert float(solution.cost) == pytest.approx(float(expected.cost), rel=1e-6)


def test_what_cannot_be_met_is_named():
    program = Program(0, limit=0.1)
    goal = TerminalState([30.0, -30.0, 30.0], name="far away")
    limits = StateLimits(-1e3, 1e3, name="wide")
    problem = program.problem(constraints=[limits], terminal_constraints=[goal])
    x0 = torch.from_numpy(program.x0)
    with pytest.raises(SolveError, match=r"infeasible x 1: .*\n.*'far away' is violated by up to \d") as error:
        solve(problem, DDP(), x0)
    solution = error.value.solution
    assert "wide" not in str(error.value)
    assert int(solution.status) == Status.INFEASIBLE
    assert float(solution.cost) == float("inf")
    assert bool(solution.us.isfinite().all())


def test_what_cannot_be_met_does_not_touch_the_rest_of_a_batch():
    program = Program(0, limit=1.0)
    goal = torch.stack([tensor(0.1, 0.1, 0.1), tensor(60.0, 60.0, -60.0), tensor(0.0, 0.2, 0.1)])
    x0 = torch.from_numpy(program.x0).repeat(3, 1)
    solution = solve(program.problem(terminal_constraints=[TerminalState(goal)]), DDP(), x0, throw=False)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE, Status.CONVERGED]
    alone = solve(program.problem(terminal_constraints=[TerminalState(goal[2])]), DDP(), x0[2])
    assert torch.allclose(solution.us[2], alone.us, atol=1e-8)


def test_constraints_without_rows_that_count():
    """A limit of the state in a horizon of one step; a constraint on the controls is one of the first step too."""
    program = Program(0)
    problem = Problem(program.problem().dynamics, program.problem().cost, 1, constraints=[StateLimits(-1e-3, 1e-3)])
    free = solve(Problem(problem.dynamics, problem.cost, 1), DDP(), torch.from_numpy(program.x0))
    found = solve(problem, DDP(), torch.from_numpy(program.x0))
    assert torch.allclose(found.us, free.us, atol=1e-9)
    equal = Equality(lambda x, u, t: u[..., :1] - 0.3)
    found = solve(Problem(problem.dynamics, problem.cost, 1, constraints=[equal]), DDP(), torch.from_numpy(program.x0))
    assert float(found.us[0, 0]) == pytest.approx(0.3, abs=1e-9)


def test_single_precision_meets_constraints_to_its_digits():
    program = Program(1)
    limits = [StateLimits(-1.0, 1.0)]
    problem = program.problem(constraints=limits, terminal_constraints=limits)
    planner = DDP(tolerance=1e-4, constraint_tolerance=1e-4)
    found, expected = (solve(problem, planner, torch.from_numpy(program.x0).to(d)) for d in (torch.float32, F64))
    assert found.us.dtype == torch.float32
    assert torch.allclose(found.us.double(), expected.us, atol=1e-3)
