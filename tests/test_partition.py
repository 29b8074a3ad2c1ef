"""The importance-sampled partition function against Gaussian integrals of linear-quadratic problems."""

import math

import pytest
import torch
from torch import Tensor

from mbrl import LogPartition, log_partition

DOUBLE = torch.float64
TAU = 0.7
LOG_2_PI = math.log(2 * math.pi)
A = torch.tensor([[1.0, 0.1], [-0.2, 0.95]], dtype=DOUBLE)
B = torch.tensor([[0.05], [0.3]], dtype=DOUBLE)
Q = torch.tensor([1.0, 0.3], dtype=DOUBLE)
R = 0.4
START = torch.tensor([1.0, -0.5], dtype=DOUBLE)


def matrices(steps: int) -> tuple[Tensor, Tensor]:
    """Of x = F x0 + G u, all states after the first in a row."""
    F = torch.cat([torch.linalg.matrix_power(A, t + 1) for t in range(steps)])
    rows = []
    for t in range(steps):
        rows.append(
            torch.cat(
                [
                    torch.linalg.matrix_power(A, t - s) @ B if s <= t else torch.zeros(2, 1, dtype=DOUBLE)
                    for s in range(steps)
                ],
                1,
            )
        )
    return F, torch.cat(rows)


def dense_log_partition(x0: Tensor, steps: int, weights: Tensor) -> Tensor:
    """The integral over all controls as one Gaussian, from its Hessian and minimum; weights of two states and the control."""
    F, G = matrices(steps)
    W = weights[:2].repeat(steps)
    H = G.mT @ (W[:, None] * G) + weights[2] * torch.eye(steps, dtype=DOUBLE)
    g, constant = G.mT @ (W * (F @ x0)), 0.5 * (W * (F @ x0).square()).sum() + 0.5 * (weights[:2] * x0.square()).sum()
    least = constant - 0.5 * g @ torch.linalg.solve(H, g)
    return -least / TAU + 0.5 * steps * (LOG_2_PI + math.log(TAU)) - 0.5 * torch.logdet(H)


def riccati_log_partition(x0: Tensor, steps: int, weights: Tensor) -> Tensor:
    """The same, a control at a time."""
    P, value = torch.diag(weights[:2]), torch.zeros((), dtype=DOUBLE)
    for _ in range(steps):
        Quu = weights[2] + (B.mT @ P @ B).squeeze()
        K = -(B.mT @ P @ A) / Quu
        P = torch.diag(weights[:2]) + A.mT @ P @ (A + B @ K)
        value = value + 0.5 * (LOG_2_PI + math.log(TAU) - Quu.log())
    return value - 0.5 * x0 @ P @ x0 / TAU


