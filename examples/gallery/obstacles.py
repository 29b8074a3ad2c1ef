"""A robot among discs: a tree finds a way, and the optimizer makes it smooth without touching anything."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dynamics import Unicycle
from gallery.guesses import largest_violation
from mbrl.plots import animate_paths, outlines, plot_paths, save_figure, write_video
from mbrl.plots.bodies import ROBOT
from planners import DDP, RRT, Problem, QuadraticCost, StateInequality, TerminalState, solve

GOAL = [5.0, 4.0]
DISCS = torch.tensor(  # x, y, radius [m]
    [
        [1.2, 0.6, 0.45],
        [2.4, 2.0, 0.55],
        [0.7, 2.2, 0.45],
        [3.6, 0.9, 0.45],
        [3.9, 3.2, 0.35],
        [2.2, 3.7, 0.35],
    ],
    dtype=torch.float64,
)


def inside(positions: Tensor, margin: float = 0.0) -> Tensor:
    """Positive within a disc that is wider by a margin [m], a row for each: ``(*batch, 6)``."""
    discs = DISCS.to(positions)
    squared = (positions[..., None, :] - discs[:, :2]).square().sum(-1)
    return (discs[:, 2] + margin).square() - squared


def run(folder: Path, tiny: bool) -> bool:
    """Whether the smooth path is a strict local minimum, cheaper than the tree's, and free."""
    effort = torch.diag(torch.tensor([1.0, 0.2], dtype=torch.float64))
    limits = torch.tensor([0.0, -2.0]), torch.tensor([1.5, 2.0])  # speed [m/s], turn rate [rad/s]
    problem = Problem(
        Unicycle(dt=0.2),
        QuadraticCost(torch.zeros(3, 3, dtype=torch.float64), effort),
        40,
        control_limits=limits,
        constraints=(StateInequality(lambda x: inside(x[..., :2], ROBOT), name="discs"),),
        terminal_constraints=(TerminalState(GOAL, states=[0, 1], name="goal"),),
    )
    start = torch.tensor([-0.5, 0.0, 0.0], dtype=torch.float64)

    room = torch.tensor([-1.0, -1.0, -math.pi]), torch.tensor([6.0, 5.0, math.pi])
    tree = RRT(goal=[*GOAL, 0.0], goal_tolerance=[0.15, 0.15, math.inf], region=room)
    way = solve(replace(problem, terminal_constraints=()), tree, start, generator=torch.Generator().manual_seed(0))
    plan = solve(problem, DDP(max_iterations=20 if tiny else 200), start, init=way, throw=False)
    print(f"tree: {way}\nplan: {plan}\n{plan.certificate}")
    worst = largest_violation(plan)
    print(f"cost {float(way.cost):.3f} before, {float(plan.cost):.3f} after; largest violation {worst:.1e}")

    paths = {"optimal": plan.xs[:, :2], "tree": way.xs[:, :2]}
    parts = outlines(problem.dynamics, plan.xs)
    title = f"effort {float(way.cost):.1f} (tree), {float(plan.cost):.1f} (optimal)"
    figure = plot_paths(paths, obstacles=inside, bodies=parts, goal=GOAL, title=title)
    save_figure(figure, folder / "obstacles.png")
    fps = 5.0 if tiny else 25.0
    frames = animate_paths(parts, dt=problem.dynamics.dt, paths=paths, obstacles=inside, goal=GOAL, fps=fps)
    write_video(folder / "obstacles.mp4", frames, fps)
    return bool(plan.certificate.optimal) and float(plan.cost) < float(way.cost) and worst <= 1e-8
