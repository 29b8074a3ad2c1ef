"""PPO end to end on HalfCheetah-v5 with 8 environments, over stable-baselines3 (environment steps/s)."""

import os
import statistics
import time
from pathlib import Path
from typing import Any

from cells import serve
from harness import HERE, Peer, peer_environment

COMMON = {"what": "throughput", "env": "HalfCheetah-v5", "num_envs": 8, "seed": 0}
SETTINGS = {
    "n_steps": 256,
    "batch_size": 64,
    "n_epochs": 10,
}  # stable-baselines3's defaults, 2048 transitions an iteration
AIM = 2.0


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per contestant and number of threads; each is a process of its own, and they take turns.

    All collect the same number of transitions per iteration with networks of the same size, two layers of 64, and take the
    same gradient steps; "ours, defaults" takes those of our own defaults. Observations and rewards are normalized. Steps of
    environments and of torch use the number of threads given; "sb3 subproc" also has one process per environment. "ratio" is
    the row's rate over that of "sb3 dummy", the way the peer is usually run.
    The shares are those of the median run: stepping and resetting environments with the normalization, policy and value
    while collecting, the update with its advantages.
    """
    steps, repeats = (3 * 2048, 3) if quick else (6 * 2048, 5)
    peer = HERE / "peers" / "sb3_on_policy.py", peer_environment("sb3_on_policy")
    rows = []
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        common = COMMON | {"threads": threads, "steps": steps}
        requests = {
            "ours": common | SETTINGS,
            "ours, defaults": common,
            "sb3 dummy": common | SETTINGS | {"vectorization": "dummy"},
            "sb3 subproc": common | SETTINGS | {"vectorization": "subproc"},
        }
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in requests}
        with Peer(Path(__file__)) as own, Peer(*peer) as theirs:
            for repeat in range(repeats + 1):
                for name, request in requests.items():
                    answer = (theirs if name.startswith("sb3") else own).ask(**request)
                    if repeat:  # the first warms up
                        answers[name].append(answer)
        middle = {name: sorted(found, key=_rate)[len(found) // 2] for name, found in answers.items()}
        reference = statistics.median(map(_rate, answers["sb3 dummy"]))
        for name, found in answers.items():
            rate = statistics.median(map(_rate, found))
            row = {"contestant": name, "threads": threads, "steps/s": rate, "ratio": rate / reference}
            if name == "ours":
                row["aim"] = AIM
            shares = middle[name]["shares"]
            rows.append(row | {share: shares.get(share) for share in ("environment", "inference", "update", "other")})
    return rows


def _rate(answer: dict[str, Any]) -> float:
    return answer["steps"] / answer["seconds"]


def ours(request: dict[str, Any]) -> dict[str, Any]:
    """One training of ours and where its time went; the only place that calls the library."""
    import torch

    import mbrl

    torch.set_num_threads(request["threads"])
    settings = {}
    if "n_steps" in request:
        settings = {
            "steps_per_iteration": request["n_steps"] * request["num_envs"],
            "minibatch_size": request["batch_size"],
            "epochs": request["n_epochs"],
        }
    algorithm = mbrl.PPO(num_envs=request["num_envs"], **settings)
    start = time.perf_counter()
    result = mbrl.train(
        algorithm, request["env"], steps=request["steps"], seed=request["seed"], evaluation_episodes=0, progress=False
    )
    seconds = time.perf_counter() - start
    spent = {name: float(result.metrics[f"time/{name}"].sum()) for name in ("environment", "inference", "update")}
    spent["other"] = seconds - sum(spent.values())
    return {
        "seconds": seconds,
        "steps": result.steps,
        "shares": {name: value / seconds for name, value in spent.items()},
    }


if __name__ == "__main__":
    serve(ours)
