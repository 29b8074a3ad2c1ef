"""Guided cost learning: log Z and weights of a linear plant beside the exact ones, and the score of a pendulum's learned cost."""

import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import mbrl
from dynamics import LinearDynamics, Trajectory
from mbrl.tasks.base import uniform_initial_state
from planners import DDP, ICEM, LQR, DiagonalQuadraticCost, LinearFeatureCost, Problem, Solution, solve

TAU = 0.1  # temperature of the demonstrator on the linear plant
TRUTH = (1.0, 0.3), (0.2,)  # weights of two states and the control
OTHERS = ((2.0, 0.1), (0.3,)), ((0.4, 0.6), (0.35,))  # whose controllers the samples come from
WIDER = 1.15  # deviations of these, beside those of maximum entropy: tails must not be missing
STARTS = 10  # of the pendulum that nobody has seen
DEMONSTRATIONS, CONDITIONS = (
    5,
    10,
)  # of it, and states from which rollouts begin, those of the demonstrations among them
SEARCH = ICEM(num_samples=1000, max_iterations=20)  # of the expert, who then descends by DDP
NOTHING_LEARNED = "true cost, DDP from no control"
LINEAR = mbrl.NetworkSettings(hidden=(), initial_std=0.05, normalize=False, dtype="float64")


def main(quick: bool) -> list[dict[str, Any]]:
    """Rows of three kinds, medians over seeds with the worst of them.

    "log Z": of 20 steps of a linear plant with quadratic costs, from one state, with samples of two controllers of other costs,
    half from each. "error" is that of the estimate of Z beside the Gaussian integral, "effective" the share of the samples that
    it rests on.

    "weights": of the plant, learned by GCL from episodes of 10 steps of the controller of maximum entropy, with 20 samples from
    each start. "error" is the largest of a weight beside that of LaplaceIRL, which is exact here, and "from the truth" that
    beside the true weight.

    "pendulum": strong enough to lift the rod at once, 30 steps, from 5 noisy demonstrations of an expert, who searches with
    samples and then descends by DDP; rollouts of the training begin in 10 states. "score" is the share
    (random - found) / (random - expert) of the true costs of 10 episodes from starts that were drawn anew: of plans with the
    learned cost, and of the policy that was trained beside it; one row is of plans with the true cost, by descent alone.
    """
    torch.set_num_threads(1)
    rows = [
        _log_z(number, range(2 if quick else 5)) for number in ((100, 1000) if quick else (100, 1000, 10_000, 40_000))
    ]
    rows += [_weights(number, range(1 if quick else 3)) for number in ((5,) if quick else (25, 100))]
    for cost in ("features",) if quick else ("features", "network"):
        rows += _pendulum(cost, range(1 if quick else 3))
    return rows


def _summary(kind: str, what: str, seeds: range, **columns: list[float]) -> dict[str, Any]:
    row: dict[str, Any] = {"figure": kind, "of": what, "seeds": len(seeds)}
    for name, values in columns.items():
        worst = min if name in ("score", "effective") else max
        row |= {name: statistics.median(values), f"{name}, worst": worst(values)}
    return row


# --- the linear plant -------------------------------------------------------------------------------------------------


def _regulator(steps: int) -> mbrl.Task:
    A = torch.tensor([[1.0, 0.1], [-0.1, 0.98]], dtype=torch.float64)
    plant = LinearDynamics(A, torch.tensor([[0.0], [0.1]], dtype=torch.float64), dt=0.1)

    def start(batch: int, generator: torch.Generator) -> Tensor:
        return torch.randn(batch, 2, generator=generator, dtype=torch.float64)

    cost = DiagonalQuadraticCost(*TRUTH)
    return mbrl.Task("Regulator", plant, cost, (-20.0, 20.0), start, horizon=steps, episode_steps=steps)


