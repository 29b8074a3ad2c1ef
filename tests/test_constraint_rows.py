"""The augmented Lagrangian of rows against its definition as a maximum, and rows of problems against single constraints."""

import math

import pytest
import torch

from dynamics import Quadrotor, TorchDynamics
from planners import (
    Equality,
    Inequality,
    LinearInequality,
    Problem,
    QuadraticCost,
    Slack,
    StateEquality,
    StateLimits,
    TerminalState,
)
from planners.constraints.rows import Prices, StageRows, TerminalRows

F64 = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


KINDS = {  # equality, linear, quadratic
    "hard inequality": (False, math.inf, 0.0),
    "hard equality": (True, math.inf, 0.0),
    "soft inequality, linear": (False, 0.7, 0.0),
    "soft inequality, quadratic": (False, 0.0, 2.0),
    "soft inequality, both": (False, 0.7, 2.0),
    "soft equality, linear": (True, 0.7, 0.0),
    "soft equality, quadratic": (True, 0.0, 2.0),
    "soft equality, both": (True, 0.7, 2.0),
}


def prices_of(name, count=1):
    equality, linear, quadratic = KINDS[name]
    return Prices(
        torch.full((count,), equality),
        torch.full((count,), True),
        *(tensor(v).expand(count) for v in (linear, quadratic)),
    )


def by_definition(name, g, y, rho):
    """The largest over multipliers on a fine grid: psi and where it is."""
    equality, linear, quadratic = KINDS[name]
    grid = torch.linspace(-20.0, 20.0, 400001, dtype=F64)
    conjugate = torch.zeros_like(grid)
    if not math.isinf(linear):
        above = torch.relu(grid.abs() - linear)
        conjugate = above.square() / (2 * quadratic) if quadratic else torch.where(above > 1e-12, math.inf, 0.0)
    if not equality:
        conjugate = torch.where(grid < -1e-9, math.inf, conjugate)
    value = grid * g - conjugate - (grid - y).square() / (2 * rho)
    best = value.argmax()
    return float(value[best]), float(grid[best])


@pytest.mark.parametrize("name", KINDS)
def test_multiplier_and_merit_are_those_of_the_definition(name):
    prices = prices_of(name)
    for seed in range(12):
        g, y = (float(v) for v in draw(seed, 2))
        y, rho = (y if KINDS[name][0] else abs(y)), 0.5 + seed / 4
        found, _ = prices.multiplier(tensor(g), tensor(y), tensor(rho))
        merit = prices.merit(tensor(g), tensor(y), tensor(rho))
        value, where = by_definition(name, g, y, rho)
        assert float(found) == pytest.approx(where, abs=1.1e-4)
        assert float(merit) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_the_multiplier_is_the_slope_of_the_merit_and_has_its_own(name):
    """By differences, away from the kinks of the multiplier."""
    prices, rho, h = prices_of(name, 40), tensor(3.0), 1e-6
    g, y = draw(0, 40), draw(1, 40)
    y = y if KINDS[name][0] else y.abs()

    def merit(values):
        return torch.stack([prices_of(name).merit(values[i : i + 1], y[i : i + 1], rho) for i in range(40)])

    multiplier, slope = prices.multiplier(g, y, rho)
    assert torch.allclose(multiplier, (merit(g + h) - merit(g - h)) / (2 * h), atol=1e-5)
    ends = [prices.multiplier(g + sign * h, y, rho)[0] for sign in (1.0, -1.0)]
    assert torch.allclose(slope, (ends[0] - ends[1]) / (2 * h), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in KINDS if "soft" in name])
def test_a_large_penalty_leaves_the_price_of_the_violation(name):
    equality, linear, quadratic = KINDS[name]
    g = draw(0, 30)
    violation = g.abs() if equality else torch.relu(g)
    price = Slack(linear, quadratic)(violation).sum()
    assert float(prices_of(name, 30).merit(g, torch.zeros(30, dtype=F64), tensor(1e9))) == pytest.approx(
        float(price), rel=1e-6
    )


