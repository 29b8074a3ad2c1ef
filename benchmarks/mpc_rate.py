"""iCEM on an ensemble of the demo's size: planning rate [Hz], and arithmetic [GFLOP/s] over the matrix-product peak."""

from typing import Any

import torch
from harness import interleave, matmul_gflops

import mbrl
from dynamics import Ensemble, Training, fit
from planners import ICEM, solve


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per planner setting; the networks' multiply-adds are counted, two operations each."""
    task = mbrl.cart_pole_swing_up(backend="torch")
    logs = mbrl.record(task, mbrl.SplineNoise(task.control_limits), 20, steps=50)
    model = Ensemble.for_trajectories(logs, angles=["angle"])
    fit(model, logs, training=Training(steps=20), progress=False)  # the rate does not depend on what it predicts
    problem, x0 = task.problem(model), task.initial_state(1, torch.Generator().manual_seed(0))
    weights = sum(weight[0].numel() for weight in model.weights)
    peak = matmul_gflops(torch.float32)

    rows = []
    for iterations in (5, 3):
        planner = ICEM(max_iterations=iterations)
        start = solve(problem, planner, x0)
        timing = interleave(5 if quick else 20, solve=lambda p=planner, s=start: solve(problem, p, x0, init=s))["solve"]
        operations = 2 * weights * model.num_members * start.stats["evaluations"] * task.horizon
        achieved = operations / timing.median / 1e9
        rows.append(
            {
                "iterations": iterations,
                "samples": planner.num_samples,
                "horizon": task.horizon,
                "rate": 1 / timing.median,
                "plant": 1 / task.dynamics.dt,
                "GFLOP/s": achieved,
                "peak": peak,
                "ratio": achieved / peak,
            }
        )
    return rows