def _controlled(problem: Problem, x0: Tensor) -> Any:
    """Controllers of maximum entropy of a linear plant."""
    with torch.no_grad():
        return solve(problem, LQR(), x0).controller(temperature=TAU)


def _log_z(number: int, seeds: range) -> dict[str, Any]:
    problem = replace(_regulator(20).problem(), control_limits=None)
    x0 = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    best = _controlled(problem, x0)
    steps, half = int(problem.horizon), number // 2
    with torch.no_grad():
        cost = problem.trajectory_cost(best.xs, best.us)
        exact = float(-cost / TAU + best.entropy().sum() - 0.5 * steps)  # of log p = -J / tau - log Z
        laws = []
        for weights in OTHERS:
            law = _controlled(replace(problem, cost=DiagonalQuadraticCost(*weights)), x0)
            laws.append(replace(law, covariance=WIDER**2 * law.covariance))
    errors, effective = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        drawn = [_drawn(problem, law, half, generator) for law in laws]
        xs, us = (torch.cat(part) for part in zip(*drawn, strict=True))
        log_q = torch.stack(
            [law.log_prob(xs[..., :-1, :].unsqueeze(1), us.unsqueeze(1)).sum(-1).squeeze(1) for law in laws]
        )
        with torch.no_grad():
            costs = problem.trajectory_cost(xs, us)
        found = mbrl.log_partition(costs, log_q, torch.tensor([half, half]), temperature=TAU)
        errors.append(abs(float((found.value - exact).exp()) - 1.0))
        effective.append(float(found.effective_samples) / number)
    return _summary("log Z", f"{number} samples", seeds, error=errors, effective=effective)


