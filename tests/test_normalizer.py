"""Running statistics against numpy on everything at once."""

import copy

import numpy as np
import pytest
import torch

from mbrl import NetworkSettings, Policy, RunningNormalizer
from mbrl.policies import ContinuousActions
from mbrl.policies.normalizer import moments


def rows(count, *, seed=0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    return offset + scale * torch.randn(count, 3, generator=generator, dtype=torch.float64)


def require_statistics(normalizer, y, *, rtol=1e-12):
    y = np.asarray(y, dtype=np.float64)
    assert float(normalizer.count) == len(y)
    np.testing.assert_allclose(normalizer.mean, y.mean(0), rtol=rtol, atol=rtol * np.abs(y).max())
    np.testing.assert_allclose(normalizer.variance, y.var(0), rtol=rtol)


@pytest.mark.parametrize("cuts", [(), (1,), (1, 2, 3), (999,), (10, 10, 500), (0, 1000), (137, 400, 401)])
def test_any_split_gives_the_statistics_of_everything(cuts):
    y = rows(1000)
    normalizer = RunningNormalizer(3)
    for part in torch.tensor_split(y, cuts):  # some of them empty
        normalizer.update(part)
    require_statistics(normalizer, y)


def test_row_by_row_and_in_batches_of_any_shape():
    y = rows(60)
    singly, batched = RunningNormalizer(3), RunningNormalizer(3)
    for row in y:
        singly.update(row)
    batched.update(y.reshape(3, 4, 5, 3))
    for normalizer in (singly, batched):
        require_statistics(normalizer, y)


def test_statistics_of_two_normalizers_are_merged():
    y = rows(500)
    first, second = RunningNormalizer(3), RunningNormalizer(3)
    first.update(y[:170])
    second.update(y[170:])
    first.merge(second.count, second.mean, second.variance)
    require_statistics(first, y)


def test_nothing_is_counted_in_without_a_change():
    normalizer = RunningNormalizer(3)
    normalizer.update(rows(0))
    normalizer.merge(torch.tensor(0.0), torch.full((3,), float("nan")), torch.full((3,), float("nan")))
    assert float(normalizer.count) == 0
    y = torch.tensor([[0.5, -1.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(normalizer(y), y, rtol=1e-8, atol=0)
    normalizer.update(y)
    before = copy.deepcopy(normalizer.state_dict())
    normalizer.update(rows(0))
    assert all(torch.equal(value, before[name]) for name, value in normalizer.state_dict().items())


def test_a_huge_offset_leaves_the_digits_of_the_variance():
    """Sums of squares would leave none: 1e16 has no digits after the point."""
    y = rows(3000, offset=1e8)
    normalizer = RunningNormalizer(3)
    for part in y.split(7):
        normalizer.update(part)
    # each value is rounded to 1.5e-8 already, and y - mean has those 1.5e-8 of sigma = 0.1
    require_statistics(normalizer, y, rtol=1e-7)
    less = RunningNormalizer(3)
    y = rows(3000, offset=1e4)  # sigma = 0.1 of 1e8 would be a column that does not vary
    less.update(y)
    z = less(y)
    np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(z.std(0, correction=0), 1.0, rtol=1e-6)


def test_single_precision_comes_in_and_double_goes_out():
    y = rows(200).float()
    normalizer = RunningNormalizer(3)
    normalizer.update(y)
    require_statistics(normalizer, y.numpy())
    assert normalizer(y).dtype == torch.float64
    torch.testing.assert_close(normalizer(y), normalizer(y.double()), rtol=0, atol=0)


def test_the_formula():
    y = rows(300)
    normalizer = RunningNormalizer(3)
    normalizer.update(y)
    expected = (y.numpy() - y.numpy().mean(0)) / np.sqrt(y.numpy().var(0) + 1e-8)
    np.testing.assert_allclose(normalizer(y), expected, rtol=1e-11, atol=1e-12)


def test_a_constant_column_is_zero_and_anything_else_is_clipped():
    normalizer = RunningNormalizer(2, clip=5.0)
    y = torch.tensor([[7.25, 0.0], [7.25, 2.0]])
    normalizer.update(y)
    np.testing.assert_allclose(normalizer(y), [[0.0, -1.0], [0.0, 1.0]], atol=1e-7)
    assert normalizer(torch.tensor([80.0, 1e30])).tolist() == [5.0, 5.0]
    assert normalizer(torch.tensor([-70.0, -float("inf")])).tolist() == [-5.0, -5.0]


@pytest.mark.parametrize(("size", "spread", "varies"), [(0.3, 1e-9, False), (1e4, 1e-3, False), (1e4, 0.1, True)])
def test_rounding_errors_of_a_column_are_not_blown_up(size, spread, varies):
    """Of a column that does not vary a change is seen as it is, whether counted in at once or row by row."""
    y = size + spread * torch.tensor([[-1.0], [1.0]]).double().repeat(10, 1)
    at_once, one_by_one = RunningNormalizer(1), RunningNormalizer(1)
    at_once.update(y)
    for row in y:
        one_by_one.update(row)
    for normalizer in (at_once, one_by_one):
        change = normalizer(torch.tensor([size + 5e-4], dtype=torch.float64))
        assert float(change) == pytest.approx(5e-4 / spread if varies else 5e-4, rel=1e-6)


def test_one_row_has_no_variance():
    normalizer = RunningNormalizer(1)
    normalizer.update(torch.tensor([[3.0]]))
    assert (float(normalizer.mean), float(normalizer.variance), float(normalizer.count)) == (3.0, 0.0, 1.0)
    normalizer.update(torch.tensor([[5.0]]))
    assert (float(normalizer.mean), float(normalizer.variance), float(normalizer.count)) == (4.0, 1.0, 2.0)


def test_moments_are_those_of_numpy():
    y = rows(100)
    count, mean, variance = moments(y.float())
    assert (float(count), mean.dtype, variance.dtype) == (100.0, torch.float64, torch.float64)
    np.testing.assert_allclose(mean, y.float().double().numpy().mean(0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(variance, y.float().double().numpy().var(0), rtol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_changes_nothing(bad):
    normalizer = RunningNormalizer(2)
    normalizer.update(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    before = copy.deepcopy(normalizer.state_dict())
    with pytest.raises(ValueError, match="must be finite"):
        normalizer.update(torch.tensor([[1.0, 2.0], [bad, 2.0]]))
    assert all(torch.equal(value, before[name]) for name, value in normalizer.state_dict().items())


def test_other_columns_are_refused():
    with pytest.raises(ValueError, match=r"2 columns, got values \(4, 1\)"):
        RunningNormalizer(2).update(torch.zeros(4, 1))


def test_acting_and_differentiating_leave_the_statistics_alone():
    limits = (torch.tensor([-1.0]), torch.tensor([1.0]))
    policy = Policy(3, ContinuousActions(*limits), NetworkSettings(hidden=(8,)))
    policy.normalizer.update(rows(50))
    before = copy.deepcopy(policy.normalizer.state_dict())
    policy.train()
    y = rows(20, seed=1)
    policy.act(y, policy.init(20), deterministic=False)
    policy.distribution(y).entropy().sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in policy.normalizer.state_dict().items())
    assert not list(policy.normalizer.parameters())


def test_it_stays_in_double_precision_when_its_policy_changes_dtype():
    normalizer = RunningNormalizer(3)
    normalizer.update(rows(100, offset=1e8))
    before = copy.deepcopy(normalizer.state_dict())
    normalizer.float().half().to("cpu", torch.float32)
    assert all(torch.equal(value, before[name]) for name, value in normalizer.state_dict().items())
