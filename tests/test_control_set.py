"""Allowed controls: limits, rate limits and discrete values, against plain Python and their definitions."""

import math
from dataclasses import replace

import pytest
import torch

from dynamics import DoubleIntegrator
from planners import ICEM, MPC, GoalCost, PredictiveSampling, Problem, SolveError, Status, solve
from planners.control_set import ControlSet


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def problem(**fields):
    return Problem(DoubleIntegrator(2, dt=0.1), GoalCost(), 6, **fields)


def control_set(previous=None, batch=(), steps=6, **fields):
    return ControlSet.of(problem(**fields), torch.zeros(*batch, 4).double(), steps, previous)


def wishes(*shape):
    return 3 * torch.randn(*shape, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_without_limits_everything_is_allowed():
    us = wishes(3)
    allowed = control_set(batch=(3,))
    assert allowed.is_box
    assert torch.equal(allowed.admissible(us), us)


def test_limits_are_a_box():
    us = wishes(3)
    allowed = control_set(batch=(3,), control_limits=(-1.0, tensor(0.5, 2.0)))
    assert allowed.is_box
    assert torch.equal(allowed.admissible(us), torch.minimum(us.clamp_min(-1.0), tensor(0.5, 2.0)))
    assert torch.equal(allowed.half_range, tensor(0.75, 1.5).expand(3, 6, 2))


@pytest.mark.parametrize("previous", [None, tensor(0.0, 0.0), tensor(-1.9, 2.0)])
@pytest.mark.parametrize("samples", [None, 4])
def test_rate_limits_follow_the_wish_as_fast_as_they_may(previous, samples):
    """One control at a time, in plain Python: rates of -3 and +5 per second are -0.3 and +0.5 per step."""
    allowed = control_set(previous, control_limits=(-2.0, 2.0), rate_limits=(-3.0, 5.0))
    us = wishes() if samples is None else wishes(samples)
    result = allowed.admissible(us)
    for wish, got in zip(us.reshape(-1, 6, 2), result.reshape(-1, 6, 2), strict=True):
        for i in range(2):
            u = None if previous is None else float(previous[i])
            for k in range(6):
                w = min(max(float(wish[k, i]), -2.0), 2.0)
                u = w if u is None else min(max(min(max(w, u - 0.3), u + 0.5), -2.0), 2.0)
                assert float(got[k, i]) == pytest.approx(u, abs=1e-12)
    torch.testing.assert_close(allowed.admissible(result), result, rtol=0, atol=1e-12)  # what is allowed stays


def test_the_rates_of_a_batch_and_a_step_are_its_own():
    rates = torch.rand(3, 6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    allowed = control_set(torch.zeros(3, 2).double(), (3,), rate_limits=(-rates, rates))
    result = allowed.admissible(wishes(3, 5).movedim(0, 0))
    steps = torch.cat([torch.zeros(3, 5, 1, 2).double(), result], dim=-2).diff(dim=-2).abs()
    assert (steps <= 0.1 * rates.unsqueeze(1) + 1e-12).all()
    torch.testing.assert_close(steps.amax(1), 0.1 * rates, rtol=0, atol=1e-9)  # wishes are far beyond them


VALUES = tensor([-1.0, 0.0], [0.0, 4.0], [1.0, -4.0], [1.0, 4.0])


@pytest.mark.parametrize("samples", [None, 7])
def test_discrete_controls_are_the_nearest_values_in_units_of_their_range(samples):
    allowed = control_set(control_values=VALUES)
    us = wishes() if samples is None else wishes(samples)
    result = allowed.admissible(us)
    clipped = torch.minimum(torch.maximum(us, VALUES.amin(0)), VALUES.amax(0))
    for wish, got in zip(clipped.reshape(-1, 2), result.reshape(-1, 2), strict=True):
        distances = [math.hypot((wish[0] - v[0]) / 1.0, (wish[1] - v[1]) / 4.0) for v in VALUES]
        assert got.tolist() == VALUES[distances.index(min(distances))].tolist()


def test_discrete_controls_under_rate_limits_take_the_nearest_value_within_reach():
    """Half a unit per step: from -1 to 1 one has to pass by 0, whatever one wishes."""
    values = tensor([-1.0], [-0.5], [0.0], [0.5], [1.0])
    one = Problem(DoubleIntegrator(dt=0.1), GoalCost(), 6, control_values=values, rate_limits=(-5.0, 5.0))
    allowed = ControlSet.of(one, torch.zeros(2).double(), 6, tensor(-1.0))
    up = allowed.admissible(torch.full((6, 1), 9.0).double())
    assert up.flatten().tolist() == [-0.5, 0.0, 0.5, 1.0, 1.0, 1.0]
    slow = ControlSet.of(
        Problem(DoubleIntegrator(dt=0.1), GoalCost(), 6, control_values=values, rate_limits=(-1.0, 1.0)),
        torch.zeros(2).double(), 6, tensor(-1.0),
    )  # fmt: skip
    assert slow.admissible(torch.full((6, 1), 9.0).double()).flatten().tolist() == [-1.0] * 6  # nothing within reach


def test_nothing_within_reach_means_staying():
    values = tensor([-1.0], [0.0], [1.0])
    one = Problem(DoubleIntegrator(dt=0.1), GoalCost(), 3, control_values=values, rate_limits=(-1.0, 1.0))
    for start in (-1.0, 0.0, 1.0):
        allowed = ControlSet.of(one, torch.zeros(2).double(), 3, tensor(start))
        assert allowed.admissible(torch.full((3, 1), -start - 0.5).double()).flatten().tolist() == [start] * 3


def test_a_rate_limit_on_one_side_only():
    values = tensor([-1.0], [0.0], [1.0])
    one = Problem(DoubleIntegrator(dt=1.0), GoalCost(), 3, control_values=values, rate_limits=(-0.8, math.inf))
    allowed = ControlSet.of(one, torch.zeros(2).double(), 3, tensor(1.0))
    assert allowed.admissible(tensor([-1.0], [-1.0], [-1.0])).flatten().tolist() == [1.0, 1.0, 1.0]
    allowed = ControlSet.of(one, torch.zeros(2).double(), 3, tensor(-1.0))
    assert allowed.admissible(tensor([1.0], [1.0], [1.0])).flatten().tolist() == [1.0, 1.0, 1.0]


def test_limits_that_close_are_foreseen():
    """The upper limit falls to 0 at step 3; at 0.25 per step one has to come down in time."""
    upper = tensor([1.0], [1.0], [1.0], [0.0], [0.0], [0.0])
    one = Problem(DoubleIntegrator(dt=1.0), GoalCost(), 6, control_limits=(-1.0, upper), rate_limits=(-0.25, 0.25))
    allowed = ControlSet.of(one, torch.zeros(2).double(), 6, tensor(0.5))
    us = allowed.admissible(torch.full((6, 1), 9.0).double())
    torch.testing.assert_close(us.flatten(), tensor(0.75, 0.5, 0.25, 0.0, 0.0, 0.0))
    assert not allowed.in_conflict(us)
    solution = solve(one, ICEM(), torch.zeros(2).double(), previous_control=tensor(0.0))
    assert float(solution.us.diff(dim=0).abs().max()) <= 0.25 + 1e-9


def test_limits_that_contradict_the_rates_are_an_error_and_a_start_out_of_reach_is_a_status():
    rising = Problem(DoubleIntegrator(dt=1.0), GoalCost(), 6, control_limits=(-1.0, 1.0), rate_limits=(0.5, 1.0))
    with pytest.raises(ValueError, match="control_limits and rate_limits leave no control at step 0"):
        solve(rising, ICEM(), torch.zeros(2).double())
    one = replace(rising, rate_limits=(-0.25, 0.25))
    x0, previous = torch.zeros(2, 2).double(), tensor([5.0], [0.5])
    solution = solve(one, ICEM(), x0, previous_control=previous, throw=False)
    assert [Status(int(code)).name for code in solution.status] == ["LIMITS_IN_CONFLICT", "ITERATION_LIMIT"]
    assert float(solution.us.abs().max()) <= 1.0
    with pytest.raises(SolveError, match="so far from the limits that the rate limits do not lead there in time"):
        solve(one, ICEM(), x0, previous_control=previous)
    with pytest.raises(ValueError, match="previous_control must be finite"):
        solve(one, ICEM(), x0, previous_control=previous * math.nan)


def test_integers_are_values_too():
    one = Problem(DoubleIntegrator(dt=0.1), GoalCost(), 3, control_values=torch.tensor([[-1], [0], [1]]))
    assert set(solve(one, ICEM(), torch.ones(2).double()).us.flatten().tolist()) <= {-1.0, 0.0, 1.0}
    with pytest.raises(ValueError, match="within control_limits"):
        replace(one, control_values=torch.tensor([[0], [1]]), control_limits=(0.5, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_at_the_very_limit_of_the_rate_is_within_reach(dtype):
    """0.1 + 0.1 * 2 is not 0.3 in binary."""
    values = torch.tensor([[0.1], [0.3], [0.5]])  # single precision, in a solve in double
    one = Problem(DoubleIntegrator(dt=0.1), GoalCost(), 2, control_values=values, rate_limits=(-2.0, 2.0))
    allowed = ControlSet.of(one, torch.zeros(2, dtype=dtype), 2, torch.tensor([0.1]))
    torch.testing.assert_close(
        allowed.admissible(torch.ones(2, 1, dtype=dtype)).flatten(), torch.tensor([0.3, 0.5], dtype=dtype)
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"control_values": VALUES, "control_limits": (-1.0, 1.0)}, "must be finite and within control_limits"),
        ({"control_values": VALUES * math.nan}, "must be finite"),
        (
            {"control_values": VALUES, "control_limits": (-5.0, torch.full((6, 2), 4.0).index_fill(0, torch.tensor(2), 0.0))},
            "within control_limits at every step",
        ),
        ({"control_values": torch.zeros(2, 3)}, r"control_values must be a tensor of shape \(k, 2\)"),
        ({"rate_limits": (1.0, -1.0)}, "rate_limits must satisfy lower <= upper"),
    ],
)  # fmt: skip
def test_fields_that_contradict_each_other(fields, text):
    with pytest.raises(ValueError, match=text):
        problem(**fields)


def test_a_previous_control_that_does_not_fit():
    with pytest.raises(ValueError, match=r"previous_control must broadcast to \(\*batch, m\) = \(3, 2\), got \(4, 2\)"):
        control_set(torch.zeros(4, 2), batch=(3,))


# In closed loop


def test_a_loop_keeps_the_rates_from_step_to_step():
    one = Problem(
        DoubleIntegrator(dt=0.1), GoalCost([0.0, 0.0], [1.0, 0.1], [1e-3]), 8, control_limits=(-2.0, 2.0),
        rate_limits=(-4.0, 6.0),
    )  # fmt: skip
    mpc, x = MPC(one, ICEM(num_samples=50)), tensor([1.0, 0.0], [-2.0, 1.0])
    state, us = mpc.init(x), []
    for _ in range(12):
        u, state = mpc.step(state, x)
        us.append(u)
        x = one.dynamics(x, u)
    change = torch.stack(us).diff(dim=0)
    assert float(change.min()) >= -0.4 - 1e-12
    assert float(change.max()) <= 0.6 + 1e-12
    assert float(change.abs().max()) > 0.39  # and makes use of them


def test_a_loop_gives_allowed_values_even_where_there_is_no_plan():
    values = tensor([-1.0], [0.4], [1.0])
    one = Problem(DoubleIntegrator(dt=0.1), GoalCost([0.0, 0.0], [1.0, 0.1], [1e-3]), 8, control_values=values)
    mpc, x = MPC(one, ICEM(num_samples=50)), tensor(1.0, 0.0)
    u, state = mpc.step(mpc.init(x), x * math.nan)
    assert float(u) == 0.4  # the value nearest to zero
    assert state.fallbacks == 1
    assert torch.equal(state.solution.controls_at(tensor(0.0, 0.1)), state.solution.us[:2])
    for _ in range(10):
        u, state = mpc.step(state, x)
        assert float(u) in values
        x = one.dynamics(x, u)


def test_where_there_is_no_plan_the_signal_is_what_is_given():
    one = Problem(DoubleIntegrator(dt=0.1), GoalCost(), 8, control_limits=(-1.0, 3.0))
    mpc = MPC(one, PredictiveSampling())
    u, state = mpc.step(mpc.init(2), torch.full((2, 2), math.nan).double())
    assert (u == 0).all()
    assert (state.solution.controls_at(tensor(0.0, 0.35)) == 0).all()