def _drawn(problem: Problem, law: Any, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """States ``(number, T+1, n)`` and controls ``(number, T, m)`` of one controller."""
    x = law.xs[0, :1].expand(number, -1)
    memory, xs, us = law.init(number, generator=generator), [x], []
    for _ in range(int(problem.horizon)):
        u, memory = law.act(x, memory, deterministic=False)
        x = problem.dynamics(x, u)
        xs.append(x)
        us.append(u)
    generator.set_state(memory.generator.get_state())
    return torch.stack(xs, -2), torch.stack(us, -2)


def _weights(number: int, seeds: range) -> dict[str, Any]:
    task, truth = _regulator(10), torch.tensor([*TRUTH[0], *TRUTH[1]], dtype=torch.float64)
    problem, first = replace(task.problem(), control_limits=None), DiagonalQuadraticCost([1.0, 1.0], [1.0])
    errors, away, seconds = [], [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x0 = task.initial_state(number, generator)
        shown = _shown(task, _controlled(problem, x0), x0, generator)
        exact = mbrl.LaplaceIRL(temperature=TAU).learn(problem, first, shown).weights
        algorithm = mbrl.GCL(
            cost=first,
            teacher=mbrl.ModelTeacher(temperature=TAU, min_std=0.002, max_std=0.5),
            samples=20,
            iterations=12,
            cost_steps=30,
            cost_learning_rate=0.05,
            network=LINEAR,
            supervised=mbrl.SupervisedStep(steps=10),
        )
        start = time.process_time()
        found = mbrl.train(algorithm, task, demonstrations=shown, seed=seed, progress=False, evaluation_episodes=0)
        seconds.append(time.process_time() - start)
        learned = found.reward.weights.detach()
        errors.append(float((learned / exact - 1.0).abs().max()))
        away.append(float((learned / truth - 1.0).abs().max()))
    row = _summary("weights", f"{number} demonstrations", seeds, error=errors) | {
        "from the truth": statistics.median(away)
    }
    return row | {"seconds": statistics.median(seconds)}


def _shown(task: mbrl.Task, actor: Any, x0: Tensor, generator: torch.Generator) -> list[Trajectory]:
    return mbrl.record(task, actor, len(x0), initial_states=x0, deterministic=False, generator=generator)


# --- the pendulum -----------------------------------------------------------------------------------------------------


def _features(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
    """Not those of the task, whose cost is nearly linear in the angle."""
    return torch.stack([1.0 - x[..., 0].cos(), 0.1 * x[..., 1] ** 2, (u[..., 0] / 8.0) ** 2], -1)


def _pendulum(kind: str, seeds: range) -> list[dict[str, Any]]:
    """A row for each way to act on the cost of three features, or of a network."""
    start = uniform_initial_state([1.5, -1.0], [4.8, 1.0])  # anywhere in the lower half
    task = replace(mbrl.pendulum_swing_up("torch", torque_limit=8.0), horizon=30, episode_steps=30, initial_state=start)
    problem = task.problem()
    scores: dict[str, list[float]] = {}
    seconds = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x0 = task.initial_state(DEMONSTRATIONS, generator)
        expert = _planned(problem, DDP(), x0, generator).controller(temperature=0.3)
        shown = _shown(task, expert, x0, generator)
        algorithm = SETTINGS[kind]
        begun = time.process_time()
        found = mbrl.train(algorithm, task, demonstrations=shown, seed=seed, progress=False, evaluation_episodes=0)
        seconds.append(time.process_time() - begun)
        for way, score in _scores(task, found, torch.Generator().manual_seed(1000 + seed)).items():
            scores.setdefault(way, []).append(score)
    rows = [] if kind == "network" else [_summary("pendulum", NOTHING_LEARNED, seeds, score=scores[NOTHING_LEARNED])]
    del scores[NOTHING_LEARNED]
    return rows + [
        _summary("pendulum", f"{kind}, {way}", seeds, score=values) | {"seconds": statistics.median(seconds)}
        for way, values in scores.items()
    ]


def _planned(problem: Problem, descent: DDP, x0: Tensor, generator: torch.Generator) -> Solution:
    """The way up that many samples find, and descent from there."""
    with torch.no_grad():
        return solve(problem, descent, x0, init=solve(problem, SEARCH, x0, generator=generator), throw=False)


@torch.no_grad()
def _scores(task: mbrl.Task, found: mbrl.TrainingResult, generator: torch.Generator) -> dict[str, float]:
    """What plans with the learned cost, and the policy, are worth from starts that nobody has seen."""
    problem, x = task.problem(), task.initial_state(STARTS, generator)
    us = 16.0 * torch.rand(STARTS, 30, 1, generator=generator, dtype=torch.float64) - 8.0
    random = problem.trajectory_cost(task.dynamics.rollout(x, us), us).mean()
    best = _planned(problem, DDP(), x, generator).cost.mean()

    def score(us: Tensor) -> float:
        paid = problem.trajectory_cost(task.dynamics.rollout(x, us), us).mean()
        return float((random - paid) / (random - best))

    learned, plain = replace(problem, cost=found.reward), DDP("gauss-newton", certify=False)
    episodes = mbrl.record(task, found.policy, STARTS, initial_states=x)
    done = torch.stack([torch.as_tensor(one.controls.copy()) for one in episodes])
    guess = Solution.guess(learned, task.dynamics.rollout(x, done), done)
    return {
        NOTHING_LEARNED: score(solve(problem, DDP(), x, throw=False).us),
        "DDP from no control": score(solve(learned, plain, x, throw=False).us),
        "DDP from what the policy does": score(solve(learned, plain, x, init=guess, throw=False).us),
        "ICEM, then DDP": score(_planned(learned, plain, x, generator).us),
        "policy": score(done),
    }


SETTINGS = {
    "features": mbrl.GCL(
        cost=LinearFeatureCost(_features, [1.0, 1.0, 1.0]),
        teacher=mbrl.ModelTeacher(max_std=0.3),
        conditions=CONDITIONS,
        iterations=10,
        cost_learning_rate=0.05,
    ),
    "network": mbrl.GCL(teacher=mbrl.ModelTeacher(max_std=0.3), conditions=CONDITIONS, iterations=30),
}
