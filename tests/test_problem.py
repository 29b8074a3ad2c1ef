"""The total cost against a plain loop, and what a problem refuses."""

import math

import pytest
import torch

from dynamics import DoubleIntegrator, LinearDynamics, TorchDynamics
from planners import (
    LQR,
    FunctionCost,
    GoalCost,
    Problem,
    QuadraticCost,
    Slack,
    StateLimits,
    TerminalState,
    TransitionCost,
    solve,
)

PLANT = LinearDynamics(torch.eye(2).double(), torch.ones(2, 1).double())
COST = GoalCost(0.0, 1.0, 0.1, 2.0)


def problem(**fields):
    return Problem(fields.pop("dynamics", PLANT), fields.pop("cost", COST), fields.pop("horizon", 5), **fields)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def looped_cost(p, xs, us, t0=0):
    """The definition, one step and one trajectory at a time."""
    T, total = len(us), 0.0
    for t in range(T + 1):
        if p.termination is not None and bool(p.termination(xs[t])):
            return total + p.discount**t * p.termination_cost
        if t < T:
            total += p.discount**t * float(p.cost.transition(xs[t], us[t], xs[t + 1], t0 + t))
    value = 0.0 if p.terminal_value is None else float(p.terminal_value(xs[T]))
    return total + p.discount**T * (float(p.cost.window(t0, T).terminal(xs[T])) + value)


def moving(x, u, x_next, t):
    return (x_next - x).square().sum(-1) + 0.1 * u.square().sum(-1) * (1 + torch.as_tensor(t))


