"""Parking a car that can only steer (Tassa, Mansard and Todorov 2014), from eight first guesses: local minima and their costs."""

import math
from pathlib import Path

import numpy as np
import torch

import mbrl
from mbrl.plots import animate_paths, outlines, plot_paths, save_figure, write_video
from planners import DDP, multi_start

BEST_KNOWN = 1.9053


def run(folder: Path, tiny: bool) -> bool:
    """Whether the best of the starts parks the car at the best cost known."""
    task = mbrl.car_parking()
    T, starts, iterations = (30, 2, 4) if tiny else (500, 8, 300)
    problem = task.problem(horizon=T)
    x0 = torch.tensor([1.0, 1.0, 1.5 * math.pi, 0.0], dtype=torch.float64)
    guesses = 0.1 * np.stack([np.random.default_rng(seed).standard_normal((500, 2))[:T] for seed in range(starts)])
    found = multi_start(problem, DDP(max_iterations=iterations), x0, controls=torch.from_numpy(guesses))
    print(found)
    print(found.best.certificate)
    plan = found.best
    x, y, heading, speed = plan.xs[-1].tolist()
    print(f"parked {1e3 * x:.1f} mm and {1e3 * y:.1f} mm off, heading off by {heading:.4f} rad, at {speed:.3f} m/s")

    path = {"middle of the back axle": plan.xs[:, :2]}
    parts = outlines(problem.dynamics, plan.xs, plan.us)
    title = f"{T * task.dynamics.dt:g} s, cost {float(plan.cost):.4f}"
    figure = plot_paths(path, bodies=parts, snapshots=14, goal=[0.0, 0.0], title=title)
    save_figure(figure, folder / "car_parking.png")
    frames = animate_paths(parts, dt=task.dynamics.dt, paths=path, goal=[0.0, 0.0])
    write_video(folder / "car_parking.mp4", frames, 25.0)
    return float(plan.cost) <= BEST_KNOWN and max(abs(x), abs(y)) < 0.02 and abs(heading) < 0.01
