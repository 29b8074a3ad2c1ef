"""Imitation from 1, 5 and 25 demonstrations, beside the package imitation: share of the expert's return over random actions'."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cells import Cell, between, folder, hardware_of, interval, resampled, run, serve
from harness import HERE, peer_environment
from planned_imitation import configuration, trained_on_plant

if TYPE_CHECKING:
    import gymnasium

    from dynamics import Trajectory

KNOWING = ("mpc-irl", "gcl")  # they plan, on the plant as it is
OURS = ("bc", "dagger", "gail", "airl", *KNOWING)
PEERS = ("peer-bc", "peer-gail", "peer-airl")
PATIENCE = 7200  # [s] that a cell waits for the expert's
SHARED = HERE / "results" / "local" / "irl_table"  # what cells read of others; it can be made again


@dataclass(frozen=True)
class Case:
    """A task whose episodes are all of one length.

    Attributes:
        name: of the rows.
        env: gymnasium's id here.
        peer_env: the id of the same dynamics and rewards in the peer's older gymnasium.
        episode_steps: of an episode.
        expert_steps: environment steps of the expert's training.
        steps: environment steps of a learner.
        seeds: number of seeds, from 0.
        peer_seeds: of the peer, whose trainings take several times as long.
        gcl_seeds: of guided cost learning.
        numbers: of demonstrations.
        settings: of PPO, of the expert and of all learners, the peer's too.
        anneal: whether the learning rate of our learners falls; that of the peer's PPO never does.
        episodes: of an evaluation.
    """

    name: str
    env: str
    peer_env: str
    episode_steps: int
    expert_steps: int
    steps: int
    seeds: int
    peer_seeds: int
    gcl_seeds: int
    numbers: tuple[int, ...]
    settings: tuple[tuple[str, float], ...]
    anneal: bool
    episodes: int = 100


PENDULUM = (("discount", 0.9), ("learning_rate", 1e-3), ("trace_decay", 0.8))
CHEETAH = (("discount", 0.99), ("learning_rate", 3e-4), ("trace_decay", 0.95))
_PENDULUM = Case(
    name="Pendulum",
    env="Pendulum-v1",
    peer_env="Pendulum-v1",
    episode_steps=200,
    expert_steps=200_000,
    steps=150_000,
    seeds=3,
    peer_seeds=1,
    gcl_seeds=3,
    numbers=(1, 5, 25),
    settings=PENDULUM,
    anneal=True,
)
_CHEETAH = Case(
    name="HalfCheetah",
    env="HalfCheetah-v5",
    peer_env="HalfCheetah-v4",
    episode_steps=200,
    expert_steps=500_000,
    steps=200_000,
    seeds=3,
    peer_seeds=1,
    gcl_seeds=1,
    numbers=(1, 5, 25),
    settings=CHEETAH,
    anneal=False,
    episodes=50,
)
FULL = (_PENDULUM, _CHEETAH)
_SHORT: dict[str, Any] = {"seeds": 1, "gcl_seeds": 1, "numbers": (5,)}
QUICK = (
    replace(_CHEETAH, expert_steps=6_000, steps=4_000, episodes=5, **_SHORT),
    replace(_PENDULUM, expert_steps=30_000, steps=8_000, episodes=10, **_SHORT),
)


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per task, number of demonstrations and contestant.

    "share" is the mean return of the final policy, deterministic, over all seeds and episodes: 0 for random actions, 1 for the
    demonstrations, which are drawn from the expert's stochastic policy. Its interval is a bootstrap's over seeds and episodes.
    "steps" are environment steps of a learner, for behavioral cloning none, and for DAgger, which asks the expert in them, as
    many as its ten iterations take. On-policy learners have the expert's settings of PPO, the peer's as many steps in an
    iteration and normalized observations, but not the normalized rewards of ours; cloning has 3000 gradient steps. "mpc-irl" and
    "gcl" know the plant: the one learns the weights of the terms of a reward and plans with them on it; the other, with rollouts
    on it, a network and a policy, and "gcl-mpc" is plans with that network (``planned_imitation.py``). "seconds" are
    a training's on a processor of "hardware". "same world" is the largest difference of a reward or observation between the two
    versions of gymnasium, of all steps of an episode, each from the same state.
    """
    results = run(cells(quick, None), folder("irl_table", quick))
    return [row for case in (QUICK if quick else FULL) for row in _rows(case, results)]


