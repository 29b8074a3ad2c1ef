"""stable-baselines3 on our environments: a policy is trained on a learned model, and the truth decides what it is worth.

    python examples/train_with_sb3.py --algorithm sac      # or ddpg, or dqn on five numbered forces

A task of one's own, a point mass that shall come to rest: random logs, a small ensemble fitted to them, the task with the
ensemble as its plant, and an off-policy algorithm of stable-baselines3 that knows nothing of this library.
(`pip install stable-baselines3`; this file cannot be called so, or Python would import it instead.)
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import tyro
from stable_baselines3 import DDPG, DQN, SAC
from stable_baselines3.common.noise import NormalActionNoise

import mbrl
from dynamics import DoubleIntegrator, Ensemble, Training, fit
from planners import ICEM, MPC, GoalCost


@dataclass(frozen=True)
class Config:
    """Settings of the example."""

    algorithm: Literal["sac", "ddpg", "dqn"] = "sac"
    """Which one learns; dqn on a task with five controls."""
    clips: int = 30
    """Random clips of 5 s to learn the model from."""
    fit_steps: int = 500
    """Steps of the model's training."""
    steps: int = 3000
    """Steps of the algorithm in the environment of the model."""
    episodes: int = 20
    """Episodes of each evaluation."""
    seed: int = 0
    """Of the algorithm."""


@dataclass(frozen=True)
class Policy:
    """A policy of stable-baselines3 as an actor of this library."""

    model: Any
    values: torch.Tensor | None
    acts_on: str = "observation"

    def init(self, batch: int, *, generator: torch.Generator | None = None) -> None:
        """It has no memory."""

    def act(self, y: torch.Tensor, memory: None, *, deterministic: bool = True) -> tuple[torch.Tensor, None]:
        """Controls for observations; numbered ones are looked up."""
        action = torch.as_tensor(self.model.predict(y.numpy(), deterministic=deterministic)[0])
        return (action.to(y) if self.values is None else self.values[action]), memory


def point_at_rest() -> mbrl.Task:
    """A point mass on a line that shall come to rest at the origin, pushed by at most 1 N for 5 s."""
    return mbrl.Task(
        "PointAtRest",
        DoubleIntegrator(1, dt=0.1),
        GoalCost(0.0, [1.0, 0.1], 0.01),
        (-1.0, 1.0),
        mbrl.uniform_initial_state([-1.0, -0.5], [1.0, 0.5]),
        horizon=30,
        episode_steps=50,
    )


def make_learner(config: Config, env: mbrl.TaskEnv) -> Any:
    """An algorithm of stable-baselines3, its networks and its exploration cut down to a small problem."""
    small = {"gamma": 0.95, "learning_rate": 1e-3, "learning_starts": 200, "train_freq": 1, "device": "cpu"}
    small["policy_kwargs"] = {"net_arch": [64, 64]}
    if config.algorithm == "sac":
        return SAC("MlpPolicy", env, seed=config.seed, **small)
    if config.algorithm == "ddpg":
        noise = NormalActionNoise(mean=np.zeros(1), sigma=0.3 * np.ones(1))  # without it DDPG does not explore
        return DDPG("MlpPolicy", env, seed=config.seed, action_noise=noise, **small)
    return DQN("MlpPolicy", env, seed=config.seed, exploration_fraction=0.5, target_update_interval=100, **small)


def main(config: Config) -> bool:
    """Whether the policy covers four fifths of the way from the untrained one to planning on the truth."""
    task = point_at_rest()
    if config.algorithm == "dqn":
        task = mbrl.discretized(task, 5)

    logs = mbrl.record(task, mbrl.SplineNoise(task.control_limits, 1, scale=1.0), config.clips)
    model = Ensemble.for_trajectories(logs, members=3, hidden=(32, 32))
    print(fit(model, logs, training=Training(steps=config.fit_steps)))

    env = mbrl.make_env(task.with_dynamics(model))  # steps with the mean of the ensemble
    learner = make_learner(config, env)
    policy = Policy(learner, task.control_values)
    before = mbrl.evaluate(policy, task, episodes=config.episodes)
    learner.learn(config.steps)
    after = mbrl.evaluate(policy, task, episodes=config.episodes)  # on the truth, which it has never seen
    planned = mbrl.evaluate(
        MPC(point_at_rest().problem(), ICEM(num_samples=50)), point_at_rest(), episodes=config.episodes
    )
    print(f"untrained: {before}\n{config.algorithm} on the model: {after}\nplanning on the truth: {planned}")
    share = (after.iqm - before.iqm) / (planned.iqm - before.iqm)
    print(f"{100 * share:.0f} % of the way from the untrained policy to planning")
    return share >= 0.8


if __name__ == "__main__":
    raise SystemExit(0 if main(tyro.cli(Config, description=__doc__)) else 1)
