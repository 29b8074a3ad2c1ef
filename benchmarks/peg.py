"""Guided policy search on models fitted to its rollouts: holes, of nine held-out ones, into which the policy puts the peg."""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from cells import Cell, folder, run, serve

SEEDS = 3
AIM = 7  # holes, in the median of the seeds


def main(quick: bool) -> list[dict[str, Any]]:
    """One row; each training is a cell, see ``benchmarks/cells.py``.

    ``mbrl.MDGPS`` on ``mbrl.peg_insertion``, with linear-Gaussian models fitted to a few rollouts of each iteration. The budget
    is that of Montgomery and Levine (2016): 4 conditions, 5 samples, 12 iterations and 100 steps make 24,000 steps. Holes are
    those of ``mbrl.peg_insertion_starts``; the policy learns from initial states that the task draws, and acts without noise.
    "holes" are its successes by seed, and "inserted" those of the training conditions' controllers, without noise either. "cost"
    is that of an episode from the held-out starts, "seconds" are those of a training on one processor; both are medians.
    """
    results = run(cells(quick, None), folder("peg", quick))
    answers = [result["answer"] for result in results.values()]
    holes = [sum(answer["successes"]) for answer in answers]
    inserted = [f"{sum(answer['inserted'])}/{len(answer['inserted'])}" for answer in answers]
    return [
        {
            "task": "PegInsertion",
            "steps": max(answer["steps"] for answer in answers),
            "seeds": len(answers),
            "holes": ", ".join(map(str, holes)),
            "median": median(holes),
            "of": len(answers[0]["successes"]),
            "aim": AIM,
            "inserted": ", ".join(inserted),
            "cost": median(sum(answer["costs"]) / len(answer["costs"]) for answer in answers),
            "seconds": median(answer["seconds"] for answer in answers),
        }
    ]


def cells(quick: bool, peer_python: Path | None) -> list[Cell]:
    """One training of each seed.

    Args:
        quick: those of the quick benchmark.
        peer_python: not used, there is no peer.
    """
    iterations = 2 if quick else 12
    request = {"what": "train", "iterations": iterations, "configuration": repr(configured(iterations))}
    return [Cell(f"mdgps_{seed}", Path(__file__), request | {"seed": seed}) for seed in range(1 if quick else SEEDS)]


def configured(iterations: int) -> Any:
    """The algorithm, with its defaults but for what follows."""
    import mbrl

    return mbrl.MDGPS(
        teacher=mbrl.LocalTeacher(),
        conditions=4,
        samples=5,
        iterations=iterations,
        factor_range=(0.5, 3.0),  # as the authors' code has it for this task
    )


def trained(request: dict[str, Any]) -> dict[str, Any]:
    """What a cell is: learn, then try the held-out holes."""
    import torch

    import mbrl
    from mbrl.gps.rollouts import controller_actions, policy_actions, roll_out

    torch.set_num_threads(1)
    task: Any = mbrl.peg_insertion()
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as run_folder:
        start = time.perf_counter()
        result = mbrl.train(
            configured(request["iterations"]),
            task,
            seed=request["seed"],
            run=run_folder,
            evaluation_episodes=0,
            on_iteration=rows.append,
            progress=False,
        )
        seconds = time.perf_counter() - start
    learner: Any = result.learner
    policy = roll_out(
        task, policy_actions(learner.policy, task, deterministic=True), mbrl.peg_insertion_starts().unsqueeze(0)
    )
    taught = roll_out(
        task,
        controller_actions(learner.controllers, learner.space, torch.Generator(), deterministic=True),
        learner.x0.unsqueeze(0),
    )
    return {
        "successes": task.success(policy.states[0]).int().tolist(),
        "costs": policy.total_costs[0].tolist(),
        "inserted": task.success(taught.states[0]).int().tolist(),
        "iterations": [row["rollout/cost"] for row in rows],
        "steps": result.steps,
        "seconds": seconds,
    }


if __name__ == "__main__":
    serve(trained)
