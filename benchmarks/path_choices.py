"""Costs from choices among sampled trajectories, noise of one size and of six: error of weights, regret in held-out maps."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import mbrl
from dynamics import Dynamics, LinearDynamics, Pendulum, TorchDynamics, Trajectory
from planners import (
    DDP,
    ICEM,
    CostMap,
    FeatureGrid,
    GoalCost,
    KnotNoise,
    LinearFeatureCost,
    LinearTerrain,
    Problem,
    shortest_path,
    solve,
)

SCALES = 1, 6
WIDTHS = 1.5, 15.0  # of control limits, beside the largest control that was demonstrated
TAU = 0.05  # temperature of a demonstrator with noise
SCENES, HELD_OUT, SHAPE, CELL = 8, 4, (18, 15), 0.5
WAYS = ((0, 3), (17, 11)), ((0, 7), (17, 7)), ((0, 11), (17, 3))  # to be planned in each map
MUD = 3.0, 9.0  # what two kinds of terrain cost beyond the floor


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per case and learner, medians over seeds and the worst of them.

    "error" is the largest of the logarithms of learned over true weights, without their mean where demonstrations have no noise
    and tell no factor; of a regulator and of a pendulum, from 20 plans of 8 and 10 steps, with control limits of ``WIDTHS``
    times the largest control. LaplaceIRL, which knows no limits, is beside it where demonstrations are noisy.
    "regret" is by how much paths cost more than the best ones in 4 maps, found by graph search with the terrain that was learned
    from a point that ICEM drove through 8 others.
    """
    torch.set_num_threads(1)
    seeds, rows = range(1 if quick else 5), []
    for name, (plant, features, truth, steps, spread) in _plants().items():
        for noise in (0.0, TAU):
            for wide in WIDTHS:
                found: dict[str, list[tuple[float, float]]] = {}
                for seed in seeds:
                    problem, shown = _demonstrated(plant, features, truth, steps, spread, noise, seed)
                    limit = wide * max(float(abs(one.controls).max()) for one in shown)
                    limited = replace(problem, control_limits=(-limit, limit))
                    learners: dict[str, tuple[Any, Problem, dict[str, int]]] = {
                        _name(scales): (
                            mbrl.PathIntegralIRL(temperature=noise or 1.0, scales=scales),
                            limited,
                            {"seed": seed},
                        )
                        for scales in SCALES
                    }
                    if noise:
                        learners["LaplaceIRL"] = mbrl.LaplaceIRL(temperature=noise), problem, {}
                    for label, (learner, seen, options) in learners.items():
                        start = time.process_time()
                        guess = LinearFeatureCost(features, [1.0] * len(truth))
                        learned = learner.learn(seen, guess, shown, **options)
                        seconds = time.process_time() - start
                        error = learned.weights.log() - torch.tensor(truth, dtype=torch.float64).log()
                        error = error if noise else error - error.mean()
                        found.setdefault(label, []).append((float(error.abs().max()), seconds))
                case = {"of": name, "temperature": noise, "limits": wide}
                rows += [case | {"learner": label} | _summary("error", values) for label, values in found.items()]
    maps: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        for label, value in _in_maps(seed).items():
            maps.setdefault(label, []).append(value)
    return rows + [{"of": "maps", "learner": label} | _summary("regret", values) for label, values in maps.items()]


def _name(scales: int) -> str:
    return f"PathIntegralIRL, {'one size' if scales == 1 else f'{scales} sizes'}"


def _summary(name: str, values: list[tuple[float, float]]) -> dict[str, Any]:
    numbers, seconds = zip(*values, strict=True)
    row = {"seeds": len(values), name: statistics.median(numbers), f"{name}, worst": max(numbers)}
    return row | {"seconds": statistics.median(seconds)}


# --- weights ----------------------------------------------------------------------------------------------------------

Features = Callable[[Tensor, Tensor, int | Tensor], Tensor]