@pytest.mark.parametrize("cost", ["goal", "transition", "reference by step", "reference by world"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"discount": 0.9},
        {"terminal_value": lambda x: x.square().sum(-1), "discount": 0.9},
        {"termination": lambda x: x[..., 0] > 1.0},
        {"termination": lambda x: x[..., 0] > 1.0, "termination_cost": 7.0, "discount": 0.8},
        {"termination": lambda x: x[..., 0] > -9.0, "termination_cost": 7.0},
        {
            "termination": lambda x: x[..., 0] > 1.0,
            "termination_cost": 7.0,
            "discount": 0.8,
            "terminal_value": lambda x: 100 + x[..., 1],
        },
    ],
    ids=["plain", "discount", "value", "termination", "termination cost", "terminal at once", "all"],
)
def test_trajectory_cost_is_the_definition(fields, cost):
    B, S, T = 3, 4, 6
    xs, us, t0 = draw(B, S, T + 1, 2), draw(B, S, T, 1, seed=1), 2
    costs = {
        "goal": [COST] * B,
        "transition": [TransitionCost(moving, lambda x: x[..., 0])] * B,
        "reference by step": [COST.with_reference(draw(12, 2, seed=2))] * B,
        "reference by world": [COST.with_reference(g) for g in draw(B, 5, 2, seed=3)],
    }[cost]
    batched = COST.with_reference(draw(B, 5, 2, seed=3)) if cost == "reference by world" else costs[0]
    total = problem(cost=batched, **fields).trajectory_cost(xs, us, t0=t0)
    expected = [
        [looped_cost(problem(cost=c, **fields), xs[b, s], us[b, s], t0) for s in range(S)] for b, c in enumerate(costs)
    ]
    torch.testing.assert_close(total, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    if cost != "reference by world":
        single = problem(cost=batched, **fields).trajectory_cost(xs[0, 0], us[0, 0], t0=t0)
        assert single.shape == ()
        assert float(single) == pytest.approx(expected[0][0], rel=1e-12)


def test_the_ends_of_termination_all_occur_in_that_test():
    first = (draw(3, 4, 7, 2)[..., 0] > 1.0).to(torch.uint8)
    last = first.cummax(-1).values.sum(-1)
    assert int(last.min()) == 0
    assert len(last.unique()) > 3


@pytest.mark.parametrize("fields", [{}, {"termination_cost": 5.0, "discount": 0.9}])
def test_what_follows_termination_does_not_count(fields):
    p = problem(termination=lambda x: x[..., 0] > 1.0, terminal_value=lambda x: 9 * x[..., 0], **fields)
    xs, us = 0.1 * draw(5, 2), draw(4, 1)
    xs[2, 0] = 3.0
    expected = looped_cost(p, xs, us)
    for bad in (math.nan, math.inf):
        xs[3:], us[2:] = bad, bad
        assert float(p.trajectory_cost(xs, us)) == pytest.approx(expected, rel=1e-13)


def test_what_is_not_finite_before_termination_counts():
    p = problem(termination=lambda x: x[..., 0] > 1.0)
    xs, us = 0.1 * draw(2, 5, 2), draw(2, 4, 1)
    xs[0, 1, 1], xs[0, 3, 0] = math.nan, 3.0
    assert p.trajectory_cost(xs, us).isfinite().tolist() == [False, True]


def test_batch_axes_of_states_and_controls_broadcast():
    p = problem(terminal_value=lambda x: x[..., 0], termination=lambda x: x[..., 0] > 1.0, termination_cost=1.0)
    xs, us = draw(2, 3, 4, 6, 2), draw(2, 3, 1, 5, 1)
    expected = p.trajectory_cost(xs, us.expand(2, 3, 4, 5, 1))
    assert torch.equal(p.trajectory_cost(xs, us), expected)
    only_controls = problem(cost=FunctionCost(lambda x, u, t: u[..., 0]), termination=p.termination)
    assert only_controls.trajectory_cost(xs, us).shape == (2, 3, 4)
    assert torch.equal(p.trajectory_cost(xs[0, 0, 0], us), p.trajectory_cost(xs[0, 0, 0].expand(2, 3, 1, 6, 2), us))


def test_the_end_of_a_long_reference_is_that_of_the_plan():
    goal = torch.arange(20.0).double().unsqueeze(-1).expand(20, 2)
    p = Problem(PLANT, QuadraticCost(torch.eye(2), torch.eye(1), Q_terminal=torch.eye(2), goal=goal), 5)
    solution = solve(p, LQR(), draw(3, 2), t0=4)
    torch.testing.assert_close(p.trajectory_cost(solution.xs, solution.us, t0=4), solution.cost, rtol=1e-13, atol=0)
    still = p.trajectory_cost(goal[4:10], torch.zeros(5, 1).double(), t0=4)
    assert float(still) == 0.0


def test_costs_in_single_precision():
    xs, us = draw(3, 6, 2), draw(3, 5, 1)
    p = problem(discount=0.9, termination=lambda x: x[..., 0] > 1.0, termination_cost=2.0)
    ours = p.trajectory_cost(xs.float(), us.float())
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), p.trajectory_cost(xs, us), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"cost": FunctionCost(lambda x, u, t: x.square().sum(-1, keepdim=True))},
            r"the stage cost must .* \(3, 5\), ",
        ),
        ({"cost": FunctionCost(lambda x, u, t: x.square().sum())}, r"the stage cost .* got \(\); a function gives"),
        ({"cost": FunctionCost(lambda x, u, t: x[..., 0], lambda x: x)}, r"the terminal cost must have shape \(3,\)"),
        ({"terminal_value": lambda x: x[..., :1]}, r"terminal_value must have shape \(3,\), .* got \(3, 1\)"),
        ({"termination": lambda x: x > 1}, r"termination must have shape \(3, 6\), .* got \(3, 6, 2\)"),
        (
            {"termination": lambda x: x[..., 0].sigmoid()},
            "termination must return bool, got torch.float64; compare with",
        ),
        ({"cost": FunctionCost(lambda x, u, t: 1.0)}, r"the stage cost must have shape \(3, 5\), .* got float"),
        (
            {"cost": COST.with_reference(torch.zeros(7, 1, 5, 2))},
            r"reference \(\*batch, L, n\) needs the batch axes of x0",
        ),
    ],
)
def test_functions_of_another_shape_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        problem(**fields).trajectory_cost(draw(3, 6, 2), draw(3, 5, 1))


def test_states_have_one_step_more_than_controls():
    with pytest.raises(ValueError, match=r"one step more than us, got \(3, 1, 2\) and \(3, 1, 1\)"):
        problem().trajectory_cost(draw(3, 1, 2), draw(3, 1, 1))


def test_features_are_the_fields_that_are_set():
    assert problem().features() == set()
    everything = problem(
        horizon=math.inf,
        control_limits=(-1.0, 1.0),
        control_values=torch.zeros(3, 1),
        rate_limits=(-1.0, 1.0),
        constraints=[StateLimits(-1.0, 1.0), StateLimits(-1.0, soft=Slack(1.0))],
        terminal_constraints=[TerminalState(0.0)],
        discount=0.9,
        termination=lambda x: x[..., 0] > 1,
        termination_cost=1.0,
        terminal_value=lambda x: x[..., 0],
    )
    assert everything.features() == {
        "control_limits",
        "control_values",
        "rate_limits",
        "constraints",
        "terminal_constraints",
        "soft constraints",
        "discount",
        "termination",
        "terminal_value",
        "infinite horizon",
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_limits_have_the_dtype_of_the_controls(dtype):
    us = torch.zeros(4, 5, 1, dtype=dtype)
    lower, upper = problem(control_limits=(-0.1, torch.tensor([0.3]).double())).limits_like(us)
    assert lower.dtype == upper.dtype == dtype
    assert float(lower) == float(torch.tensor(-0.1, dtype=dtype))  # a number does not pass through single precision
    lower, upper = problem().limits_like(us)
    assert (float(lower), float(upper)) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    "limits",
    [
        (-1, 1),
        (torch.tensor([-1.0]), 1.0),
        (-torch.ones(5, 1), torch.ones(1, 1)),
        (-torch.ones(8, 5, 1), torch.ones(8, 1, 1)),
        (-math.inf, math.inf),
        (0.0, 0.0),
    ],
)
def test_limits_that_broadcast_are_accepted(limits):
    assert problem(control_limits=limits).features() == {"control_limits"}


