"""Importance sampling of trajectories against closed forms on a linear-Gaussian plant, finite differences and REINFORCE."""

import math

import pytest
import torch
from torch import Tensor

from mbrl.gps.importance import (
    effective_samples,
    expected_costs,
    log_normalizers,
    objective,
    prefix_log_weights,
)

A, B, NOISE, PRICE = 0.9, 0.5, 0.1, 0.3
LOG_2_PI = math.log(2 * math.pi)


def rollouts(k: float, std: float, samples: int, steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """States, controls and costs, ``(S, T)`` each, of x' = A x + B u + noise from x = 1 under u ~ N(k x, std^2)."""
    generator = torch.Generator().manual_seed(seed)
    x, found = torch.ones(samples, dtype=torch.float64), []
    for _ in range(steps):
        noise = torch.randn(2, samples, generator=generator, dtype=torch.float64)
        u = k * x + std * noise[0]
        found.append((x, u, 0.5 * (x.square() + PRICE * u.square())))
        x = A * x + B * u + NOISE * noise[1]
    xs, us, costs = (torch.stack(column, -1) for column in zip(*found, strict=True))
    return xs, us, costs


def log_density(xs: Tensor, us: Tensor, k: float | Tensor, std: float | Tensor) -> Tensor:
    std = torch.as_tensor(std, dtype=torch.float64)
    return -0.5 * ((us - k * xs) / std).square() - std.log() - 0.5 * LOG_2_PI


def exact_costs(k: float, std: float, steps: int) -> Tensor:
    """Expected costs by the recursion of the second moment of x."""
    moment, costs = 1.0, []
    for _ in range(steps):
        costs.append(0.5 * (moment + PRICE * (k**2 * moment + std**2)))
        moment = (A + B * k) ** 2 * moment + B**2 * std**2 + NOISE**2
    return torch.tensor(costs, dtype=torch.float64)


def from_two(samples: int, steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Samples of two distributions, three times as many of the second, and their densities under both."""
    sources, counts = ((-0.2, 0.5), (-0.8, 0.4)), torch.tensor([samples // 4, samples - samples // 4])
    drawn = [
        rollouts(*q, int(count), steps, seed + j) for j, (q, count) in enumerate(zip(sources, counts, strict=True))
    ]
    xs, us, costs = (torch.cat(column) for column in zip(*drawn, strict=True))
    log_q = torch.stack([log_density(xs, us, *q) for q in sources])
    return xs, us, costs, log_q, counts


def test_estimates_are_within_three_standard_errors_of_the_closed_form():
    k, std, steps, batches = -0.5, 0.45, 6, 40
    estimates = []
    for batch in range(batches):
        xs, us, costs, log_q, counts = from_two(4000, steps, 1000 * batch)
        weights = prefix_log_weights(log_density(xs, us, k, std), log_q, counts)
        estimates.append(torch.cat([expected_costs(weights, costs), log_normalizers(weights).exp()]))
    found = torch.stack(estimates)
    exact = torch.cat(
        [exact_costs(k, std, steps), torch.ones(steps, dtype=torch.float64)]
    )  # a density's integral is one
    error = found.std(0) / batches**0.5
    assert bool(((found.mean(0) - exact).abs() <= 3 * error).all())
    assert bool((error < 0.02 * exact).all())


def test_samples_of_the_policy_itself_have_equal_weights():
    xs, us, costs = rollouts(-0.5, 0.3, 50, 8, 0)
    log_pi = log_density(xs, us, -0.5, 0.3)
    weights = prefix_log_weights(log_pi, log_pi.unsqueeze(0), torch.tensor([50]))
    torch.testing.assert_close(weights, torch.zeros_like(weights), atol=1e-12, rtol=0)
    torch.testing.assert_close(expected_costs(weights, costs), costs.mean(0))
    torch.testing.assert_close(effective_samples(weights), torch.full((8,), 50.0, dtype=torch.float64))


def gradient(parameters: Tensor, regularization: float, steps: int = 5) -> tuple[Tensor, tuple]:
    """Of F by gain and log-std, and the samples."""
    drawn = from_two(40, steps, 7)
    xs, us, costs, log_q, counts = drawn
    parameters = parameters.clone().requires_grad_()
    weights = prefix_log_weights(log_density(xs, us, parameters[0], parameters[1].exp()), log_q, counts)
    (found,) = torch.autograd.grad(objective(weights, costs, regularization), parameters)
    return found, drawn


@pytest.mark.parametrize("regularization", [0.0, 0.3])
def test_the_gradient_is_that_of_finite_differences_and_of_the_formula(regularization):
    at = torch.tensor([-0.4, math.log(0.5)], dtype=torch.float64)
    found, (xs, us, costs, log_q, counts) = gradient(at, regularization)

    def value(p: Tensor) -> Tensor:
        weights = prefix_log_weights(log_density(xs, us, p[0], p[1].exp()), log_q, counts)
        return objective(weights, costs, regularization)

    h = 1e-5 * torch.eye(2, dtype=torch.float64)
    numeric = torch.stack([(value(at + d) - value(at - d)) / 2e-5 for d in h])
    torch.testing.assert_close(found, numeric, rtol=1e-7, atol=1e-9)

    # sum over i, t of grad log pi * sum over t' >= t of w (c - mean - w_r)
    k, std = at[0], at[1].exp()
    score = torch.stack([(us - k * xs) * xs / std**2, ((us - k * xs) / std).square() - 1], -1)
    weights = prefix_log_weights(log_density(xs, us, k, std), log_q, counts).exp()
    weights = weights / weights.sum(0)
    excess = weights * (costs - (weights * costs).sum(0) - regularization)
    to_go = excess.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(found, (score * to_go.unsqueeze(-1)).sum((0, 1)))


def test_on_policy_it_is_reinforce_with_a_baseline():
    xs, us, costs = rollouts(-0.5, 0.3, 60, 6, 3)
    parameters = torch.tensor([-0.5, math.log(0.3)], dtype=torch.float64, requires_grad=True)
    log_pi = log_density(xs, us, parameters[0], parameters[1].exp())
    weights = prefix_log_weights(log_pi, log_pi.detach().unsqueeze(0), torch.tensor([60]))
    (found,) = torch.autograd.grad(objective(weights, costs, 0.0), parameters)
    returns = costs.flip(-1).cumsum(-1).flip(-1)
    surrogate = (log_density(xs, us, parameters[0], parameters[1].exp()) * (returns - returns.mean(0))).sum(-1).mean()
    (expected,) = torch.autograd.grad(surrogate, parameters)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_hundred_steps_whose_products_underflow_are_finite(dtype):
    xs, us, costs = (v.to(dtype) for v in rollouts(-0.2, 0.5, 10, 200, 1))
    log_pi = log_density(xs.double(), us.double(), -3.0, 0.01).to(dtype)
    assert float(log_pi.sum(-1).exp().max()) == 0.0
    log_pi = log_pi.requires_grad_()
    log_q = log_density(xs.double(), us.double(), -0.2, 0.5).to(dtype).unsqueeze(0)
    weights = prefix_log_weights(log_pi, log_q, torch.tensor([10]))
    loss = objective(weights, costs, 0.01)
    (found,) = torch.autograd.grad(loss, log_pi)
    assert loss.dtype == dtype
    assert bool(loss.isfinite())
    assert bool(found.isfinite().all())
    ess = effective_samples(weights.detach())
    assert bool(((ess >= 1 - 1e-5) & (ess <= 10 + 1e-4)).all())


def test_initial_states_side_by_side_are_as_each_alone():
    draws = [from_two(12, 4, seed) for seed in (1, 2, 3)]
    xs, us, costs = (torch.stack([d[i] for d in draws], 1) for i in range(3))
    log_q, counts = torch.stack([d[3] for d in draws], 2), draws[0][4]
    weights = prefix_log_weights(log_density(xs, us, -0.5, 0.4), log_q, counts)
    together = objective(weights, costs, 0.1)
    for c, (x, u, cost, q, number) in enumerate(draws):
        alone = objective(prefix_log_weights(log_density(x, u, -0.5, 0.4), q, number), cost, 0.1)
        torch.testing.assert_close(together[c], alone, rtol=1e-12, atol=1e-12)


def test_shapes_and_counts_that_do_not_fit_are_errors():
    log_pi = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"need log_q \(J, \*\(4, 3\)\)"):
        prefix_log_weights(log_pi, torch.zeros(2, 5, 3), torch.tensor([2, 2]))
    with pytest.raises(ValueError, match="counts"):
        prefix_log_weights(log_pi, torch.zeros(2, 4, 3), torch.tensor([2, 3]))
