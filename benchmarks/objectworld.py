"""Rewards of Objectworld 32 x 32 (Levine et al. 2011) from demonstrations: correlation with the truth, and value lost."""

import statistics
import time
from typing import Any

STEPS = 8  # of a demonstration
TEMPERATURE = 0.1  # of the demonstrator, and of the learners that have one


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per learner and number of demonstrations, medians over worlds (seeds 0 to 2) with the worst of them.

    Demonstrations are of the soft-optimal policy. "correlation" is Pearson's, of the rewards of all states; "value lost" is that
    of the policy that is optimal for what was learned, under the true rewards, over what the optimal one gains on a random one.
    All see whether objects of each color are within 1, 2, ... 32 cells, of which the truth is no linear function.
    """
    import torch

    import mbrl

    torch.set_num_threads(1)
    size, seeds, numbers = (12, (0,), (16,)) if quick else (32, (0, 1, 2), (8, 32, 128))
    learners = {
        "maximum entropy, network": mbrl.MaxEntIRL(hidden=(32,), temperature=TEMPERATURE),
        "maximum entropy, linear": mbrl.MaxEntIRL(temperature=TEMPERATURE),
        "maximum margin": mbrl.MaxMargin(),
        "apprenticeship": mbrl.Apprenticeship(),
    }
    rows = []
    for number in numbers:
        for name, learner in learners.items():
            found = [_learned(learner, size, number, seed) for seed in seeds]
            correlations, lost, seconds = zip(*found, strict=True)
            row = {"learner": name, "demonstrations": number, "worlds": len(seeds)}
            row |= {"correlation": statistics.median(correlations), "worst": min(correlations)}
            row |= {"value lost": statistics.median(lost), "most lost": max(lost)}
            if number == 128 and name.endswith("network"):
                row["aim"] = "0.85 and 0.05"
            rows.append(row | {"seconds": statistics.median(seconds)})
    return rows


def _learned(learner: Any, size: int, number: int, seed: int) -> tuple[float, float, float]:
    """Correlation, value lost and seconds."""
    import torch

    import mbrl
    from planners import sample_trajectories, solve_mdp

    world = mbrl.objectworld(size, objects=50 * size**2 // 32**2, seed=seed)
    expert = solve_mdp(world.mdp, temperature=TEMPERATURE).policy
    generator = torch.Generator().manual_seed(seed)
    demonstrations = sample_trajectories(world.mdp, expert, number, steps=STEPS, generator=generator)
    start = time.perf_counter()
    learned = learner.learn(world.mdp, world.features, demonstrations)
    seconds = time.perf_counter() - start
    policy = solve_mdp(world.mdp, world.mdp.expected_rewards(learned.rewards)).policy
    lost = mbrl.expected_value_difference(world.mdp, policy, relative=True)
    return mbrl.reward_correlation(learned.rewards, world.rewards), lost, seconds
