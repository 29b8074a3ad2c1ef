"""MPPI: its weights in closed form and at the ends of the number range, its update, its configuration."""

import math

import pytest
import torch

from dynamics import LinearDynamics
from planners import MPPI, FunctionCost, Problem, solve
from planners.sampling.mppi import standardized_weights


def tensor(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def test_the_weights_are_the_softmax_of_standardized_costs():
    costs = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    standard = (costs - costs.mean(-1, keepdim=True)) / costs.std(-1, correction=0, keepdim=True)
    torch.testing.assert_close(standardized_weights(costs, 0.3), torch.softmax(-standard / 0.3, dim=-1))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
@pytest.mark.parametrize("offset", [0.0, -5.0, 300.0])
def test_scale_and_offset_of_the_cost_do_not_matter(scale, offset):
    costs = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = scale * (costs + offset)
    torch.testing.assert_close(
        standardized_weights(moved, 0.1), standardized_weights(costs, 0.1), rtol=1e-9, atol=1e-12
    )


def test_costs_that_are_not_finite_weigh_nothing_and_count_for_nothing():
    costs = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = torch.cat([tensor(math.inf), costs, tensor(math.nan, -math.inf, math.inf)])
    weights = standardized_weights(mixed, 0.5)
    assert (weights[[0, 21, 22, 23]] == 0).all()
    torch.testing.assert_close(weights[1:21], standardized_weights(costs, 0.5))
    assert (standardized_weights(tensor(math.inf, math.nan), 0.5) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_costs_neither_overflow_nor_blind(dtype):
    largest = torch.finfo(dtype).max
    for bad in (1e20, 0.1 * largest, largest):
        weights = standardized_weights(torch.tensor([1.0, 2.0, bad, bad], dtype=dtype), 0.1)
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-6)
        assert (weights[:2] > 0.49).all()
        assert (weights[2:] < 1e-4).all()
    ends = standardized_weights(torch.tensor([-largest, largest], dtype=dtype), 0.1)
    assert float(ends[0]) == pytest.approx(1.0, abs=1e-6)


def test_equal_costs_weigh_equally():
    torch.testing.assert_close(standardized_weights(tensor(3.0, 3.0, math.inf, 3.0), 0.1), tensor(1, 1, 0, 1) / 3)


def test_a_model_about_to_diverge_does_not_spoil_the_plan():
    """Above 2 the cost is next to the largest number: such candidates weigh nothing, those below equally beside them."""
    for huge in (1e25, 3e38):
        cost = FunctionCost(lambda x, u, t, huge=huge: torch.where(u[..., 0] > 2, huge, (u[..., 0] - 1.5).square()))
        eye = torch.eye(1)
        problem = Problem(LinearDynamics(eye, eye), cost, 1, control_limits=(1.0, 3.0))
        plan = None
        for seed in range(10):
            generator = torch.Generator().manual_seed(seed)
            plan = solve(problem, MPPI(std=0.3), torch.zeros(1), init=plan, generator=generator)
            assert float(plan.cost) < 0.25
            assert 1.0 <= float(plan.warm_start) <= 2.0


def test_the_update_is_the_weighted_mean():
    candidates = torch.randn(7, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    costs = torch.rand(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = standardized_weights(costs, 0.1)
    expected = sum(w * c for w, c in zip(weights, candidates, strict=True))
    torch.testing.assert_close(MPPI().update(torch.zeros(4, 2).double(), candidates, costs), expected)
    unchanged = MPPI().update(torch.ones(4, 2).double(), candidates, torch.full((7,), math.inf).double())
    assert torch.equal(unchanged, torch.ones(4, 2).double())


def test_towards_zero_temperature_the_best_candidate_alone_counts():
    candidates = torch.randn(7, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    costs = tensor(3.0, 1.0, 0.5, 2.0, 9.0, 4.0, 0.6)
    torch.testing.assert_close(MPPI(temperature=1e-4).update(candidates[0], candidates, costs), candidates[2])


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"std": 0.0}, {"temperature": math.nan}, {"std": -1.0}])
def test_configuration_is_checked(fields):
    with pytest.raises(ValueError, match="need temperature > 0 and std > 0"):
        MPPI(**fields)
