"""stable-baselines3 trains unmodified: what lies in its replay buffer is what happened, and SAC learns."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from dynamics import DoubleIntegrator, LinearDynamics, LinearModel, fit
from mbrl import (
    SplineNoise,
    Task,
    discretized,
    evaluate,
    make_env,
    pendulum_swing_up,
    point_navigation,
    record,
    shaped,
    uniform_initial_state,
)
from planners import LQR, MPC, GoalCost, Problem, QuadraticCost

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")

from stable_baselines3 import DDPG, DQN, SAC
from stable_baselines3.common.env_checker import check_env

ALGORITHMS = {"DQN": DQN, "DDPG": DDPG, "SAC": SAC}
SMALL = {"learning_starts": 50, "policy_kwargs": {"net_arch": [16]}, "device": "cpu", "seed": 0}

pytestmark = [
    # what the library's own checker and gymnasium recommend, and this library does not do: actions are in physical units
    pytest.mark.filterwarnings(
        "ignore:We recommend you to use a symmetric and normalized Box action space:UserWarning"
    ),
]


def point_at_rest(**fields):
    """A point mass that shall come to rest, and ends an episode where it is too fast."""
    task = Task(
        "PointAtRest",
        DoubleIntegrator(1, dt=0.1),
        GoalCost(0.0, [1.0, 0.1], 0.01),
        (-1.0, 1.0),
        uniform_initial_state([-1.0, -0.5], [1.0, 0.5]),
        horizon=30,
        episode_steps=50,
    )
    return replace(task, **fields)


def hurried():
    return point_at_rest(episode_steps=9, termination=lambda x: x[..., 1].abs() > 0.4, termination_cost=2.0)


def on_a_model(task):
    """The task on a model of its plant, learned from random logs."""
    logs = record(
        replace(task, termination=None, termination_cost=0.0), SplineNoise(task.control_limits, 1), 8, steps=30
    )
    model = LinearModel.for_trajectories(logs)
    fit(model, logs)
    return task.with_dynamics(model)


def for_algorithm(name, task):
    return discretized(task, 3) if name == "DQN" else task


class Policy:
    acts_on = "observation"

    def __init__(self, model, values=None):
        self.model, self.values = model, values

    def init(self, batch, *, generator=None):
        return None

    def act(self, y, memory, *, deterministic=True):
        action = torch.as_tensor(self.model.predict(y.numpy(), deterministic=deterministic)[0])
        return (action.to(y) if self.values is None else self.values[action]), memory


@pytest.mark.parametrize(
    "task", [pendulum_swing_up("torch"), point_navigation("mujoco"), shaped(hurried(), slack=0.1)], ids=lambda t: t.name
)
def test_its_checker_approves(task):
    check_env(make_env(task))
    check_env(make_env(discretized(task, 3)))
    check_env(gymnasium.make("mbrl/PendulumSwingUp-v0", backend="torch"))


@pytest.mark.parametrize("plant", ["truth", "model"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_it_trains_on_is_what_happened(name, plant):
    """Each transition in the buffer is one of the task, terminations and time limits kept apart; and something is learned."""
    task = for_algorithm(name, hurried() if plant == "truth" else on_a_model(hurried()))
    learner = ALGORITHMS[name]("MlpPolicy", make_env(task), **SMALL)
    before = [value.clone() for value in learner.policy.parameters()]
    learner.learn(300)
    assert learner.num_timesteps >= 300
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.policy.parameters(), strict=True))
    buffer, count = learner.replay_buffer, learner.num_timesteps
    x, x_next = (torch.from_numpy(part[:count, 0]).double() for part in (buffer.observations, buffer.next_observations))
    actions, rewards, dones, timeouts = (
        torch.from_numpy(part[:count, 0]) for part in (buffer.actions, buffer.rewards, buffer.dones, buffer.timeouts)
    )
    u = task.control_values[actions[:, 0].long()] if name == "DQN" else actions.double()
    # a mean of a matrix product depends on the batch in the last bits
    torch.testing.assert_close(x_next, task.dynamics(x, u), rtol=0, atol=1e-12)
    torch.testing.assert_close(rewards.double(), task.reward(x, u, x_next, 0), rtol=1e-6, atol=1e-6)
    terminated = task.termination(x_next)
    assert torch.equal(dones.bool() & ~timeouts.bool(), terminated)
    assert 4 < int(terminated.sum()) < count
    assert 3 < int(timeouts.sum()) < count
    inside = ~dones.bool()[:-1]
    assert torch.equal(x_next[:-1][inside], x[1:][inside])  # an episode goes on where it was


def test_a_learned_environment_is_that_of_the_models_mean():
    task = on_a_model(point_at_rest())
    env, again = make_env(task), make_env(task)
    state, _ = env.reset(seed=1)
    np.testing.assert_array_equal(again.reset(seed=1)[0], state)
    for _ in range(5):
        y, *_ = env.step(np.array([0.3]))
        mean = task.dynamics.predict(torch.from_numpy(state), torch.tensor([0.3], dtype=torch.float64)).mean
        np.testing.assert_array_equal(y, mean.numpy())
        np.testing.assert_array_equal(again.step(np.array([0.3]))[0], y)
        state = y


@pytest.mark.slow
@pytest.mark.parametrize("plant", ["truth", "model"])
def test_sac_learns_to_bring_a_point_to_rest(plant):
    """On the truth, it covers nine tenths of the way from doing nothing to linear-quadratic control."""
    task = point_at_rest()
    world = task if plant == "truth" else on_a_model(task)
    options = {"gamma": 0.95, "learning_rate": 1e-3, "learning_starts": 200, "policy_kwargs": {"net_arch": [64, 64]}}
    learner = SAC("MlpPolicy", make_env(world), seed=0, device="cpu", **options)
    learner.learn(3000)

    class Nothing(Policy):
        def act(self, y, memory, *, deterministic=True):
            return 0.0 * y[:, :1], memory

    cost = QuadraticCost(torch.diag(torch.tensor([2.0, 0.2])).double(), torch.tensor([[0.02]]).double())
    optimum = MPC(Problem(linear(task), cost, 50), LQR())
    learned, nothing, best = (evaluate(a, task, episodes=50).iqm for a in (Policy(learner), Nothing(None), optimum))
    assert nothing < learned < 0
    assert learned - nothing > 0.9 * (best - nothing)


def linear(task):
    at = task.dynamics.linearize(torch.zeros(2).double(), torch.zeros(1).double())
    return LinearDynamics(at.fx, at.fu, dt=task.dynamics.dt)
