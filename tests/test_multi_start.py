"""Many starts: a double well whose minima are roots of a cubic, batches, limits, reports, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dynamics import LinearDynamics, Pendulum, RandomizedWorlds
from planners import (
    DDP,
    LQR,
    FunctionCost,
    GoalCost,
    GradientShooting,
    KnotNoise,
    Problem,
    QuadraticCost,
    SolveError,
    StateInequality,
    WhiteNoise,
    multi_start,
    solve,
)

TILT, EFFORT = 0.3, 0.1


def double_well(**fields) -> Problem:
    """One step to y = x0 + u; the cost of y has two valleys, the left one deeper."""
    step = LinearDynamics(torch.eye(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64), dt=1.0)
    cost = FunctionCost(
        lambda x, u, t: 0.5 * EFFORT * u.square().sum(-1),
        lambda x: ((x.square() - 1.0).square() + TILT * x).sum(-1),
    )
    return Problem(step, cost, 1, **fields)


def minima(x0: float) -> list[tuple[float, float]]:
    """(cost, y) of the local minima, the best first: roots of 4 y^3 - (4 - r) y + tilt - r x0 with positive curvature."""
    roots = np.roots([4.0, 0.0, EFFORT - 4.0, TILT - EFFORT * x0])
    real = [float(y.real) for y in roots if abs(y.imag) < 1e-9 and 12.0 * y.real**2 > 4.0 - EFFORT]
    return sorted(((y**2 - 1.0) ** 2 + TILT * y + 0.5 * EFFORT * (y - x0) ** 2, y) for y in real)


@pytest.mark.parametrize("planner", [DDP(), GradientShooting()], ids=["DDP", "gradient shooting"])
@pytest.mark.parametrize("seed", range(3))
def test_both_valleys_are_found_and_the_deeper_one_is_chosen(planner, seed):
    x0 = torch.tensor([0.2], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    found = multi_start(double_well(), planner, x0, starts=24, spread=2.0, generator=generator)
    truth = minima(0.2)
    basins = found.basins()
    assert [basin.cost for basin in basins] == pytest.approx([cost for cost, _ in truth], rel=1e-8)
    assert sum(basin.starts for basin in basins) == 24
    assert float(found.best.xs[-1]) == pytest.approx(truth[0][1], abs=1e-6)
    assert float(found.best.cost) == pytest.approx(truth[0][0], rel=1e-8)
    assert found.best.us.shape == (1, 1)
    starts = (found.solutions.xs[:, -1, 0] < 0).long()  # the left valley is the deeper one
    assert torch.equal(found.labels, 1 - starts)


def test_each_problem_of_a_batch_has_basins_of_its_own():
    x0 = torch.tensor([[0.2], [-0.4], [40.0]], dtype=torch.float64)  # from far away only one valley is left
    found = multi_start(double_well(), DDP(), x0, starts=16, spread=2.0)
    assert found.labels.shape == (3, 16)
    for i in range(3):
        truth = minima(float(x0[i]))
        assert [basin.cost for basin in found.basins(i)] == pytest.approx([cost for cost, _ in truth], rel=1e-7)
        assert float(found.best.xs[i, -1]) == pytest.approx(truth[0][1], abs=1e-5)
    assert len(minima(40.0)) == 1
    with pytest.raises(ValueError, match="the batch has 1 axes, got 0 numbers"):
        found.basins()


def test_the_starts_are_solved_as_they_are_one_by_one():
    pendulum = Pendulum(0.1)
    cost = GoalCost(0.0, [1.0, 0.1], [0.05], [10.0, 1.0], angles=[0])
    problem = Problem(pendulum, cost, 8, control_limits=(-4.0, 4.0))
    x0 = torch.tensor([[3.0, 0.0], [0.5, -1.0]], dtype=torch.float64)
    guesses = 2.0 * torch.randn(2, 3, 8, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = multi_start(problem, DDP(), x0, controls=guesses)
    for i in range(2):
        for k in range(3):
            us = guesses[i, k]
            init = replace(solve(problem, DDP(max_iterations=1), x0[i]), us=us, xs=pendulum.rollout(x0[i], us))
            alone = solve(problem, DDP(), x0[i], init=init)
            torch.testing.assert_close(found.solutions.cost[i, k], alone.cost, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.best.cost, found.solutions.cost.amin(-1))
    torch.testing.assert_close(found.best.cost, problem.trajectory_cost(found.best.xs, found.best.us))


def test_the_first_start_is_the_plan_without_noise():
    problem = double_well()
    x0 = torch.tensor([[-0.2], [0.3]], dtype=torch.float64)
    alone = solve(problem, DDP(), x0)
    torch.testing.assert_close(multi_start(problem, DDP(), x0, starts=1).best.cost, alone.cost)
    again = multi_start(problem, DDP(), x0, starts=4, spread=0.0, init=alone)
    torch.testing.assert_close(again.solutions.cost, alone.cost.unsqueeze(-1).expand(2, 4))


def test_limits_goals_and_worlds_of_each_element_are_those_of_all_its_starts():
    values = {"mass": torch.tensor([0.5, 1.0, 2.0]).double()}
    goals = torch.tensor([0.3, 0.6, 0.9]).double().reshape(3, 1, 1) * torch.tensor([1.0, 0.0]).double()
    cost = GoalCost([0.0, 0.0], [1.0, 0.1], [0.05]).with_reference(goals.expand(3, 9, 2))
    limit = torch.tensor([1.0, 2.0, 5.0]).double().reshape(3, 1, 1)
    problem = Problem(RandomizedWorlds(Pendulum(0.1), **values), cost, 8, control_limits=(-limit, limit))
    x0 = torch.tensor([[0.4, 0.0]] * 3, dtype=torch.float64)
    found = multi_start(problem, DDP(), x0, starts=5)
    assert bool((found.solutions.us.abs() <= limit.unsqueeze(-3) + 1e-12).all())
    torch.testing.assert_close(found.best.cost, solve(problem, DDP(), x0).cost, rtol=1e-6, atol=1e-8)
    assert found.best.problem is problem


def test_constraints_and_what_belongs_to_them_are_chosen_too():
    y = minima(0.2)[0][1]
    forbidden = StateInequality(lambda x: -x, name="right")  # the deeper valley is closed
    problem = double_well(terminal_constraints=(forbidden,))
    x0 = torch.tensor([0.2], dtype=torch.float64)
    found = multi_start(problem, DDP(), x0, starts=6, spread=2.0)
    assert y < 0 < float(found.best.xs[-1])
    assert float(found.best.cost) == pytest.approx(minima(0.2)[1][0], rel=1e-6)
    assert found.best.violations["right"].shape == ()
    assert found.best.multipliers[1].shape == (1,)
    assert found.best.certificate.stationarity.shape == ()


def test_plans_that_cannot_be_used_are_in_no_basin():
    walled = double_well(terminal_constraints=(StateInequality(lambda x: 1.0 + x.square(), name="everywhere"),))
    x0 = torch.tensor([[0.2]], dtype=torch.float64)
    with pytest.raises(SolveError, match="everywhere"):
        multi_start(walled, DDP(max_iterations=5), x0, starts=3)
    found = multi_start(walled, DDP(max_iterations=5), x0, starts=3, throw=False)
    assert found.basins(0) == []
    assert found.labels.tolist() == [[-1, -1, -1]]
    assert "0 basins" in str(found)
    assert "3 infeasible" in str(found)


@pytest.mark.parametrize("noise", [WhiteNoise(), KnotNoise(3), None])
def test_draws_are_within_limits_and_equal_for_equal_seeds(noise):
    problem = Problem(Pendulum(0.1), GoalCost(0.0, 1.0, 0.1), 10, control_limits=(-1.0, 1.0))
    x0 = torch.tensor([0.5, 0.0], dtype=torch.float64)
    found, again = (multi_start(problem, DDP(max_iterations=2), x0, starts=4, noise=noise) for _ in range(2))
    assert torch.equal(found.solutions.us, again.solutions.us)
    assert float(found.solutions.us.abs().max()) <= 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_and_empty_batches(dtype):
    found = multi_start(double_well(), DDP(), torch.zeros(0, 1, dtype=dtype), starts=3)
    assert found.best.us.shape == (0, 1, 1)
    assert found.labels.shape == (0, 3)
    assert "batch (0,), 3 starts" in str(found)
    one = multi_start(double_well(), DDP(), torch.full((1, 1), 0.2, dtype=dtype), starts=8, spread=2.0)
    assert one.best.us.dtype == dtype
    assert len(one.basins(0)) == 2


def test_the_report_names_basins_starts_and_statuses():
    text = str(multi_start(double_well(), DDP(), torch.tensor([0.2], dtype=torch.float64), starts=24, spread=2.0))
    lines = text.splitlines()
    assert "24 starts" in lines[0]
    assert lines[1] == "2 basins"
    assert all("converged" in line for line in lines[2:4])
    many = str(multi_start(double_well(), DDP(), torch.zeros(3, 4, 1, dtype=torch.float64), starts=2))
    assert "problem 0, 0: " in many
    assert "and 4 more problems" in many


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"starts": 0}, "starts must be an integer of at least 1, got 0"),
        ({"spread": -1.0}, "spread must be a number of at least 0"),
        ({"tolerance": math.nan}, "tolerance must be a number of at least 0"),
        ({"controls": torch.zeros(3, 2, 1)}, "controls must broadcast"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        multi_start(double_well(), DDP(), torch.zeros(1, dtype=torch.float64), **arguments)


def test_an_infinite_horizon_and_another_state_are_refused():
    linear = LinearDynamics(torch.eye(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64), dt=1.0)
    forever = Problem(linear, QuadraticCost(torch.eye(1), torch.eye(1)), math.inf)
    with pytest.raises(ValueError, match=r"got horizon=math\.inf"):
        multi_start(forever, LQR(), torch.zeros(1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"x0 must be a floating-point tensor of shape \(\*batch, 1\)"):
        multi_start(double_well(), DDP(), torch.zeros(2, dtype=torch.float64))