def cells(quick: bool, peer_python: Path | None) -> list[Cell]:
    """Experts first, for whom the others wait; then all trainings, seed by seed.

    Args:
        quick: those of the quick benchmark.
        peer_python: interpreter that has the peer; by default it is installed first.
    """
    peer_python = peer_environment("imitation_package") if peer_python is None else peer_python
    peer_script, cases = HERE / "peers" / "imitation_package.py", QUICK if quick else FULL
    found = [Cell(f"{c.name}_expert", Path(__file__), {"what": "expert", **_asked(c, quick)}) for c in cases]
    for case in cases:
        request = {"what": "check", **_asked(case, quick)}
        found.append(Cell(f"{case.name}_check", peer_script, request, peer_python))
    for seed in range(max(case.seeds for case in cases)):
        for case in cases:
            for number in case.numbers:
                request = {"what": "train", **_asked(case, quick), "demonstrations": number, "seed": seed}
                for contestant in _contestants(case, seed):
                    name = _name(case, contestant, number, seed)
                    asked = {**request, "contestant": contestant.removeprefix("peer-")}
                    if contestant in PEERS:
                        found.append(Cell(name, peer_script, asked, peer_python))
                        continue
                    asked["configuration"] = _configuration(case, contestant, number)
                    if contestant in KNOWING:
                        asked["quick"] = quick
                    found.append(Cell(name, Path(__file__), asked))
    return found


def _seeds(case: Case, contestant: str) -> int:
    """Trainings of a contestant; differentiable MPC draws nothing, and is trained once."""
    if contestant == "mpc-irl":
        return 1
    if contestant == "gcl":
        return case.gcl_seeds
    return case.peer_seeds if contestant in PEERS else case.seeds


def _contestants(case: Case, seed: int) -> list[str]:
    return [name for name in (*OURS, *PEERS) if seed < _seeds(case, name)]


def _configuration(case: Case, contestant: str, number: int) -> str:
    """What a contestant of ours is told, in words: a cell of another configuration is run again."""
    if contestant in KNOWING:
        return configuration(case.name, contestant, number)
    return repr(settings_of(case, contestant))


def _name(case: Case, contestant: str, number: int, seed: int) -> str:
    return f"{case.name}_{contestant}_{number}_{seed}"


def _asked(case: Case, quick: bool) -> dict[str, Any]:
    """Of a case, what a cell needs."""
    kept = ("name", "env", "peer_env", "episode_steps", "expert_steps", "steps", "episodes")
    asked = {name: getattr(case, name) for name in kept} | {"settings": dict(case.settings)}
    return asked | {"shared": str((SHARED / ("quick" if quick else "full") / case.name).relative_to(HERE))}