def gains(steps: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gains ``(T, 2)`` and standard deviations ``(T,)`` of the maximum-entropy controller."""
    P, found = torch.diag(weights[:2]), []
    for _ in range(steps):
        Quu = weights[2] + (B.mT @ P @ B).squeeze()
        K = -(B.mT @ P @ A) / Quu
        P = torch.diag(weights[:2]) + A.mT @ P @ (A + B @ K)
        found.append((K.squeeze(0), (TAU / Quu).sqrt()))
    K, std = zip(*reversed(found), strict=True)
    return torch.stack(K), torch.stack(std)


def drawn(
    law: tuple[Tensor, Tensor], samples: int, generator: torch.Generator, noise: float = 0.0
) -> tuple[Tensor, Tensor]:
    """States ``(M, T+1, 2)`` and controls ``(M, T)`` under a controller."""
    K, std = law
    x, xs, us = START.expand(samples, 2), [START.expand(samples, 2)], []
    for t in range(len(std)):
        u = x @ K[t] + std[t] * torch.randn(samples, generator=generator, dtype=DOUBLE)
        x = x @ A.mT + u[:, None] * B[:, 0] + noise * torch.randn(samples, 2, generator=generator, dtype=DOUBLE)
        xs.append(x)
        us.append(u)
    return torch.stack(xs, 1), torch.stack(us, 1)


def log_density(law: tuple[Tensor, Tensor], xs: Tensor, us: Tensor) -> Tensor:
    K, std = law
    mean = (xs[:, :-1] * K).sum(-1)
    return (-0.5 * ((us - mean) / std).square() - std.log() - 0.5 * LOG_2_PI).sum(-1)


def costs_of(xs: Tensor, us: Tensor, weights: Tensor) -> Tensor:
    return 0.5 * (weights[:2] * xs.square()).sum((-1, -2)) + 0.5 * weights[2] * us.square().sum(-1)


TRUE = torch.tensor([*Q, R], dtype=DOUBLE)
OTHER = (torch.tensor([2.0, 0.1, 0.3], dtype=DOUBLE), torch.tensor([0.4, 0.6, 0.35], dtype=DOUBLE))
"""Costs whose controllers the samples come from: these explore more than the right one in one direction and less in none."""


def proposals(steps: int, wider: float = 1.15) -> list[tuple[Tensor, Tensor]]:
    laws = [gains(steps, weights) for weights in OTHER]
    return [(K, wider * std) for K, std in laws]


def estimate(steps: int, samples: tuple[int, ...], seed: int, weights: Tensor = TRUE) -> LogPartition:
    generator = torch.Generator().manual_seed(seed)
    laws = proposals(steps)[: len(samples)]
    parts = [drawn(law, n, generator) for law, n in zip(laws, samples, strict=True)]
    xs, us = (torch.cat(part) for part in zip(*parts, strict=True))
    log_q = torch.stack([log_density(law, xs, us) for law in laws])
    return log_partition(costs_of(xs, us, weights), log_q, torch.tensor(samples), temperature=TAU)


def test_the_two_closed_forms_are_one():
    for steps in (1, 4, 12):
        torch.testing.assert_close(
            dense_log_partition(START, steps, TRUE), riccati_log_partition(START, steps, TRUE), rtol=1e-10, atol=1e-10
        )


def test_samples_of_the_right_distribution_all_weigh_the_same():
    """Its density is the integrand over Z, so that one sample is enough."""
    law, generator = gains(8, TRUE), torch.Generator().manual_seed(0)
    xs, us = drawn(law, 5, generator)
    found = log_partition(costs_of(xs, us, TRUE), log_density(law, xs, us)[None], torch.tensor([5]), temperature=TAU)
    exact = riccati_log_partition(START, 8, TRUE)
    torch.testing.assert_close(found.log_weights, exact.expand(5), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.value, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.effective_samples, torch.tensor(5.0, dtype=DOUBLE))
    torch.testing.assert_close(found.weights, torch.full((5,), 0.2, dtype=DOUBLE))


def test_z_of_other_controllers_is_within_two_percent_of_the_gaussian_integral():
    """20 steps, 20,000 samples of each of two controllers that are wrong."""
    exact = dense_log_partition(START, 20, TRUE)
    for seed in range(5):
        found = estimate(20, (20_000, 20_000), seed)
        assert abs(math.expm1(float(found.value - exact))) < 0.02


@pytest.mark.parametrize("samples", [(20,), (15, 5)], ids=["one", "two in unequal parts"])
def test_z_is_unbiased(samples):
    exact, repeats = dense_log_partition(START, 6, TRUE), 1000
    ratios = torch.stack([(estimate(6, samples, seed).value - exact).exp() for seed in range(repeats)])
    error = float(ratios.std()) / math.sqrt(repeats)
    assert abs(float(ratios.mean()) - 1) < 3 * error
    assert error < 0.03


def integral_of_gaussian(H: Tensor, constant: Tensor) -> Tensor:
    """Log of the integral of exp(-z'Hz/2 - constant), for what has its minimum where the linear part is inside z already."""
    return 0.5 * len(H) * LOG_2_PI - 0.5 * torch.logdet(H) - constant


@pytest.mark.parametrize("cancel", [True, False], ids=["dynamics cancel", "all sequences"])
def test_what_z_is_on_a_stochastic_plant(cancel):
    """Dense integrals over states and controls, with the densities of the dynamics in the integrand and without."""
    steps, noise = (3, 0.5) if cancel else (2, 1.6)  # all sequences are more than such a plant goes
    laws = proposals(steps, 1.2 if cancel else 1.5)[:1]
    z = torch.zeros(3 * steps, dtype=DOUBLE)  # states after the first, then controls

    def exponent(z: Tensor) -> Tensor:
        xs = torch.cat([START[None], z[: 2 * steps].view(steps, 2)])
        us = z[2 * steps :]
        value = costs_of(xs, us, TRUE) / TAU
        if cancel:
            errors = xs[1:] - xs[:-1] @ A.mT - us[:, None] * B[:, 0]
            value = value + 0.5 * (errors / noise).square().sum() + 2 * steps * (math.log(noise) + 0.5 * LOG_2_PI)
        return value

    H = torch.autograd.functional.hessian(exponent, z)
    g = torch.autograd.functional.jacobian(exponent, z)
    exact = integral_of_gaussian(H, exponent(z) - 0.5 * g @ torch.linalg.solve(H, g))
    ratios = []
    for seed in range(200):
        xs, us = drawn(laws[0], 1000, torch.Generator().manual_seed(seed), noise)
        log_q = log_density(laws[0], xs, us)
        if not cancel:
            errors = xs[:, 1:] - xs[:, :-1] @ A.mT - us[..., None] * B[:, 0]
            log_q = log_q - (0.5 * (errors / noise).square() + math.log(noise) + 0.5 * LOG_2_PI).sum((-1, -2))
        found = log_partition(costs_of(xs, us, TRUE), log_q[None], torch.tensor([1000]), temperature=TAU)
        ratios.append((found.value - exact).exp())
    ratios = torch.stack(ratios)
    assert abs(float(ratios.mean()) - 1) < 3 * float(ratios.std()) / math.sqrt(len(ratios))
    assert float(ratios.std()) < 0.2


def test_the_gradient_is_that_of_finite_differences_and_of_the_integral():
    weights = TRUE.clone().requires_grad_()
    (found,) = torch.autograd.grad(estimate(10, (20_000, 20_000), 0, weights).value, weights)
    numeric, exact = [], []
    for i in range(3):
        h = torch.zeros(3, dtype=DOUBLE)
        h[i] = 1e-5
        numeric.append(
            (estimate(10, (20_000, 20_000), 0, TRUE + h).value - estimate(10, (20_000, 20_000), 0, TRUE - h).value)
            / 2e-5
        )
        exact.append((dense_log_partition(START, 10, TRUE + h) - dense_log_partition(START, 10, TRUE - h)) / 2e-5)
    torch.testing.assert_close(found, torch.stack(numeric), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found, torch.stack(exact), rtol=0.03, atol=0)


def test_two_hundred_steps_stay_finite():
    weights = TRUE.clone().requires_grad_()
    found = estimate(200, (50, 50), 0, weights)
    (gradient,) = torch.autograd.grad(found.value, weights)
    assert bool(found.value.isfinite())
    assert bool(gradient.isfinite().all())
    costs, log_q = torch.tensor([1e6, 2e6], dtype=DOUBLE), torch.tensor([[-4e5, 3e5]], dtype=DOUBLE)
    huge = log_partition(costs, log_q, torch.tensor([2]))
    assert float(huge.value) == pytest.approx(-6e5 - math.log(2), rel=1e-12)


def test_batches_and_numbers_of_samples_that_differ():
    generator = torch.Generator().manual_seed(0)
    costs = torch.randn(5, 3, generator=generator, dtype=DOUBLE)
    log_q = torch.randn(2, 5, 3, generator=generator, dtype=DOUBLE)
    whole = log_partition(costs, log_q, torch.tensor([2, 3]))
    for i in range(3):
        torch.testing.assert_close(
            log_partition(costs[:, i], log_q[..., i], torch.tensor([2, 3])).value,
            whole.value[i],
            rtol=1e-12,
            atol=1e-12,
        )
    valid = torch.ones(5, 3, dtype=torch.bool)
    valid[3:, 1] = False
    counts = torch.tensor([[2, 2, 2], [3, 1, 3]])
    some = log_partition(costs, log_q, counts, valid=valid)
    alone = log_partition(costs[:3, 1], log_q[:, :3, 1], torch.tensor([2, 1]))
    torch.testing.assert_close(some.value[1], alone.value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(some.effective_samples[1], alone.effective_samples, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(some.value[[0, 2]], whole.value[[0, 2]], rtol=1e-12, atol=1e-12)


def test_what_diverged_counts_for_nothing():
    costs = torch.tensor([1.0, math.nan, math.inf], requires_grad=True)
    found = log_partition(costs, torch.zeros(1, 3), torch.tensor([3]))
    found.value.backward()
    assert float(found.value.detach()) == pytest.approx(-1.0 - math.log(3))
    assert costs.grad.tolist() == [-1.0, 0.0, 0.0]


def test_a_single_sample_and_float32():
    found = log_partition(torch.tensor([2.0]), torch.tensor([[-1.0]]), torch.tensor([1]), temperature=2.0)
    assert found.value.dtype == torch.float32
    assert (float(found.value), float(found.effective_samples)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("costs", "log_q", "counts", "options", "message"),
    [
        (torch.zeros(3), torch.zeros(1, 3), torch.tensor([2]), {}, "of as many samples"),
        (torch.zeros(3), torch.zeros(1, 2), torch.tensor([3]), {}, "of as many samples"),
        (torch.zeros(3), torch.zeros(2, 3), torch.tensor([3]), {}, "of as many samples"),
        (torch.zeros(0), torch.zeros(1, 0), torch.tensor([0]), {}, "of as many samples"),
        (torch.zeros(3), torch.zeros(1, 3), torch.tensor([3]), {"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_what_does_not_fit_is_an_error(costs, log_q, counts, options, message):
    with pytest.raises(ValueError, match=message):
        log_partition(costs, log_q, counts, **options)