NAN = math.nan


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"control_limits": (1.0, -1.0)}, r"control_limits must satisfy lower <= upper .*lower 1.0, upper -1.0"),
        ({"control_limits": (torch.tensor([NAN]), 1.0)}, r"control_limits must satisfy .*lower \[nan\]"),
        ({"rate_limits": (0.0, torch.tensor([-1.0]))}, "rate_limits must satisfy lower <= upper"),
        ({"control_limits": 1.0}, r"control_limits must be \(lower, upper\), .*\(\*batch, 5, 1\), got 1.0"),
        ({"control_limits": (0.0,)}, r"control_limits must be \(lower, upper\)"),
        ({"control_limits": (0.0, "high")}, r"control_limits must be \(lower, upper\)"),
        ({"control_limits": (torch.zeros(2), torch.ones(2))}, r"broadcasting to \(\*batch, 5, 1\)"),
        ({"control_limits": (torch.zeros(4, 1), 1.0)}, r"broadcasting to \(\*batch, 5, 1\)"),
        ({"control_limits": (torch.zeros(2), 1.0), "horizon": math.inf}, r"broadcasting to \(\*batch, 1\)"),
        ({"horizon": 2.5}, "horizon must be a positive number of steps or math.inf, got 2.5"),
        ({"horizon": 0}, "got 0"),
        ({"horizon": -3}, "got -3"),
        ({"horizon": NAN}, "horizon must be a positive number of steps or math.inf, got nan"),
        ({"horizon": -math.inf}, "horizon must be a positive number of steps or math.inf, got -inf"),
        ({"discount": 0.0}, r"discount must be in \(0, 1\], got 0.0"),
        ({"discount": 1.01}, "got 1.01"),
        ({"discount": NAN}, "got nan"),
        ({"control_values": torch.zeros(3)}, r"control_values must be a tensor of shape \(k, 1\), got \(3,\)"),
        ({"control_values": torch.zeros(3, 2)}, r"shape \(k, 1\), got \(3, 2\)"),
        ({"control_values": torch.zeros(0, 1)}, r"shape \(k, 1\), got \(0, 1\)"),
        ({"control_values": [[0.0], [1.0]]}, r"shape \(k, 1\), got list"),
        ({"termination_cost": 3.0}, "termination_cost 3.0 is charged at termination, which is not given"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        problem(**fields)


def test_functions_in_place_of_dynamics_and_cost_are_told_their_wrapper():
    with pytest.raises(TypeError, match="dynamics must be a Dynamics, got function; wrap a function in TorchDynamics"):
        Problem(lambda x, u: x, COST, 5)
    with pytest.raises(TypeError, match="cost must be a Cost, got function; wrap a function in FunctionCost"):
        Problem(PLANT, lambda x, u, t: x, 5)
    wrapped = Problem(TorchDynamics(lambda x, u: x + u, 1, 1, 0.1), FunctionCost(lambda x, u, t: x[..., 0]), 5.0)
    assert wrapped.trajectory_cost(torch.ones(6, 1), torch.ones(5, 1)) == 5.0


def test_a_problem_cannot_be_changed():
    with pytest.raises(AttributeError):
        problem().discount = 0.5
    assert Problem(DoubleIntegrator(), COST, math.inf).features() == {"infinite horizon"}


def test_a_state_that_is_not_finite_counts_until_termination_even_if_the_cost_does_not_look():
    blind = FunctionCost(lambda x, u, t: (x[..., 0] > 0).to(x))  # NaN > 0 is False, which would be a perfect score
    xs, us = torch.zeros(3, 4, 1), torch.zeros(3, 3, 1)
    xs[1, 2:] = math.nan
    xs[2, 1], xs[2, 2:] = 5.0, math.nan
    dynamics = LinearDynamics(torch.eye(1), torch.eye(1))
    plain = Problem(dynamics, blind, 3)
    ending = Problem(dynamics, blind, 3, termination=lambda x: x[..., 0] > 4)
    assert plain.trajectory_cost(xs, us).isnan().tolist() == [False, True, True]
    assert ending.trajectory_cost(xs, us).isnan().tolist() == [False, True, False]
    assert ending.finite_states(xs).tolist() == [True, False, True]
