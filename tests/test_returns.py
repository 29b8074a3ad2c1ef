"""Returns and advantages against the sums of their definitions."""

import numpy as np
import pytest
import torch

from mbrl.on_policy.returns import generalized_advantages, n_step_returns, rewards_to_go

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def draw(T, N, seed, dtype=torch.float64, share=0.15):
    """Consistent experience: the next value is the value of the next step where the episode goes on."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values, last_values = (torch.randn(T, N, generator=generator, dtype=dtype) for _ in range(3))
    terminated, truncated, invalid = (torch.rand(T, N, generator=generator) < share for _ in range(3))
    if T > 1:
        terminated[T // 2, 0] = truncated[T // 2, 0] = True
    ended = terminated | truncated
    next_values = torch.where(ended, last_values, torch.cat([values[1:], last_values[-1:]]))
    return rewards, values, next_values, terminated, ended, ~invalid


def steps_that_count(t, T, ended, valid):
    """K(t)."""
    count = 0
    while t < T and valid[t]:
        count += 1
        if ended[t]:
            break
        t += 1
    return count


def defined(data, j, discount, trace_decay, n):
    """Advantages by Schulman's sum, lambda-returns by Sutton and Barto's mixture, n-step and whole returns of one world."""
    rewards, values, next_values, terminated, ended, valid = (tensor[:, j].tolist() for tensor in data)
    T = len(rewards)

    def n_step(t, m):
        last = t + m - 1
        beyond = 0.0 if terminated[last] else discount**m * next_values[last]
        return sum(discount**k * rewards[t + k] for k in range(m)) + beyond

    advantages, mixtures, some, whole = [], [], [], []
    for t in range(T):
        K = steps_that_count(t, T, ended, valid)
        errors = [n_step(s, 1) - values[s] for s in range(t, t + K)]
        advantages.append(sum((discount * trace_decay) ** step * error for step, error in enumerate(errors)))
        weights = [(1 - trace_decay) * trace_decay ** (m - 1) for m in range(1, K)] + [trace_decay ** max(K - 1, 0)]
        mixtures.append(sum(w * n_step(t, m) for m, w in enumerate(weights, start=1)) if K else values[t])
        some.append(n_step(t, min(n, K)) if K else 0.0)
        whole.append(n_step(t, K) if K else 0.0)
    return advantages, mixtures, some, whole


def assert_close(found, expected):
    assert found.shape == expected.shape
    tolerance = TOLERANCE[found.dtype]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("discount", "trace_decay"), [(0.99, 0.95), (1.0, 0.3), (0.6, 1.0), (0.9, 0.0), (0.0, 0.9)])
@pytest.mark.parametrize("T", [1, 2, 7, 16, 33])
def test_definitions(T, discount, trace_decay, dtype):
    N = 6
    data = draw(T, N, seed=T, dtype=dtype)
    rewards, _, next_values, terminated, ended, valid = data
    if T == 33:
        assert bool(
            (terminated & ended).any() and (ended & ~terminated).any() and (valid[:-1] & ~valid[1:] & ~ended[:-1]).any()
        )
    for n in {1, 3, T, T + 4}:
        worlds = [defined(data, j, discount, trace_decay, n) for j in range(N)]
        advantages, mixtures, some, whole = torch.tensor(worlds, dtype=torch.float64).permute(1, 2, 0)
        options = {"discount": discount, "valid": valid}
        found = generalized_advantages(*data[:5], trace_decay=trace_decay, **options)
        assert found.dtype == dtype
        assert_close(found, advantages)
        assert_close(found + data[1], mixtures)
        assert_close(n_step_returns(rewards, next_values, terminated, ended, n=n, **options), some)
        assert_close(rewards_to_go(rewards, next_values, terminated, ended, **options), whole)


def test_without_a_mask_all_transitions_count():
    rewards, values, next_values, terminated, ended, _ = draw(20, 3, seed=5)
    everything = torch.ones_like(ended)
    data, short = (rewards, values, next_values, terminated, ended), (rewards, next_values, terminated, ended)
    options = {"discount": 0.9, "trace_decay": 0.8}
    assert torch.equal(
        generalized_advantages(*data, **options), generalized_advantages(*data, **options, valid=everything)
    )
    assert torch.equal(rewards_to_go(*short, discount=0.9), rewards_to_go(*short, discount=0.9, valid=everything))
    some = n_step_returns(*short, n=4, discount=0.9)
    assert torch.equal(some, n_step_returns(*short, n=4, discount=0.9, valid=everything))


def test_limits_of_the_trace():
    """lambda = 1 is the whole return minus the value, lambda = 0 the error of one step."""
    rewards, values, next_values, terminated, ended, valid = data = draw(300, 4, seed=0, share=0.02)
    for trace_decay, returns in (
        (1.0, rewards_to_go(rewards, next_values, terminated, ended, discount=0.97, valid=valid)),
        (0.0, n_step_returns(rewards, next_values, terminated, ended, n=1, discount=0.97, valid=valid)),
    ):
        found = generalized_advantages(*data[:5], discount=0.97, trace_decay=trace_decay, valid=valid)
        assert_close(found, torch.where(valid, returns - values, 0.0))


@pytest.mark.parametrize("trace_decay", [0.0, 0.5, 1.0])
def test_a_truncated_chain_is_worth_what_the_endless_one_is(trace_decay):
    """Reward 1 forever, cut every ten steps and in the middle of the last episode: nothing is better than expected."""
    T, discount = 35, 0.875
    ones = torch.ones(T, 1, dtype=torch.float64)
    values = ones / (1 - discount)  # 8, exact
    truncated = (torch.arange(T) % 10 == 9).unsqueeze(-1)
    never = torch.zeros_like(truncated)
    options = {"discount": discount, "trace_decay": trace_decay}
    assert torch.equal(generalized_advantages(ones, values, values, never, truncated, **options), 0 * ones)
    assert torch.equal(rewards_to_go(ones, values, never, truncated, discount=discount), values)
    assert torch.equal(n_step_returns(ones, values, never, truncated, n=4, discount=discount), values)
    merged = generalized_advantages(ones, values, values, truncated, truncated, **options)
    assert float(merged[9]) == -discount * 8


def test_hand_computed():
    """Terminated after the second step, truncated after the fourth, cut off after the fifth; gamma 1/2, lambda 1/2."""
    rewards = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    values = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0])
    next_values = torch.tensor([20.0, 99.0, 40.0, 60.0, 80.0])
    terminated = torch.tensor([False, True, False, False, False])
    ended = torch.tensor([False, True, False, True, False])
    # errors 1 + 10 - 10, 2 - 20, 3 + 20 - 30, 4 + 30 - 40, 5 + 40 - 50
    found = generalized_advantages(rewards, values, next_values, terminated, ended, discount=0.5, trace_decay=0.5)
    assert found.tolist() == [1 - 18 / 4, -18, -7 - 6 / 4, -6, -5]
    whole = rewards_to_go(rewards, next_values, terminated, ended, discount=0.5)
    assert whole.tolist() == [1 + 2 / 2, 2, 3 + 4 / 2 + 60 / 4, 4 + 60 / 2, 5 + 80 / 2]
    valid = torch.tensor([True, True, True, False, True])
    found = generalized_advantages(
        rewards, values, next_values, terminated, ended, discount=0.5, trace_decay=0.5, valid=valid
    )
    assert found.tolist() == [1 - 18 / 4, -18, -7, 0, -5]
    whole = rewards_to_go(rewards, next_values, terminated, ended, discount=0.5, valid=valid)
    assert whole.tolist() == [2, 2, 3 + 40 / 2, 0, 45]


def test_a_step_with_both_flags_is_terminated():
    rewards, values, next_values, _, _, _ = draw(12, 3, seed=2)
    flags = torch.zeros(12, 3, dtype=torch.bool)
    flags[4] = True
    options = {"discount": 0.9, "trace_decay": 0.7}
    both = generalized_advantages(rewards, values, next_values, flags, flags, **options)
    assert_close(both[4], rewards[4] - values[4])
    # an end that only the first flag tells of is one
    assert torch.equal(both, generalized_advantages(rewards, values, next_values, flags, flags & False, **options))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_do_not_count_are_not_read(bad):
    """Of transitions that are not valid, and of the observation after a termination."""
    rewards, values, next_values, terminated, ended, valid = draw(64, 5, seed=3)
    spoiled = [rewards.masked_fill(~valid, bad), next_values.masked_fill(terminated | ~valid, bad), terminated, ended]
    options = {"discount": 0.9, "valid": valid}
    clean = (rewards, next_values, terminated, ended)
    assert torch.equal(rewards_to_go(*spoiled, **options), rewards_to_go(*clean, **options))
    assert torch.equal(n_step_returns(*spoiled, n=5, **options), n_step_returns(*clean, n=5, **options))
    expected = generalized_advantages(rewards, values, *clean[1:], trace_decay=0.8, **options)
    spoiled.insert(1, values.masked_fill(~valid, bad))
    assert torch.equal(generalized_advantages(*spoiled, trace_decay=0.8, **options), expected)


def test_worlds_do_not_depend_on_each_other_or_on_the_batch_shape():
    data = draw(100, 6, seed=4)
    options = {"discount": 0.99, "trace_decay": 0.9}
    together = generalized_advantages(*data[:5], **options, valid=data[5])
    for j in range(6):
        alone = [tensor[:, j] for tensor in data]
        assert torch.equal(generalized_advantages(*alone[:5], **options, valid=alone[5]), together[:, j])
    boxed = [tensor.reshape(100, 2, 3) for tensor in data]
    assert torch.equal(generalized_advantages(*boxed[:5], **options, valid=boxed[5]), together.reshape(100, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_steps_at_all(dtype):
    numbers, flags = torch.empty(0, 3, dtype=dtype), torch.empty(0, 3, dtype=torch.bool)
    data = (numbers, numbers, flags, flags)
    for valid in (None, flags):
        for found in (
            generalized_advantages(numbers, *data, discount=0.9, trace_decay=0.9, valid=valid),
            rewards_to_go(*data, discount=0.9, valid=valid),
            n_step_returns(*data, n=2, discount=0.9, valid=valid),
        ):
            assert found.shape == (0, 3)
            assert found.dtype == dtype


def test_arguments_are_left_alone():
    data = draw(50, 2, seed=6)
    before = [tensor.clone() for tensor in data]
    generalized_advantages(*data[:5], discount=0.9, trace_decay=0.9, valid=data[5])
    short = (data[0], *data[2:5])
    rewards_to_go(*short, discount=0.9, valid=data[5])
    n_step_returns(*short, n=3, discount=0.9, valid=data[5])
    assert all(torch.equal(one, other) for one, other in zip(data, before, strict=True))


def test_derivatives():
    rewards, values, next_values, terminated, ended, valid = draw(6, 2, seed=7)
    flags = {"terminated": terminated, "ended": ended, "valid": valid, "discount": 0.9}
    inputs = [tensor.requires_grad_() for tensor in (rewards, values, next_values)]
    assert torch.autograd.gradcheck(lambda *numbers: generalized_advantages(*numbers, **flags, trace_decay=0.8), inputs)
    assert torch.autograd.gradcheck(lambda *numbers: rewards_to_go(*numbers, **flags), [rewards, next_values])
    assert torch.autograd.gradcheck(lambda *numbers: n_step_returns(*numbers, **flags, n=3), [rewards, next_values])


def test_types_of_the_numbers_are_promoted():
    rewards, values, next_values, terminated, ended, _ = draw(5, 2, seed=8)
    found = generalized_advantages(
        rewards, values.float(), next_values.float(), terminated, ended, discount=0.9, trace_decay=0.9
    )
    assert found.dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.zeros(5, 3)}, r"values must have the shape of rewards, .* = \(5, 2\), got \(5, 3\)"),
        ({"next_values": torch.zeros(2)}, r"next_values must have the shape of rewards, .* got \(2,\)"),
        ({"terminated": torch.zeros(5, 1, dtype=torch.bool)}, r"terminated must have the shape of rewards"),
        ({"ended": torch.zeros(6, 2, dtype=torch.bool)}, r"ended must have the shape of rewards"),
        ({"valid": torch.ones(5, dtype=torch.bool)}, r"valid must have the shape of rewards"),
        ({"ended": torch.zeros(5, 2)}, r"ended must be a tensor of bool, got torch.float32; ended > 0"),
        (
            {"rewards": torch.zeros(5, 2, dtype=torch.int64)},
            r"rewards must be a floating-point tensor, got torch.int64",
        ),
        ({"rewards": torch.tensor(1.0)}, r"rewards must have shape \(T, \*batch\), time first, got a scalar"),
        ({"discount": 1.01}, r"discount must be in \[0, 1\], got 1.01"),
        ({"discount": float("nan")}, r"discount must be in \[0, 1\], got nan"),
        ({"trace_decay": -0.1}, r"trace_decay must be in \[0, 1\], got -0.1"),
    ],
)
def test_errors(changes, message):
    names = ("rewards", "values", "next_values", "terminated", "ended", "valid")
    arguments = dict(zip(names, draw(5, 2, seed=9), strict=True)) | {"discount": 0.9, "trace_decay": 0.9} | changes
    with pytest.raises(ValueError, match=message):
        generalized_advantages(**arguments)
    del arguments["trace_decay"], arguments["values"]
    if not {"trace_decay", "values"} & set(changes):
        with pytest.raises(ValueError, match=message):
            rewards_to_go(**arguments)
        with pytest.raises(ValueError, match=message):
            n_step_returns(**arguments, n=3)


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_number_of_steps_that_is_none(n):
    rewards, _, next_values, terminated, ended, _ = draw(5, 2, seed=9)
    with pytest.raises(ValueError, match="n must be an integer of at least 1, the number of steps, got"):
        n_step_returns(rewards, next_values, terminated, ended, n=n, discount=0.9)
