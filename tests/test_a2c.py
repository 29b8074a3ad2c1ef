"""Advantage actor-critic against sums and a step written out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

import mbrl
from mbrl import A2C, Assignment, NetworkSettings
from mbrl.on_policy.rollout import collect


def first(episode_steps, **settings):
    task = replace(mbrl.point_navigation("torch"), episode_steps=episode_steps)
    algorithm = A2C(
        num_envs=3,
        steps_per_iteration=3 * 7,
        normalize_rewards=False,
        network=NetworkSettings(hidden=(8,), dtype="float64"),
        **settings,
    )
    return algorithm, algorithm.learner(Assignment(task, steps=1000))


@pytest.mark.parametrize("episode_steps", [3, 100])
def test_advantages_of_n_steps(episode_steps):
    """Through the learner; from episodes that end within the segment, and that do not."""
    algorithm, learner = first(episode_steps)
    rollout, _ = collect(learner.policy, learner.worlds, 7, learner.policy.initial_hidden(3), learner.generator)
    samples, _ = learner.samples(rollout)

    def value(y):
        return float(learner.value.step(learner.policy.inputs(y), y.new_zeros(0))[0].detach())

    assert bool(rollout.ended.any()) == (episode_steps == 3)
    expected = np.zeros((7, 3))
    for j in range(3):
        for t in range(7):
            total, steps = 0.0, 0
            while True:
                total += algorithm.discount**steps * float(rollout.rewards[t + steps, j])
                steps += 1
                if rollout.ended[t + steps - 1, j] or steps == 5 or t + steps == 7:
                    break
            if not rollout.terminated[t + steps - 1, j]:
                total += algorithm.discount**steps * value(rollout.next_observations[t + steps - 1, j])
            expected[t, j] = total - value(rollout.observations[t, j])
    np.testing.assert_allclose(samples.advantages.reshape(7, 3).numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose((samples.returns - samples.values).reshape(7, 3).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("limit", [1e9, 1e-3])
def test_a_step_of_rmsprop(limit):
    """The first step: gradient over the root of a hundredth of its square, each network scaled down by itself."""
    algorithm, learner = first(100, max_gradient_norm=limit, entropy_weight=0.1)
    rollout, _ = collect(learner.policy, learner.worlds, 7, learner.policy.initial_hidden(3), learner.generator)
    samples, _ = learner.samples(rollout)
    new, _ = learner.policy.sequence(samples.inputs, samples.hidden, samples.starts)
    normal = Independent(Normal(new.mean, new.log_std.exp()), 1)
    gain = (normal.log_prob(samples.actions) * samples.advantages + 0.1 * normal.entropy()).mean()
    values, _ = learner.value.sequence(samples.inputs, samples.value_hidden, samples.starts)
    expected = []
    for network, loss in ((learner.policy, -gain), (learner.value, 0.5 * (values - samples.returns).square().mean())):
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        norm = float(sum(g.square().sum() for g in gradients) ** 0.5)
        for p, g in zip(parameters, gradients, strict=True):
            g = g * min(1.0, limit / (norm + 1e-6))
            expected.append((p, (p - 7e-4 * g / (0.1 * g.abs() + 1e-5)).detach().clone()))
    algorithm.update(learner, samples)
    for found, after in expected:
        torch.testing.assert_close(found.detach(), after, rtol=0, atol=1e-10)


def test_the_learning_rate_falls():
    algorithm, learner = first(100)
    learner.iterate()
    learner.iterate()
    rates = {group["lr"] for group in learner.optimizers["rmsprop"].param_groups}
    assert rates == {algorithm.learning_rate * (1 - 21 / 1000)}


@pytest.mark.parametrize("num_envs", [1, 8, 16])
def test_every_world_takes_five_steps_by_default(num_envs):
    algorithm = A2C(num_envs=num_envs, network=NetworkSettings(hidden=(4,)))
    learner = algorithm.learner(Assignment(mbrl.point_navigation("torch"), steps=1000))
    learner.iterate()
    assert learner.steps == 5 * num_envs
    assert replace(algorithm, num_envs=3).steps_in_each == 5


@pytest.mark.parametrize(
    "settings", [{"learning_rate": 0.0}, {"max_gradient_norm": float("nan")}, {"entropy_weight": -1.0}]
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match="must be a"):
        A2C(**settings)