def _rows(case: Case, results: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    expert = results[f"{case.name}_expert"]["answer"]
    best, worst = np.mean(expert["demonstrated"]), np.mean(expert["random"])
    same = results[f"{case.name}_check"]["answer"]["difference"]
    for number in case.numbers:
        for contestant in (*OURS, *PEERS):
            names = [_name(case, contestant, number, seed) for seed in range(_seeds(case, contestant))]
            answers = [results[name]["answer"] for name in names]
            given = {"env": case.name, "demonstrations": number}
            for label, returns in _returns(contestant, answers):
                shares = (returns - worst) / (best - worst)
                row = {**given, "contestant": label, "seeds": len(names)}
                row |= {
                    "share": float(shares.mean()),
                    "share 95 %": between(interval(resampled(shares).mean((-1, -2)))),
                }
                row |= {"steps": answers[0]["steps"], "seconds": float(np.median([a["seconds"] for a in answers]))}
                yield row | {"same world": same, "hardware": hardware_of(results, names)}


def _returns(contestant: str, answers: list[dict[str, Any]]) -> Iterator[tuple[str, np.ndarray]]:
    """Returns ``(seeds, episodes)`` of a contestant, and of what plans with the cost that it learned beside a policy."""
    yield contestant, np.array([a["returns"] for a in answers])
    if contestant == "gcl":
        yield "gcl-mpc", np.array([a["planned"] for a in answers])


# Contestants


def settings_of(case: Case, contestant: str) -> Any:
    """What a contestant of ours is told; of DAgger the cloning, as its expert is not known yet."""
    import mbrl

    settings = dict(case.settings)
    ppo = mbrl.PPO(
        discount=settings["discount"],
        learning_rate=settings["learning_rate"],
        advantages=mbrl.GeneralizedAdvantages(settings["trace_decay"]),
        anneal=case.anneal or contestant == "expert",
    )
    match contestant:
        case "expert":
            return ppo
        case "bc" | "dagger":
            return mbrl.BC()
        case "gail":
            return mbrl.GAIL(policy=ppo)
        case "airl":
            return mbrl.AIRL(policy=ppo, inputs="state-action")
    raise ValueError(f"no contestant {contestant!r}")


def made(env_id: str, episode_steps: int) -> "gymnasium.Env":
    """An environment whose episodes are of one length."""
    import gymnasium

    return gymnasium.make(env_id, max_episode_steps=episode_steps)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a cell is: the expert, or a training."""
    import torch

    torch.set_num_threads(1)
    case = next(c for c in (*FULL, *QUICK) if _is(c, request))
    task = partial(made, case.env, case.episode_steps)
    if request["what"] == "expert":
        return _expert(case, task, HERE / request["shared"])
    return _trained(case, task, request)


def _is(case: Case, request: dict[str, Any]) -> bool:
    return all(request[name] == getattr(case, name) for name in ("name", "expert_steps", "steps", "episodes"))


def _expert(case: Case, task: Any, shared: Path) -> dict[str, Any]:
    """Train it, and leave its policy and demonstrations for the others."""
    import mbrl

    trained = mbrl.train(settings_of(case, "expert"), task, steps=case.expert_steps, evaluation_episodes=0)
    generator = mbrl_generator(1)
    demonstrations = _demonstrations(trained.policy, task, max(case.numbers), generator)
    random = mbrl.record_env(task(), None, case.episodes, dt=1.0, seed=2)
    shared.mkdir(parents=True, exist_ok=True)
    mbrl.save_policy(trained.policy, shared / "expert.safetensors")
    rewards = np.stack([d.rewards for d in demonstrations])
    unfinished = shared / "unfinished.npz"
    np.savez(
        unfinished,
        observations=np.stack([d.observations for d in demonstrations]),
        controls=np.stack([d.controls for d in demonstrations]),
        rewards=rewards,
    )
    unfinished.replace(shared / "demonstrations.npz")
    returns = mbrl.evaluate(trained.policy, task, episodes=case.episodes).returns
    return {
        "demonstrated": rewards.sum(1).tolist(),
        "random": [float(r.rewards.sum()) for r in random],
        "returns": [float(value) for value in returns],
        "seconds": trained.seconds,
    }


def _demonstrations(policy: Any, task: Any, number: int, generator: Any) -> "list[Trajectory]":
    """Episodes of the stochastic policy."""
    import mbrl

    return mbrl.record_env(task(), _Stochastic(policy), number, dt=1.0, seed=1, generator=generator)


class _Stochastic:
    """A policy that draws its actions even where it is asked for the likeliest."""

    acts_on = "observation"

    def __init__(self, policy: Any):
        self.policy = policy

    def init(self, batch: int = 1, *, generator: Any = None) -> Any:
        """Its own memory."""
        return self.policy.init(batch, generator=generator)

    def act(self, y: Any, memory: Any, *, deterministic: bool = True) -> Any:
        """A draw."""
        return self.policy.act(y, memory, deterministic=False)


def _trained(case: Case, task: Any, request: dict[str, Any]) -> dict[str, Any]:
    import mbrl

    shared, contestant = HERE / request["shared"], request["contestant"]
    demonstrations = _read(shared)[: request["demonstrations"]]
    if contestant in KNOWING:
        seed, quick = request["seed"], request["quick"]
        return trained_on_plant(case.name, contestant, demonstrations, seed, task, case.episodes, quick)
    algorithm, steps = settings_of(case, contestant), case.steps
    if contestant == "bc":
        steps = 3000
    if contestant == "dagger":
        expert: Any = mbrl.load_policy(shared / "expert.safetensors")
        algorithm = mbrl.DAgger(expert, cloning=algorithm, max_steps=case.episode_steps)
        steps = 10 * algorithm.episodes * case.episode_steps
    start = time.perf_counter()
    result = mbrl.train(
        algorithm, task, steps=steps, seed=request["seed"], demonstrations=demonstrations, evaluation_episodes=0
    )
    seconds = time.perf_counter() - start
    returns = mbrl.evaluate(result.policy, task, episodes=case.episodes, generator=mbrl_generator(3)).returns
    return {
        "returns": [float(value) for value in returns],
        "steps": 0 if contestant == "bc" else result.steps,
        "seconds": seconds,
    }


def _read(shared: Path) -> "list[Trajectory]":
    """The demonstrations, once the expert has left them.

    Raises:
        FileNotFoundError: it has not, for hours.
    """
    from dynamics import Trajectory

    path, end = shared / "demonstrations.npz", time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > end:
            raise FileNotFoundError(f"no demonstrations at {path}; remove the expert's cell and run it again")
        time.sleep(1.0)
    with np.load(path) as file:
        columns = zip(file["observations"], file["controls"], file["rewards"], strict=True)
        return [Trajectory(y, u, rewards=r, dt=1.0, truncated=True) for y, u, r in columns]


def mbrl_generator(seed: int) -> Any:
    """A source of random numbers."""
    import torch

    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    serve(answer)
