"""An arm of two rods reaches past a ball to a point, at rest there: the best of several first guesses."""

import math
from pathlib import Path

import torch
from torch import Tensor

from dynamics import TwoLinkArm
from gallery.guesses import largest_violation
from mbrl.plots import animate_paths, outlines, plot_paths, save_figure, write_video
from planners import DDP, Problem, ResidualCost, StateEquality, StateInequality, multi_start

CENTER, RADIUS = [0.75, 0.0], 0.22  # of the ball [m]
TARGET = [0.6, 0.5]
REGION = [-0.75, -1.1], [1.1, 0.65]  # what the pictures show
MARGIN = 0.03  # half the thickness of a rod [m]
TORQUE_LIMIT = 12.0  # [N m]


def inside(points: Tensor, margin: float = 0.0) -> Tensor:
    """Positive within the ball, one row: ``(..., 1)``."""
    squared = (points - points.new_tensor(CENTER)).square().sum(-1, keepdim=True)
    return (RADIUS + margin) ** 2 - squared


def run(folder: Path, tiny: bool) -> bool:
    """Whether the fingertip rests at the target, no rod has touched the ball, and the plan is a strict local minimum."""
    arm, T, starts = TwoLinkArm(dt=0.04), 15 if tiny else 50, 2 if tiny else 6

    def touching(x: Tensor) -> Tensor:
        """Points along both rods, 0.1 m apart."""
        share = torch.linspace(0.0, 1.0, 6, dtype=x.dtype)[1:, None]
        first, both = x[..., None, None, 0], x[..., None, None, 0] + x[..., None, None, 1]
        upper = 0.5 * share * torch.cat([torch.sin(first), torch.cos(first)], dim=-1)
        lower = upper[..., -1:, :] + 0.5 * share * torch.cat([torch.sin(both), torch.cos(both)], dim=-1)
        return inside(torch.cat([upper, lower], dim=-2), MARGIN).squeeze(-1)

    def at_target(x: Tensor) -> Tensor:
        return torch.cat([arm.fingertip(x) - x.new_tensor(TARGET), x[..., 2:]], dim=-1)

    problem = Problem(
        arm,
        ResidualCost(lambda x, u, t: 0.3 * torch.cat([u, x[..., 2:]], dim=-1)),
        T,
        control_limits=(-TORQUE_LIMIT, TORQUE_LIMIT),
        constraints=(StateInequality(touching, name="ball"),),
        terminal_constraints=(StateEquality(at_target, name="reach"),),
    )
    below = torch.tensor([math.pi - 0.6, -0.6, 0.0, 0.0], dtype=torch.float64)
    planner = DDP(max_iterations=4 if tiny else 200)
    found = multi_start(problem, planner, below, starts=starts, spread=0.3, throw=False)
    print(found)
    plan = found.best
    worst = largest_violation(plan)
    print(f"{plan.certificate}\nlargest violation {worst:.1e}")

    tip = {"fingertip": arm.fingertip(plan.xs)}
    parts, labels = outlines(arm, plan.xs), ("x [m]", "height [m]")
    title = f"{T * arm.dt:g} s, cost {float(plan.cost):.2f}"
    figure = plot_paths(
        tip, obstacles=inside, bodies=parts, goal=TARGET, region=REGION, labels=labels, title=title, snapshots=9
    )
    save_figure(figure, folder / "arm.png")
    frames = animate_paths(parts, dt=arm.dt, paths=tip, obstacles=inside, goal=TARGET, region=REGION, labels=labels)
    write_video(folder / "arm.mp4", frames, 25.0)
    return bool(plan.certificate.optimal) and worst <= 1e-8
