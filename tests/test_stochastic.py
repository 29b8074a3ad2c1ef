"""Sampled rollouts against the closed forms of linear-Gaussian models."""

import pytest
import torch

from dynamics import Prediction, StochasticDynamics
from dynamics.stochastic import deal_members

DECAYS = torch.tensor([0.5, 0.8, 1.1], dtype=torch.float64)
NOISES = torch.tensor([0.9, 0.3, 0.1], dtype=torch.float64)


class LinearGaussian(StochasticDynamics):
    """Members x' = a_e x + u + s_e w in one dimension; with no decays a single model without members."""

    def __init__(self, decays=DECAYS, noises=NOISES):
        super().__init__(1, 1, 1.0)
        self.decays, self.noises = decays, noises

    def predict(self, x, u, t=None):
        self.check_step(x, u)
        shape = (-1, *[1] * x.ndim)
        members = self.decays.view(shape) * x + u
        stds = self.noises.view(shape).expand_as(members)
        mean = members.mean(0)
        aleatoric, epistemic = stds.square().mean(0).sqrt(), (members - mean).square().mean(0).sqrt()
        if len(self.decays) == 1:
            return Prediction(mean, aleatoric, torch.zeros_like(mean))
        return Prediction(mean, aleatoric, epistemic, members, stds)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(model, resample, particles=60_000, x0=2.0, steps=4, **options):
    x0, us = torch.tensor([x0]).double(), torch.full((steps, 1), 0.5).double()
    xs = model.sample_rollout(x0, us, particles=particles, generator=generator(), resample=resample, **options)
    return xs[..., 0]


def check_moments(xs, means, variances):
    """Four standard errors of the mean, and of the variance of a variable with the kurtosis of the sample."""
    count = xs.shape[0]
    error = xs.mean(0) - means
    assert (error.abs() <= 4 * (variances / count).sqrt() + 1e-12).all()
    centered = (xs - xs.mean(0)).square()
    assert ((centered.mean(0) - variances).abs() <= 4 * (centered.var(0) / count).sqrt() + 1e-12).all()


def propagate(decay, noise, steps=4, mean=2.0, variance=0.0):
    """Mean and variance of one member, m' = a m + u, v' = a^2 v + s^2."""
    means, variances = [mean], [variance]
    for _ in range(steps):
        means.append(float(decay) * means[-1] + 0.5)
        variances.append(float(decay) ** 2 * variances[-1] + float(noise) ** 2)
    return torch.tensor(means).double(), torch.tensor(variances).double()


@pytest.mark.parametrize("resample", ["trajectory", "step"])
def test_without_members(resample):
    """One Gaussian per step; both ways of sampling are the same."""
    model = LinearGaussian(DECAYS[1:2], NOISES[1:2])
    check_moments(sample(model, resample), *propagate(0.8, 0.3))


@pytest.mark.parametrize("noise", [True, False])
def test_trajectory_sampling_keeps_the_member(noise):
    """TSinf: an equal mixture of the members' own processes."""
    means, variances = zip(
        *(propagate(a, s if noise else 0.0) for a, s in zip(DECAYS, NOISES, strict=True)), strict=True
    )
    means, variances = torch.stack(means), torch.stack(variances)
    xs = sample(LinearGaussian(), "trajectory", noise=noise)
    check_moments(xs, means.mean(0), variances.mean(0) + means.var(0, correction=0))
    if not noise:
        assert xs[:, -1].unique().numel() == 3


def test_step_sampling_draws_a_member_every_step():
    """TS1: m' = E[a] m + u and E[x'^2] = E[a^2] E[x^2] + 2 u E[a] m + u^2 + E[s^2]."""
    a, a2, s2 = DECAYS.mean(), DECAYS.square().mean(), NOISES.square().mean()
    means, seconds = [torch.tensor(2.0).double()], [torch.tensor(4.0).double()]
    for _ in range(4):
        seconds.append(a2 * seconds[-1] + a * means[-1] + 0.25 + s2)
        means.append(a * means[-1] + 0.5)
    means, seconds = torch.stack(means), torch.stack(seconds)
    check_moments(sample(LinearGaussian(), "step"), means, seconds - means.square())


def test_step_sampling_without_noise_visits_every_sequence_of_members():
    xs = sample(LinearGaussian(), "step", particles=3000, steps=3, noise=False)
    assert xs[:, -1].unique().numel() == 3**3


