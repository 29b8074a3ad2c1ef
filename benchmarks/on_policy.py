"""PPO and TRPO against stable-baselines3 and sb3-contrib after the same environment steps (interquartile mean return)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import Cell, compare, folder, hardware_of, returns_of, run, serve
from harness import HERE, peer_environment

# ppo-kl is PPO with the adaptive penalty on KL, which the peer lacks
PEER = {"ppo": "ppo", "ppo-kl": "ppo", "trpo": "trpo"}

OVERRIDES: dict[tuple[str, str], dict[str, Any]] = {  # of our defaults
    ("Pendulum-v1", "ppo"): {"discount": 0.9, "learning_rate": 1e-3, "trace_decay": 0.8},
    ("Pendulum-v1", "ppo-kl"): {"discount": 0.9, "learning_rate": 1e-3, "trace_decay": 0.8},
    ("Pendulum-v1", "trpo"): {"discount": 0.9, "trace_decay": 0.8, "initial_std": 1.0},
}


@dataclass(frozen=True)
class Case:
    """A task, and who is compared on it.

    Attributes:
        env: gymnasium's id.
        steps: environment steps of a training.
        seeds: number of seeds, from 0.
        pairs: algorithm of ours, and the settings of the peer: "tuned" for this task by its makers, or "generic".
        aims: least interquartile mean return by algorithm, to be reached by all seeds but one.
        episodes: of the evaluation of each policy. A return of the pendulum depends on where an episode begins, by more than
            on the policy: 20 of them leave an error of 18 where 100 leave 8.
    """

    env: str
    steps: int
    seeds: int
    pairs: tuple[tuple[str, str], ...]
    aims: tuple[tuple[str, float], ...] = ()
    episodes: int = 20


MUJOCO = (
    ("ppo", "generic"),
    ("trpo", "tuned"),
)  # tuned settings of PPO are made for 1e6 steps and take five times as long
CLASSIC = (("ppo", "tuned"), ("ppo-kl", "tuned"), ("trpo", "tuned"))
CASES = (  # the longest first
    Case("HalfCheetah-v5", 300_000, 3, MUJOCO),
    Case("Hopper-v5", 300_000, 3, MUJOCO),
    Case("Walker2d-v5", 300_000, 3, MUJOCO),
    Case("Pendulum-v1", 100_000, 5, CLASSIC, (("ppo", -200.0), ("ppo-kl", -200.0), ("trpo", -220.0)), 100),
    Case("CartPole-v1", 100_000, 5, CLASSIC, (("ppo", 500.0), ("ppo-kl", 500.0), ("trpo", 500.0))),
)
QUICK = (
    Case("HalfCheetah-v5", 10_000, 2, MUJOCO),
    Case("CartPole-v1", 20_000, 2, CLASSIC),
)


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per task, algorithm of ours and settings of the peer.

    Each training is a cell, see ``benchmarks/cells.py``; its policy is evaluated deterministically. Ours has
    its defaults but for ``OVERRIDES``; the peer's settings are RL Baselines3 Zoo's for the task
    ("tuned") or the library's defaults with normalized observations and rewards ("generic"). "seconds" and "peer seconds"
    are medians of a training on one processor, with as many at a time as "hardware" says: for times side by side see
    ``on_policy_throughput``. "reached" counts the seeds whose interquartile mean return is at least the aim.
    """
    from scipy.stats import trim_mean

    results = run(cells(quick, None), folder("on_policy", quick))
    rows = []
    for case in QUICK if quick else CASES:
        for algorithm, settings in case.pairs:
            names = [_ours_name(case, algorithm, seed) for seed in range(case.seeds)]
            peers = [_peer_name(case, algorithm, settings, seed) for seed in range(case.seeds)]
            row = {"env": case.env, "steps": case.steps, "seeds": case.seeds, "algorithm": algorithm}
            row |= {"peer settings": settings}
            row |= compare(returns_of(results, names), returns_of(results, peers))
            if (aim := dict(case.aims).get(algorithm)) is not None:
                reached = sum(float(trim_mean(returns, 0.25)) >= aim for returns in returns_of(results, names))
                row |= {"aim": aim, "reached": f"{reached} of {case.seeds}"}
            row |= {"seconds": _seconds(results, names), "peer seconds": _seconds(results, peers)}
            rows.append(row | {"hardware": hardware_of(results, [*names, *peers])})
    return rows


def cells(quick: bool, peer_python: Path | None) -> list[Cell]:
    """All trainings, each task's seed by seed, so that what has run first compares first.

    Args:
        quick: those of the quick benchmark.
        peer_python: the interpreter that has the peer; None for one in an environment of its own.
    """
    if peer_python is None:
        peer_python = peer_environment("sb3_on_policy")
    found = {}
    for case in QUICK if quick else CASES:
        common = {"what": "train", "env": case.env, "steps": case.steps, "episodes": case.episodes}
        for seed in range(case.seeds):
            for algorithm, settings in case.pairs:
                own = repr(configured(algorithm, case.env))  # other defaults are other cells
                request = common | {"algorithm": algorithm, "configuration": own, "seed": seed}
                name = _ours_name(case, algorithm, seed)
                found[name] = Cell(name, Path(__file__), request)
                request = common | {"algorithm": PEER[algorithm], "settings": settings, "seed": seed}
                name = _peer_name(case, algorithm, settings, seed)
                found[name] = Cell(name, HERE / "peers" / "sb3_on_policy.py", request, peer_python)
    return list(found.values())


def _ours_name(case: Case, algorithm: str, seed: int) -> str:
    return f"{case.env}_ours_{algorithm}_{seed}"


def _peer_name(case: Case, algorithm: str, settings: str, seed: int) -> str:
    return f"{case.env}_sb3_{PEER[algorithm]}_{settings}_{seed}"


def _seconds(results: dict[str, dict[str, Any]], names: Sequence[str]) -> float:
    from statistics import median

    return median(results[name]["answer"]["seconds"] for name in names)


def configured(algorithm: str, env: str) -> Any:
    """An algorithm of ours with its defaults, but for ``OVERRIDES``."""
    import mbrl

    settings = dict(OVERRIDES.get((env, algorithm), {}))
    if "initial_std" in settings:
        settings["network"] = mbrl.NetworkSettings(initial_std=settings.pop("initial_std"))
    if "trace_decay" in settings:
        settings["advantages"] = mbrl.GeneralizedAdvantages(settings.pop("trace_decay"))
    match algorithm:
        case "ppo":
            return mbrl.PPO(**settings)
        case "ppo-kl":
            return mbrl.PPO(objective=mbrl.KLPenalty(), **settings)
        case "trpo":
            return mbrl.TRPO(**settings)
    raise ValueError(f"no algorithm {algorithm!r}")


def ours(request: dict[str, Any]) -> dict[str, Any]:
    """What a cell of ours is: learn, then evaluate."""
    import tempfile
    import time

    import torch

    import mbrl

    torch.set_num_threads(1)
    algorithm = configured(request["algorithm"], request["env"])
    with tempfile.TemporaryDirectory() as run_folder:
        start = time.perf_counter()
        result = mbrl.train(
            algorithm,
            request["env"],
            steps=request["steps"],
            seed=request["seed"],
            run=run_folder,
            evaluation_episodes=0,
            progress=False,
        )
        seconds = time.perf_counter() - start
    generator = torch.Generator().manual_seed(10_000 + request["seed"])
    evaluation = mbrl.evaluate(result.policy, request["env"], episodes=request["episodes"], generator=generator)
    return {"returns": [float(value) for value in evaluation.returns], "seconds": seconds}


if __name__ == "__main__":
    serve(ours)