def problem_of(discount=1.0):
    eye = torch.eye(3, dtype=F64)
    dynamics = TorchDynamics(lambda x, u: x + 0.1 * torch.sin(x) * u[..., :1], 3, 2, dt=0.1)
    product = Inequality(lambda x, u, t: torch.stack([u[..., 0] * x[..., 1] - t * 1.0, u[..., 1] ** 3], dim=-1))
    constraints = [
        StateLimits([-1.0, -math.inf, -2.0], [1.0, 1.0, math.inf]),
        product,
        LinearInequality(draw(0, 1, 3), draw(1, 1, 2), soft=Slack(2.0)),
        Equality(lambda x, u, t: torch.sin(x[..., :1]) * u[..., :1], soft=Slack(0.0, 3.0)),
    ]
    ends = [TerminalState([0.0, 1.0], states=[0, 2]), StateEquality(lambda x: x.square().sum(-1, keepdim=True))]
    cost = QuadraticCost(eye, eye[:2, :2])
    return Problem(dynamics, cost, 4, constraints=constraints, terminal_constraints=ends, discount=discount)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_rows_and_their_derivatives(batch):
    problem, xs, us, t0 = problem_of(), draw(0, *batch, 5, 3), draw(1, *batch, 4, 2), 2
    rows, ends = StageRows(problem, xs, us, t0), TerminalRows(problem, xs, us, t0)
    steps = t0 + torch.arange(4)
    expected = torch.cat([c.value(xs[..., :-1, :], us, steps) for c in problem.constraints], dim=-1)
    assert rows.size == expected.shape[-1] == 8
    assert torch.equal(rows.value(xs, us)[..., rows.prices.counts], expected[..., rows.prices.counts])
    assert ends.size == 3
    assert torch.equal(
        ends.value(xs, us),
        torch.cat([c.value(xs[..., -1, :], None, None) for c in problem.terminal_constraints], dim=-1),
    )
    weight, weight_T, h = draw(2, *batch, 4, 8), draw(3, *batch, 3), 1e-5
    J, J_T = rows.jacobian(xs, us), ends.jacobian(xs, us)
    H, H_T = rows.curvature(xs, us, weight), ends.curvature(xs, us, weight_T)
    assert J.shape == (*batch, 4, 8, 5)
    assert J_T.shape == (*batch, 3, 3)
    for i in range(5):
        dx = torch.zeros_like(xs)
        du = torch.zeros_like(us)
        (dx if i < 3 else du)[..., i if i < 3 else i - 3] = h
        plus, minus = (xs + dx, us + du), (xs - dx, us - du)
        assert torch.allclose(J[..., i], (rows.value(*plus) - rows.value(*minus)) / (2 * h), atol=1e-7)
        change = (rows.jacobian(*plus) - rows.jacobian(*minus)) / (2 * h)
        assert torch.allclose(H[..., i, :], (weight.unsqueeze(-1) * change).sum(-2), atol=1e-6)
        if i < 3:
            assert torch.allclose(J_T[..., i], (ends.value(*plus) - ends.value(*minus)) / (2 * h), atol=1e-7)
            change = (ends.jacobian(*plus) - ends.jacobian(*minus)) / (2 * h)
            assert torch.allclose(H_T[..., i, :], (weight_T.unsqueeze(-1) * change).sum(-2), atol=1e-6)


def test_prices_are_discounted_and_the_first_state_is_free():
    problem = problem_of(0.5)
    rows, ends = (
        StageRows(problem, draw(0, 5, 3), draw(1, 4, 2), 7),
        TerminalRows(problem, draw(0, 5, 3), draw(1, 4, 2), 7),
    )
    assert not bool(rows.prices.counts[0, :4].any())  # state limits
    assert bool(rows.prices.counts[0, 4:].all())
    assert bool(rows.prices.counts[1:].all())
    assert torch.equal(rows.prices.linear[:, 6], 2.0 * tensor(1.0, 0.5, 0.25, 0.125))
    assert torch.equal(rows.prices.quadratic[:, 7], 3.0 * tensor(1.0, 0.5, 0.25, 0.125))
    assert bool(rows.prices.linear[:, :6].isinf().all())
    assert bool(ends.prices.hard.all())
    assert bool(ends.prices.counts.all())


def test_rows_of_attitudes_are_derived_in_the_tangent_space():
    dynamics = Quadrotor()
    level = Inequality(lambda x, u, t: 0.9 - x[..., 3:4].square())
    cost = QuadraticCost(torch.eye(13, dtype=F64), torch.eye(4, dtype=F64))
    problem = Problem(dynamics, cost, 3, constraints=[level])
    xs = dynamics.retract(dynamics.hover_state(torch.zeros(4, 3, dtype=F64)), 0.5 * draw(0, 4, 12))
    us, h = torch.ones(3, 4, dtype=F64), 1e-6
    rows = StageRows(problem, xs, us, 0)
    J = rows.jacobian(xs, us)
    assert J.shape == (3, 1, 16)
    for i in range(12):
        direction = h * torch.eye(12, dtype=F64)[i]
        ends = [rows.value(dynamics.retract(xs, sign * direction), us) for sign in (1.0, -1.0)]
        assert torch.allclose(J[..., i], (ends[0] - ends[1]) / (2 * h), atol=1e-8)


def test_problems_without_constraints_have_no_rows():
    eye = torch.eye(3, dtype=F64)
    problem = Problem(problem_of().dynamics, QuadraticCost(eye, eye[:2, :2]), 4)
    xs, us = draw(0, 2, 5, 3), draw(1, 2, 4, 2)
    rows, ends = StageRows(problem, xs, us, 0), TerminalRows(problem, xs, us, 0)
    assert rows.value(xs, us).shape == (2, 4, 0)
    assert ends.value(xs, us).shape == (2, 0)
    assert rows.jacobian(xs, us).shape == (2, 4, 0, 5)
    assert ends.jacobian(xs, us).shape == (2, 0, 3)
