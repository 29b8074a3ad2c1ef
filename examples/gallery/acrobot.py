"""Swinging an acrobot up to rest with a weak elbow, from four states at once, each from several first guesses."""

import math
from pathlib import Path

import torch

from dynamics import Acrobot, Trajectory
from mbrl.plots import animate, plot_trajectory, save_figure, write_video
from planners import DDP, Problem, QuadraticCost, Slack, TerminalState, multi_start, solve

TORQUE_LIMIT = 10.0  # [N m]


def run(folder: Path, tiny: bool) -> bool:
    """Whether every acrobot ends upright and at rest, with torques within the limit."""
    acrobot, T, starts = Acrobot(dt=0.05).with_parameters(length_1=0.5), 20 if tiny else 60, 2 if tiny else 6
    effort = QuadraticCost(torch.diag(torch.tensor([0.0, 0.0, 0.02, 0.02])), 0.02 * torch.eye(1))

    def problem(slack: Slack | None) -> Problem:
        upright = TerminalState([0.0, 0.0, 0.0, 0.0], name="upright", soft=slack)
        limits = (-TORQUE_LIMIT, TORQUE_LIMIT)
        return Problem(acrobot, effort, T, control_limits=limits, terminal_constraints=(upright,))

    hanging = torch.tensor([math.pi, 0.0, 0.0, 0.0], dtype=torch.float64)
    away = torch.tensor([[0.0, 0.0, 0.0, 0.0], [-0.3, 0.0, 0.0, 0.0], [0.0, 0.4, 0.0, 0.0], [0.2, -0.2, 0.5, 0.0]])

    # At a price first: many ways up are tried, and those that end up elsewhere are dearer. Then the best of them, to the point.
    planner = DDP(max_iterations=4 if tiny else 120, certify=False)
    found = multi_start(problem(Slack(quadratic=200.0)), planner, hanging + away, starts=starts, spread=0.3)
    print(found)
    planner = DDP(max_iterations=4 if tiny else 300, penalty=5e4)
    plan = solve(problem(None), planner, hanging + away, init=found.best, throw=False)
    print(f"{plan}\n{plan.certificate}")
    rest = float(plan.xs[:, -1].abs().max())
    print(f"furthest from rest: {rest:.1e}; largest torque {float(plan.us.abs().max()):.2f} N m")

    episodes = [_recorded(acrobot, xs, us) for xs, us in zip(plan.xs, plan.us, strict=True)]
    figure = plot_trajectory(episodes, control_limits=(-TORQUE_LIMIT, TORQUE_LIMIT))
    save_figure(figure, folder / "acrobot.png")
    write_video(folder / "acrobot.mp4", animate(acrobot, plan.xs[0], fps=20.0), 20.0)
    return bool(plan.usable.all()) and rest <= 1e-5


def _recorded(acrobot: Acrobot, xs: torch.Tensor, us: torch.Tensor) -> Trajectory:
    names = {"states": acrobot.state_names, "observations": acrobot.state_names, "controls": acrobot.control_names}
    units = {"states": ["rad", "rad", "rad/s", "rad/s"], "controls": ["N m"]}
    return Trajectory(xs.numpy(), us.numpy(), states=xs.numpy(), dt=acrobot.dt, names=names, units=units)
