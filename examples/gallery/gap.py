"""A planar quadrotor through the gap between two walls: a shortest path on a grid says which way, multiple shooting flies it."""

import math
from pathlib import Path

import torch
from torch import Tensor

from dynamics import PlanarQuadrotor
from gallery.guesses import largest_violation, states_guess
from mbrl.plots import animate_paths, outlines, plot_paths, save_figure, write_video
from planners import DDP, GridGraph, Problem, ResidualCost, StateInequality, TerminalState, shortest_path, solve

WALLS = torch.tensor([[0.0, 2.3, 0.15, 1.2], [0.0, -0.6, 0.15, 1.2]], dtype=torch.float64)  # center, half sizes [m]
REGION = [-2.6, -0.7], [2.6, 2.3]  # what the pictures show
START, GOAL = [-2.0, 0.0], [2.0, 0.0]
MARGIN = 0.06  # half the thickness of the quadrotor [m]


def inside(points: Tensor, margin: float = 0.0) -> Tensor:
    """Positive within a wall, a superellipse of order 4, a row for each: ``(..., 2)``."""
    walls = WALLS.to(points)
    scaled = (points[..., None, :] - walls[:, :2]) / (walls[:, 2:] + margin)
    return 1.0 - scaled.square().square().sum(-1).sqrt().sqrt()


def run(folder: Path, tiny: bool) -> bool:
    """Whether the quadrotor hovers at the goal, its arms have touched no wall, and the plan is a strict local minimum."""
    quadrotor, T = PlanarQuadrotor(dt=0.04), 40 if tiny else 70
    arm, hover = float(quadrotor.arm_length), quadrotor.hover_control.double()

    def touching(x: Tensor) -> Tensor:
        """Five points along the arms against two walls."""
        along = torch.linspace(-arm, arm, 5, dtype=x.dtype)
        points = [x[..., :1] + along * torch.cos(x[..., 2:3]), x[..., 1:2] - along * torch.sin(x[..., 2:3])]
        return inside(torch.stack(points, dim=-1), MARGIN).flatten(-2)

    def residual(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        weights = x.new_tensor([0.1, 0.1, 0.03])
        return torch.cat([math.sqrt(0.2) * (u - hover.to(u)), weights * x[..., 3:]], dim=-1)

    problem = Problem(
        quadrotor,
        ResidualCost(residual),
        T,
        control_limits=(0.0, 5.0),
        constraints=(StateInequality(touching, name="walls"),),
        terminal_constraints=(TerminalState([*GOAL, 0.0, 0.0, 0.0, 0.0], name="hover"),),
    )
    x0 = torch.tensor([*START, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)

    way = shortest_way(T + 1)  # positions and their velocities; it hovers all along, which no flight does
    xs = torch.zeros(T + 1, 6, dtype=torch.float64)
    xs[:, :2], xs[:-1, 3:5] = way, way.diff(dim=0) / quadrotor.dt
    guess = states_guess(problem, xs, hover.expand(T, 2))
    planner = DDP(shooting="multiple", max_iterations=4 if tiny else 200, penalty=50.0)
    plan = solve(problem, planner, x0, init=guess, throw=False)
    worst = largest_violation(plan)
    print(f"{plan}\n{plan.certificate}\nlargest violation {worst:.1e}")
    steepest = math.degrees(float(plan.xs[:, 2].abs().max()))
    print(f"thrusts from {float(plan.us.min()):.2f} to {float(plan.us.max()):.2f} N, steepest {steepest:.0f} degrees")

    paths = {"flight": plan.xs[:, :2], "shortest path on the grid": way}
    parts, labels = outlines(quadrotor, plan.xs), ("x [m]", "height [m]")
    title = f"{T * quadrotor.dt:g} s, cost {float(plan.cost):.3f}"
    figure = plot_paths(
        paths, obstacles=inside, bodies=parts, goal=GOAL, region=REGION, labels=labels, title=title, snapshots=15
    )
    save_figure(figure, folder / "gap.png")
    frames = animate_paths(
        parts, dt=quadrotor.dt, paths=paths, obstacles=inside, goal=GOAL, region=REGION, labels=labels
    )
    write_video(folder / "gap.mp4", frames, 25.0)
    return bool(plan.certificate.optimal) and worst <= 1e-8


def shortest_way(count: int) -> Tensor:
    """Positions ``(count, 2)`` at equal distances from start to goal, clear of the walls by more than an arm's length."""
    size, shape, origin = 0.1, (51, 31), [-2.5, -1.0]
    x, z = (origin[i] + size * torch.arange(shape[i], dtype=torch.float64) for i in range(2))
    points = torch.stack(torch.meshgrid(x, z, indexing="ij"), dim=-1)
    blocked = (inside(points, 0.2) > 0).any(-1)
    grid = GridGraph(torch.ones(shape), cell_size=size, origin=origin, obstacles=blocked)
    goal = grid.cell_at(GOAL)
    path = shortest_path(grid, grid.cell_at(START), goal, grid.heuristic(goal))
    print(f"grid: {path}, {path.length:.2f} m")
    return torch.as_tensor(path.resampled(count)).double()