def test_every_batch_element_and_control_is_its_own():
    """Without noise and members a sampled rollout is the rollout, whatever broadcasts."""
    model = LinearGaussian(DECAYS[:1], 0 * NOISES[:1])
    x0, us = torch.randn(2, 1, 1, generator=generator()).double(), torch.randn(3, 5, 1, generator=generator(1)).double()
    xs = model.sample_rollout(x0, us, particles=4, generator=generator())
    assert xs.shape == (2, 3, 4, 6, 1)
    torch.testing.assert_close(xs, model.rollout(x0, us).unsqueeze(-3).expand_as(xs), rtol=1e-13, atol=1e-13)


def test_the_step_reaches_the_model():
    class Clock(LinearGaussian):
        def predict(self, x, u, t=None):
            mean = torch.full_like(x, float(t))
            return Prediction(mean, torch.zeros_like(mean), torch.zeros_like(mean))

    x0, us = torch.zeros(1).double(), torch.zeros(3, 1).double()
    xs = Clock().sample_rollout(x0, us, particles=2, generator=generator(), t0=7)
    assert xs[0, :, 0].tolist() == [0, 7, 8, 9]


def test_a_diverged_particle_is_nan_from_there_on():
    class Explodes(LinearGaussian):
        """Only the last member diverges, and returns to a finite number."""

        def predict(self, x, u, t=None):
            members = torch.stack([x, torch.where(x.isinf(), 0.0, torch.inf)])
            return Prediction(members[0], 0 * x, 0 * x, members, torch.zeros_like(members))

    x0, us = torch.ones(1).double(), torch.zeros(3, 1).double()
    xs = Explodes().sample_rollout(x0, us, particles=6, generator=generator())[..., 0]
    diverged = xs[:, 1].isnan()
    assert int(diverged.sum()) == 3
    assert xs[diverged, 1:].isnan().all()
    assert (xs[~diverged] == 1).all()


def test_reparametrized_gradient():
    """With the noise fixed the samples are a smooth function of the initial state and the controls."""
    model = LinearGaussian()
    x0, us = torch.tensor([2.0]).double().requires_grad_(), torch.zeros(3, 1).double().requires_grad_()

    def final(x0, us):
        return model.sample_rollout(x0, us, particles=5, generator=generator())[:, -1].square().mean()

    assert torch.autograd.gradcheck(final, [x0, us])


# Members


@pytest.mark.parametrize("particles", [1, 2, 5, 7, 10])
def test_members_are_dealt_evenly(particles):
    members = deal_members(5, torch.Size([4, 3]), particles, generator(), torch.device("cpu"))
    assert members.shape == (4, 3, particles)
    counts = torch.nn.functional.one_hot(members, 5).sum(-2)
    assert counts.sum(-1).eq(particles).all()
    assert counts.min() == particles // 5
    assert counts.max() == -(-particles // 5)


@pytest.mark.parametrize("particles", [1, 3, 5])
def test_every_particle_meets_every_member_equally_often(particles):
    count = 20_000
    members = deal_members(5, torch.Size([count]), particles, generator(), torch.device("cpu"))
    frequency = torch.nn.functional.one_hot(members, 5).double().mean(0)
    assert frequency.shape == (particles, 5)
    assert (frequency - 0.2).abs().max() < 4.5 * (0.2 * 0.8 / count) ** 0.5


# Predictions


def test_total_standard_deviation():
    prediction = Prediction(torch.zeros(2), torch.tensor([3.0, 0.0]), torch.tensor([4.0, 0.0]))
    assert prediction.std.tolist() == [5, 0]
    noise = torch.zeros(2, requires_grad=True)
    Prediction(torch.zeros(2), noise, torch.zeros(2)).std.sum().backward()
    assert noise.grad.isfinite().all()


def test_forward_is_the_mean():
    x, u = torch.tensor([[2.0]]).double(), torch.tensor([[0.5]]).double()
    assert LinearGaussian()(x, u).item() == pytest.approx(DECAYS.mean().item() * 2 + 0.5, rel=1e-15)


def test_bad_arguments():
    model, x0, us = LinearGaussian(), torch.zeros(1), torch.zeros(3, 1)
    with pytest.raises(ValueError, match="particles must be at least 1, got 0"):
        model.sample_rollout(x0, us, particles=0)
    with pytest.raises(ValueError, match=r"resample must be 'trajectory' \(TSinf\) or 'step' \(TS1\), got 'TSinf'"):
        model.sample_rollout(x0, us, particles=1, resample="TSinf")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"us must have shape \(\*batch, T, 1\), got \(1,\)"):
        model.sample_rollout(x0, torch.zeros(1), particles=1)
