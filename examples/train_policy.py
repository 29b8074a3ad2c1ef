"""Train a policy: proximal policy optimization steers a point mass to a goal that is another one in each episode.

    python examples/train_policy.py
    mbrl view runs/train_policy

The policy is measured before and after; the run folder holds the learning curves, the policy and a video. Stopped half-way, the
same command goes on where it was.
"""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

import mbrl
from dynamics import write_trajectories


@dataclass(frozen=True)
class Config:
    """Settings of the training."""

    steps: int = 40_000
    """Environment steps."""
    episodes: int = 20
    """Episodes of the evaluations before and after."""
    seed: int = 0
    """Of everything that is drawn."""
    run: Path = Path("runs/train_policy")
    """Run folder."""
    algorithm: mbrl.PPO = field(
        default_factory=lambda: mbrl.PPO(num_envs=16, steps_per_iteration=1024, discount=0.95, learning_rate=1e-3)
    )
    """How it is trained."""


def main(config: Config) -> bool:
    """Whether the goal is reached in four of five episodes, and was not before."""
    task = mbrl.point_navigation(backend="torch")

    # Before: the distribution of a policy with random weights has its mode near no force at all.
    untrained = mbrl.Policy.for_task(task, config.algorithm.network, seed=config.seed)
    before = mbrl.evaluate(untrained, task, episodes=config.episodes)
    print(f"before: {before}")

    # Train; config.run keeps the metrics, a checkpoint after every iteration, and in the end the policy and its curves.
    result = mbrl.train(
        config.algorithm,
        task,
        steps=config.steps,
        seed=config.seed,
        run=config.run,
        evaluation_episodes=config.episodes,
    )
    print(f"after {result}")

    # What was saved acts as what was trained: the first episode of an evaluation as a video, and for mbrl view.
    policy = mbrl.load_policy(config.run)
    after = mbrl.evaluate(policy, task, episodes=config.episodes, video=config.run / "episode.mp4")
    write_trajectories(config.run / "episode.npz", after.trajectories[:1], overwrite=True)
    reached = after.success_rate >= 0.8 > before.success_rate
    print(f"the goal is {'reached' if reached else 'NOT reached'}: {100 * after.success_rate:.0f} % of the episodes")
    return reached


if __name__ == "__main__":
    raise SystemExit(0 if main(tyro.cli(Config, description=__doc__)) else 1)
