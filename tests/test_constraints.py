"""Constraints: what their rows are, what soft ones cost, and what is said about those that do not fit."""

import pytest
import torch

from dynamics import DoubleIntegrator
from planners import (
    Equality,
    Inequality,
    LinearEquality,
    LinearInequality,
    Problem,
    QuadraticCost,
    Slack,
    StateEquality,
    StateInequality,
    StateLimits,
    TerminalState,
)


def problem(T=4, **fields):
    eye = torch.eye(2).double()
    return Problem(DoubleIntegrator(dt=0.1), QuadraticCost(eye, eye[:1, :1]), T, **fields)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (2, 0), (2, 3)])
def test_rows_of_every_kind(batch, dtype):
    x, u = draw(*batch, 2).to(dtype), draw(*batch, 1, seed=1).to(dtype)
    C, D, d = draw(3, 2, seed=2), draw(3, 1, seed=3), draw(3, seed=4)
    expected = (
        torch.einsum("kn,...n->...k", C.to(dtype), x) + torch.einsum("km,...m->...k", D.to(dtype), u) - d.to(dtype)
    )
    for kind in (LinearInequality, LinearEquality):
        torch.testing.assert_close(kind(C, D, d).value(x, u, 0), expected)
    torch.testing.assert_close(LinearInequality(C).value(x), torch.einsum("kn,...n->...k", C.to(dtype), x))
    limits = StateLimits([-1.0, -float("inf")], 2.0)
    torch.testing.assert_close(limits.value(x), torch.cat([x - 2.0, -1.0 - x[..., :1]], dim=-1))
    torch.testing.assert_close(StateLimits(upper=0.5, states=[1]).value(x), x[..., 1:] - 0.5)
    torch.testing.assert_close(TerminalState([0.3], states=[0]).value(x), x[..., :1] - 0.3)
    for kind in (Inequality, Equality):
        assert kind(lambda x, u, t: x * u).value(x, u, 0).dtype == dtype
    assert StateInequality(lambda x: x).value(x).shape == (*batch, 2)


def test_violation_is_what_is_above_zero_or_away_from_it():
    x = torch.tensor([-1.0, 2.0])
    assert StateInequality(lambda x: x).violation(x).tolist() == [0.0, 2.0]
    assert StateEquality(lambda x: x).violation(x).tolist() == [1.0, 2.0]


def test_goals_of_a_batch_stay_with_their_rows():
    goal, x = draw(3, 2), draw(3, 5, 2, seed=1)
    torch.testing.assert_close(TerminalState(goal).value(x), x - goal[:, None, :])


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_the_price_of_soft_constraints_is_part_of_the_cost(discount):
    slack = Slack(linear=2.0, quadratic=3.0)
    stage = Inequality(lambda x, u, t: x[..., :1] + u - t.unsqueeze(-1), soft=slack)
    limits = StateLimits(upper=0.2, soft=slack)
    last = TerminalState(0.1, soft=slack)
    soft = problem(constraints=[stage, limits], terminal_constraints=[last, limits], discount=discount)
    xs, us = draw(3, 5, 2), draw(3, 4, 1, seed=1)
    expected = problem(discount=discount).trajectory_cost(xs, us)
    for b in range(3):
        for t in range(4):
            rows = [xs[b, t, 0] + us[b, t, 0] - t] + ([] if t == 0 else list(xs[b, t] - 0.2))
            for violation in (max(float(row), 0.0) for row in rows):
                expected[b] += discount**t * (2.0 * violation + 1.5 * violation**2)
        for violation in [abs(float(row)) for row in xs[b, 4] - 0.1] + [max(float(r), 0.0) for r in xs[b, 4] - 0.2]:
            expected[b] += discount**4 * (2.0 * violation + 1.5 * violation**2)
    torch.testing.assert_close(soft.trajectory_cost(xs, us), expected, rtol=1e-13, atol=0)


def test_violations_by_name_leave_out_the_first_state_where_no_control_counts():
    limits = StateLimits(upper=1.0, name="speed")
    mixed = Inequality(lambda x, u, t: x[..., :1] - 1.0, name="mixed")
    xs, us = torch.zeros(2, 5, 2), torch.zeros(2, 4, 1)
    xs[0, 0, 0], xs[1, 4, 1] = 5.0, 3.0
    found = problem(constraints=[limits, mixed], terminal_constraints=[limits]).violations(xs, us)
    assert {name: value.tolist() for name, value in found.items()} == {"speed": [0.0, 2.0], "mixed": [4.0, 0.0]}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Slack(), ValueError, "not both zero, got linear=0.0 and quadratic=0.0; leave soft=None"),
        (lambda: Slack(-1.0), ValueError, "not negative"),
        (
            lambda: StateLimits(soft=0.1),
            TypeError,
            r"soft must be a Slack such as Slack\(linear=10.0\), or None, got 0.1",
        ),
        (lambda: StateLimits(), ValueError, "at least one finite limit, got none"),
        (lambda: StateLimits(1.0, -1.0), ValueError, "lower <= upper, got 1.0 and -1.0"),
        (lambda: StateLimits(float("nan")), ValueError, "lower must be finite, got nan"),
        (lambda: StateLimits([1.0]).value(torch.zeros(2)), ValueError, "lower is for 1 states, 2 are limited"),
        (
            lambda: LinearInequality([1.0, 2.0]),
            ValueError,
            r"C must have shape \(k, n\) and D \(k, m\), got \(2,\) and None",
        ),
        (
            lambda: LinearInequality([[1.0]], d=[1.0, 2.0]),
            ValueError,
            r"d must be a number or have shape \(1,\), got \(2,\)",
        ),
        (
            lambda: LinearInequality([[1.0]]).value(torch.zeros(2)),
            ValueError,
            "C has 1 columns, it multiplies vectors of size 2",
        ),
        (lambda: TerminalState([1.0]).value(torch.zeros(2)), ValueError, "goal is for 1 states, 2 have to reach it"),
        (
            lambda: problem(constraints=StateLimits(1.0)),
            TypeError,
            r"must be a sequence of constraints, got StateLimits; write \[StateLimits\(...\)\]",
        ),
        (lambda: problem(constraints=[lambda x: x]), TypeError, "wrap a function in Inequality or Equality"),
        (
            lambda: problem(constraints=[StateLimits(-1.0, 1.0, states=[4])]),
            ValueError,
            r"constraint 'StateLimits' is on the states \(4,\), the dynamics have 2: 0 to 1",
        ),
        (
            lambda: problem(constraints=[StateInequality(lambda x: x[..., :1] > 0.5, soft=Slack(1.0))]).trajectory_cost(
                draw(5, 2), draw(4, 1)
            ),
            ValueError,
            "got bool or whole numbers; return the difference",
        ),
        (
            lambda: problem(terminal_constraints=[Inequality(lambda x, u, t: x, name="grip")]),
            ValueError,
            "functions of the state alone, which grip is not; use StateInequality or StateEquality",
        ),
        (
            lambda: problem(
                constraints=[StateInequality(lambda x: x[..., 0], name="wall", soft=Slack(1.0))]
            ).trajectory_cost(draw(5, 2), draw(4, 1)),
            ValueError,
            r"constraint 'wall' must give rows \(\*batch, k\) .* x\[..., :1\] and not x\[..., 0\]",
        ),
    ],
)
def test_what_does_not_fit_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()
