"""What the numbers of actions stand for."""

import json

import pytest
import torch

from mbrl.policies import ContinuousActions, DiscreteActions
from mbrl.policies.action_space import action_space

INF = float("inf")


def continuous(lower, upper, dtype=torch.float64):
    return ContinuousActions(torch.tensor(lower, dtype=dtype), torch.tensor(upper, dtype=dtype))


LIMITS = continuous([-1.0, 2.0, -INF], [3.0, 2.5, INF])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_minus_one_is_the_lower_limit_and_one_the_upper(dtype):
    actions = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [0.0, 0.5, 7.0]], dtype=dtype)
    u = LIMITS.controls(actions)
    assert u.dtype == dtype
    assert u.tolist() == [[-1.0, 2.0, -1.0], [3.0, 2.5, 1.0], [1.0, 2.375, 7.0]]
    assert torch.equal(LIMITS.actions(u), actions)


def test_controls_are_clamped_where_there_are_limits():
    u = LIMITS.controls(torch.tensor([[-50.0, 50.0, -50.0], [1.001, -1.001, 1e30]]))
    assert u.tolist() == [[-1.0, 2.5, -50.0], [3.0, 2.0, pytest.approx(1e30)]]
    assert LIMITS.controls(torch.tensor([INF, -INF, 0.0])).tolist() == [3.0, 2.0, 0.0]
    assert bool(LIMITS.controls(torch.full((3,), float("nan"))).isnan().all())  # never hidden


def test_unclamped_controls_are_those_of_the_actions_anywhere():
    actions = torch.tensor([[-50.0, 1.5, 3.0], [0.3, 40.0, -7.0]], dtype=torch.float64)
    u = LIMITS.unclamped(actions)
    assert u.tolist() == [[-99.0, 2.625, 3.0], [pytest.approx(1.6), 12.25, -7.0]]
    torch.testing.assert_close(LIMITS.actions(u), actions, rtol=1e-14, atol=0)
    center, half = LIMITS.scale(actions.float())
    assert (center.tolist(), half.tolist()) == ([1.0, 2.25, 0.0], [2.0, 0.25, 1.0])
    assert (center.dtype, half.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("batch", [(), (1,), (0,), (4,), (2, 0), (2, 3)])
def test_there_and_back_on_any_batch(batch):
    actions = 2 * torch.rand(*batch, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    u = LIMITS.controls(actions)
    assert u.shape == (*batch, 3)
    torch.testing.assert_close(LIMITS.actions(u), actions, rtol=0, atol=1e-15)


def test_limits_that_single_precision_does_not_have_are_kept_in_double():
    space = continuous([-0.1], [0.1])
    u = space.controls(torch.tensor([[1.0], [-1.0]], dtype=torch.float64))
    assert u.tolist() == [[0.1], [-0.1]]


def test_limits_near_the_largest_number_do_not_overflow():
    huge = 1.5e308
    space = continuous([-huge], [huge])
    assert space.controls(torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64)).tolist() == [
        [huge],
        [0.0],
        [-huge],
    ]


def test_without_limits_action_and_control_are_the_same():
    space = continuous([-INF, -INF], [INF, INF])
    actions = torch.tensor([[-1e6, 1e-6]], dtype=torch.float64)
    assert torch.equal(space.controls(actions), actions)
    assert torch.equal(space.actions(actions), actions)


@pytest.mark.parametrize(
    ("lower", "upper", "sentence"),
    [
        ([0.0], [INF], "on both sides or on none"),
        ([-INF], [0.0], "on both sides or on none"),
        ([1.0], [1.0], "lower < upper"),
        ([2.0], [1.0], "lower < upper"),
        ([float("nan")], [1.0], "lower < upper"),
        ([0.0, 0.0], [1.0], "lower < upper"),
        (0.0, 1.0, "lower < upper"),
        ([[0.0]], [[1.0]], "lower < upper"),
    ],
)
def test_limits_that_are_none_are_refused(lower, upper, sentence):
    with pytest.raises(ValueError, match=sentence):
        continuous(lower, upper)


def test_numbers_that_are_no_tensors_are_refused():
    with pytest.raises(ValueError, match=r"tensors with lower < upper, got \[-1.0\]"):
        ContinuousActions([-1.0], [1.0])
    with pytest.raises(ValueError, match="finite tensor"):
        DiscreteActions([[1.0]])


VALUES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize("batch", [(), (0,), (5,), (2, 3)])
def test_finitely_many(batch):
    space = DiscreteActions(VALUES)
    numbers = torch.randint(4, batch, generator=torch.Generator().manual_seed(0))
    u = space.controls(numbers)
    assert u.shape == (*batch, 2)
    assert torch.equal(u, VALUES[numbers])
    back = space.actions(u)
    assert back.dtype == torch.int64
    assert torch.equal(back, numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_value_is_found(dtype):
    generator = torch.Generator().manual_seed(1)
    u = 2 * torch.randn(200, 2, generator=generator, dtype=dtype)
    distances = torch.stack([(u.double() - value).norm(dim=-1) for value in VALUES], dim=-1)
    assert torch.equal(DiscreteActions(VALUES).actions(u), distances.argmin(-1))


@pytest.mark.parametrize("values", [torch.zeros(0, 1), torch.zeros(3), torch.tensor([[INF]]), torch.zeros(2, 0)])
def test_values_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match="values must be a finite tensor, one row"):
        DiscreteActions(values)


def test_a_number_that_there_is_not():
    with pytest.raises(IndexError):
        DiscreteActions(VALUES).controls(torch.tensor([4]))


@pytest.mark.parametrize(
    "space",
    [LIMITS, continuous([-0.1], [1 / 3], torch.float32), continuous([-1 / 3], [2e-17]), DiscreteActions(VALUES / 3)],
)
def test_json_and_back_to_the_bit(space):
    config = json.loads(json.dumps(space.config(), allow_nan=False))
    again = action_space(config)
    assert type(again) is type(space)
    assert again.config() == space.config()
    assert again.control_dim == space.control_dim
    for mine, its in zip(space.bounds(), again.bounds(), strict=True):
        assert torch.equal(mine.double(), its)


def test_bounds():
    lower, upper = DiscreteActions(VALUES).bounds()
    assert (lower.tolist(), upper.tolist()) == ([-1.0, -1.0], [1.0, 2.0])
    assert LIMITS.bounds() == (LIMITS.lower, LIMITS.upper)


@pytest.mark.parametrize("config", [{}, {"lower": [0.0]}, {"values": [[0.0]], "lower": [0.0]}, {"upper": [0.0]}])
def test_a_config_of_none_is_refused(config):
    with pytest.raises(ValueError, match="an action space has values, or lower and upper"):
        action_space(config)
