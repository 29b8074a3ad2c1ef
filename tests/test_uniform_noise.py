"""Uniform noise: within the limits, without memory of what it gave, and a function of the seed."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from mbrl import UniformNoise, pendulum_swing_up, record


def play(noise, steps, batch=1, seed=0):
    """Controls ``(steps, batch, m)`` as an array."""
    memory, us = noise.init(batch, generator=torch.Generator().manual_seed(seed)), []
    for _ in range(steps):
        u, memory = noise.act(torch.zeros(batch, 3).double(), memory)
        us.append(u)
    return torch.stack(us).numpy()


def test_controls_are_uniform_between_the_limits_and_independent():
    limits = (torch.tensor([-1.0, 2.0]), torch.tensor([1.0, 6.0]))
    u = play(UniformNoise(limits, control_dim=2), 4000, batch=2)
    assert kstest(u[..., 0].ravel(), "uniform", args=(-1.0, 2.0)).pvalue > 1e-3
    assert kstest(u[..., 1].ravel(), "uniform", args=(2.0, 4.0)).pvalue > 1e-3
    columns = np.concatenate([u[:-1].reshape(-1, 4), u[1:].reshape(-1, 4)], axis=1)
    assert np.abs(np.corrcoef(columns.T) - np.eye(8)).max() < 4.5 / math.sqrt(4000)


def test_the_memory_is_a_value_and_the_seed_decides():
    noise, y = UniformNoise((-1.0, 1.0)), torch.zeros(3, 1)
    np.testing.assert_array_equal(play(noise, 5, seed=3), play(noise, 5, seed=3))
    assert not np.array_equal(play(noise, 5, seed=3), play(noise, 5, seed=4))
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    memory = noise.init(3, generator=generator)
    u, _ = noise.act(y, memory)
    assert torch.equal(u, noise.act(y, memory)[0])
    assert u.dtype == torch.float32
    assert torch.equal(generator.get_state(), before)


def test_it_acts_on_a_task():
    task = pendulum_swing_up(backend="torch")
    (episode,) = record(task, UniformNoise(task.control_limits), 1, steps=30)
    assert len(episode) == 30
    assert np.abs(episode.controls).max() <= 2.0


@pytest.mark.parametrize("limits", [(1.0, -1.0), (-math.inf, 1.0), (math.nan, 1.0), (-torch.ones(2), 1.0)])
def test_limits_that_make_no_noise(limits):
    with pytest.raises(ValueError, match="control_limits must be finite with lower <= upper for control_dim=1, got"):
        UniformNoise(limits)
