"""iCEM on an ensemble of the demo's size: planning rate [Hz], and arithmetic [GFLOP/s] over the matrix-product peak."""

import itertools
from typing import Any

import torch
from harness import interleave, matmul_gflops

import mbrl
from dynamics import Ensemble, Training, fit
from planners import ICEM, solve


def main(quick: bool) -> list[dict[str, Any]]:
    """One row per number of threads and of iterations; the networks' multiply-adds are counted, two operations each."""
    task = mbrl.cart_pole_swing_up(backend="torch")
    logs = mbrl.record(task, mbrl.SplineNoise(task.control_limits), 20, steps=50)
    model = Ensemble.for_trajectories(logs, angles=["angle"])
    fit(model, logs, training=Training(steps=20), progress=False)  # the rate does not depend on what it predicts
    problem, x0 = task.problem(model), task.initial_state(1, torch.Generator().manual_seed(0))
    weights = sum(weight[0].numel() for weight in model.weights)

    rows = []
    threads = torch.get_num_threads()
    for count, iterations in itertools.product(sorted({1, threads}), (5, 3)):
        torch.set_num_threads(count)
        planner = ICEM(max_iterations=iterations)
        start = solve(problem, planner, x0)
        timing = interleave(5 if quick else 20, solve=lambda p=planner, s=start: solve(problem, p, x0, init=s))["solve"]
        operations = 2 * weights * model.num_members * start.stats["evaluations"] * task.horizon
        achieved, peak = operations / timing.median / 1e9, matmul_gflops(torch.float32)
        rows.append(
            {
                "threads": count,
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
    torch.set_num_threads(threads)
    return rows
