"""The plants that contestants of a benchmark know are those of gymnasium, step by step."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def plant_of():
    """The folder is no package."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(BENCHMARKS))
    import planned_imitation

    yield planned_imitation.plant_of
    patch.undo()


@pytest.mark.filterwarnings("ignore:.*settotalmass.*")
@pytest.mark.parametrize(("name", "env_id"), [("Pendulum", "Pendulum-v1"), ("HalfCheetah", "HalfCheetah-v5")])
def test_states_and_steps_are_those_of_gymnasium(plant_of, name, env_id):
    env, plant = gymnasium.make(env_id), plant_of(name)
    generator = np.random.default_rng(0)
    y, _ = env.reset(seed=0)
    observations, controls = [y], []
    for _ in range(20):
        controls.append(generator.uniform(env.action_space.low, env.action_space.high))
        observations.append(env.step(controls[-1].astype(env.action_space.dtype))[0])
    env.close()
    ys, us = np.stack(observations).astype(np.float64), np.stack(controls).astype(np.float32)
    xs = torch.from_numpy(plant.states(ys, us))
    torch.testing.assert_close(plant.task.observe(xs), torch.from_numpy(ys))
    u = torch.from_numpy(us.astype(np.float64))
    after = plant.task.dynamics(xs[:-1], u, 0)
    torch.testing.assert_close(plant.task.observe(after), torch.from_numpy(ys[1:]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after[..., 0], xs[1:, 0], rtol=1e-5, atol=1e-5)
    terms = plant.cost.features(xs[:-1], u, 0)
    assert terms.shape == (20, len(plant.cost.weights))
    moved = xs.clone()
    moved[:, 0] += 2 * torch.pi  # a turn of the pendulum, or a place along the track, makes no difference
    torch.testing.assert_close(plant.cost.features(moved[:-1], u, 0), terms)