def _plants() -> dict[str, tuple[Dynamics, Features, tuple[float, ...], int, float]]:
    """Plants, features, true weights, steps, and the spread of initial states."""
    A = torch.tensor([[1.0, 0.3], [0.2, 0.9]], dtype=torch.float64)
    linear = LinearDynamics(A, torch.tensor([[0.0], [0.5]], dtype=torch.float64), dt=0.1)

    def squares(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        return torch.cat([x, u], -1).square()

    def swings(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        return torch.stack([1.0 - x[..., 0].cos(), x[..., 1].square(), u[..., 0].square()], -1)

    return {
        "regulator": (linear, squares, (1.0, 0.25, 0.15), 8, 0.6),
        "pendulum": (Pendulum(), swings, (2.0, 0.1, 0.1), 10, 0.6),
    }


@torch.no_grad()
def _demonstrated(
    plant: Dynamics, features: Features, truth: tuple[float, ...], steps: int, spread: float, noise: float, seed: int
) -> tuple[Problem, list[Trajectory]]:
    """The problem without limits, and plans or, with noise, what their controllers of maximum entropy do."""
    problem = Problem(plant, LinearFeatureCost(features, truth), steps)
    generator = torch.Generator().manual_seed(seed)
    x = spread * torch.randn(20, 2, generator=generator, dtype=torch.float64)
    plan = solve(problem, DDP(tolerance=1e-10), x)
    if not noise:
        return problem, _recorded(plan.xs, plan.us, plant.dt)
    controller = plan.controller(temperature=noise)
    memory, xs, us = controller.init(20, generator=generator), [x], []
    for _ in range(steps):
        u, memory = controller.act(x, memory, deterministic=False)
        x = plant(x, u)
        xs.append(x)
        us.append(u)
    return problem, _recorded(torch.stack(xs, -2), torch.stack(us, -2), plant.dt)


def _recorded(xs: Tensor, us: Tensor, dt: float) -> list[Trajectory]:
    return [Trajectory(x, u, states=x, dt=dt) for x, u in zip(xs.numpy(), us.numpy(), strict=True)]


# --- maps -------------------------------------------------------------------------------------------------------------


def _in_maps(seed: int) -> dict[str, tuple[float, float]]:
    """Mean regret in held-out maps, and seconds of learning."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(SCENES + HELD_OUT, 2, 6, 5, generator=generator, dtype=torch.float64)
    patches = (torch.nn.functional.interpolate(coarse, size=SHAPE, mode="bicubic") > 0.3).double()
    scenes, hidden = FeatureGrid(patches[:SCENES], cell_size=CELL), LinearTerrain(MUD)
    goal = GoalCost([8.5, 3.5], 0.0, [0.01, 0.01], [20.0, 20.0])
    point, noise = TorchDynamics(lambda x, u: x + u, 2, 2, 1.0), KnotNoise(6)
    problem = Problem(point, CostMap(hidden, scenes) + goal, 24, control_limits=(-0.7, 0.7))
    x0 = torch.tensor([0.0, 3.5], dtype=torch.float64).expand(SCENES, -1)
    plan = solve(problem, ICEM(noise=noise, num_samples=200, max_iterations=15), x0, generator=generator)
    shown = _recorded(plan.xs, plan.us, 1.0)
    found = {"none: the shortest way": (_regret(LinearTerrain([0.0, 0.0]), hidden, patches[SCENES:]), 0.0)}
    for scales in SCALES:
        learner, start = mbrl.PathIntegralIRL(num_samples=100, noise=noise, scales=scales), time.process_time()
        learned = learner.learn(problem, CostMap(LinearTerrain([1.0, 1.0]), scenes) + goal, shown, seed=seed)
        seconds = time.process_time() - start
        found[_name(scales)] = _regret(learned.cost.costs[0].terrain, hidden, patches[SCENES:]), seconds
    return found


def _regret(terrain: LinearTerrain, hidden: LinearTerrain, patches: Tensor) -> float:
    regrets = []
    for patch in patches:
        grid = FeatureGrid(patch, cell_size=CELL)
        graph = CostMap(terrain, grid).graph()
        regrets += [
            mbrl.path_regret(CostMap(hidden, grid), shortest_path(graph, *way, graph.heuristic(way[1]))) for way in WAYS
        ]
    return statistics.mean(regrets)
