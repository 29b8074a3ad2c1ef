"""The library in a screenful: a model learned from logs, MPC on it, the truth watching.

    python examples/quickstart.py

A smaller sister of demo.py: the torch pendulum records its own logs, a small ensemble is fitted in seconds, and MPC on the
ensemble swings the true pendulum up.
"""

from dataclasses import dataclass, field

import torch
import tyro

import mbrl
from dynamics import Ensemble, Training, fit
from planners import ICEM, MPC


@dataclass(frozen=True)
class Config:
    """Settings of the quickstart."""

    clips: int = 60
    """Random clips of 3 s to learn from."""
    training: Training = field(default_factory=lambda: Training(steps=1500))
    """How the ensemble is trained."""
    steps: int = 200
    """Length of the controlled episode."""


def main(config: Config) -> bool:
    """Whether the pendulum stood upright over the last second."""
    task = mbrl.pendulum_swing_up(backend="torch")

    # Data: smooth random torques from random states, no expert.
    anywhere = mbrl.uniform_initial_state([-3.14, -6.0], [3.14, 6.0])
    starts = anywhere(config.clips, torch.Generator().manual_seed(0))
    noise = mbrl.SplineNoise(task.control_limits, scale=1.0)
    logs = mbrl.record(task, noise, config.clips, initial_states=starts, steps=60)

    # Model: whole clips held out for the report.
    model = Ensemble.for_trajectories(logs, angles=["angle"], hidden=(64, 64))
    print(fit(model, logs, training=config.training))

    # Control: plan on the model, act on the truth.
    mpc = MPC(task.problem(model), ICEM())
    (episode,) = mbrl.record(task, mpc, 1, steps=config.steps)
    upright = bool(task.success(torch.tensor(episode.states)))
    print(f"return {episode.rewards.sum():.1f}, {'upright' if upright else 'not upright'} over the last second")
    return upright


if __name__ == "__main__":
    raise SystemExit(0 if main(tyro.cli(Config, description=__doc__)) else 1)
