"""What ends of episodes teach adversarial imitation by themselves: CartPole-v1, share of the expert's return over random's."""

from typing import Any

import numpy as np

EPISODES = 20  # of an evaluation
DEMONSTRATIONS = 5


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per number of demonstrations, treatment of ends and form of the reward; ``mbrl.GAIL`` on ``mbrl.PPO``.

    "share" is 0 for random actions and 1 for the expert, which never lets the pole fall: the median of the seeds, and all of
    them. Without demonstrations there is nothing to learn, so that the aim is at most 0.1; with them, at least 0.9.
    """
    import gymnasium
    import torch

    import mbrl

    torch.set_num_threads(1)
    seeds, steps = ((0,), 10_000) if quick else ((0, 1, 2), 40_000)
    expert = mbrl.train(_ppo(), "CartPole-v1", steps=60_000, evaluation_episodes=0).policy
    env = gymnasium.make("CartPole-v1")
    demonstrations = mbrl.record_env(env, expert, DEMONSTRATIONS, dt=0.02, seed=1)
    random = mbrl.record_env(env, None, EPISODES, dt=0.02, seed=2)
    best, worst = (float(np.mean([t.rewards.sum() for t in found])) for found in (demonstrations, random))
    rows = []
    for number in (DEMONSTRATIONS, 0):
        for horizon in ("absorbing", "variable"):
            for form in ("signed", "positive", "negative"):
                returns = [
                    _return(_gail(horizon, form), demonstrations[:number], steps=steps, seed=seed) for seed in seeds
                ]
                shares = (np.array(returns) - worst) / (best - worst)
                row = {"demonstrations": number, "ends": horizon, "reward": form, "share": float(np.median(shares))}
                row |= {"seeds": ", ".join(f"{share:.2f}" for share in shares)}
                if horizon == "absorbing":
                    row["aim"] = "at least 0.9" if number else "at most 0.1"
                rows.append(row | {"returns": ", ".join(f"{value:.0f}" for value in returns)})
    return rows


def _ppo() -> Any:
    import mbrl

    return mbrl.PPO(num_envs=8, steps_per_iteration=1024, learning_rate=1e-3, minibatch_size=128)


def _gail(horizon: Any, form: Any) -> Any:
    import mbrl

    return mbrl.GAIL(policy=_ppo(), horizon=horizon, reward_form=form)


def _return(algorithm: Any, demonstrations: Any, *, steps: int, seed: int) -> float:
    """Mean return of the trained policy."""
    import mbrl

    result = mbrl.train(
        algorithm, "CartPole-v1", steps=steps, seed=seed, demonstrations=demonstrations, evaluation_episodes=EPISODES
    )
    if result.evaluation is None:
        raise RuntimeError("the policy was not evaluated")
    return float(np.mean(result.evaluation.returns))
