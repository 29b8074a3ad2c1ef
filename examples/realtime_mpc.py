"""MPC in real time: a MuJoCo cart-pole that does not wait, a planner in a thread of its own, and a loop that never waits for it.

    python examples/realtime_mpc.py

The plant goes on with the clock in steps of 2 ms. Plans are made on a coarser model of it, one after the other; the loop reads
the newest one every 20 ms. At the end: how the loop kept time, how old the plans were, and a figure of the log.
"""

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro

import mbrl
from dynamics import MujocoDynamics, resample
from mbrl.plots import plot_trajectory, save_figure
from planners import ICEM, AsynchronousMPC, KnotNoise


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    planner: ICEM = field(
        default_factory=lambda: ICEM(
            num_samples=48, max_iterations=2, noise=KnotNoise(12, degree=1), initial_std=0.2, minimum_std=0.01
        )
    )
    """What plans; the faster it is, the newer the plans. Its knots are at fixed times, whenever it plans."""
    seconds: float = 8.0
    """Length of the run [s]."""
    period: float = 0.02
    """Time from control to control [s]."""
    out: Path = Path("runs/realtime")
    """Folder for the log and its figure."""


def main(config: Config) -> bool:
    """Whether the pole stood upright over the last second."""
    torch.set_num_threads(1)  # small tensors: threads would only take the loop's core
    task = mbrl.cart_pole_swing_up()

    # The plant in small steps; a model with the steps of a plan, on all cores but the one of the loop.
    fine, coarse = copy.copy(task.dynamics.model), copy.copy(task.dynamics.model)
    fine.opt.timestep, coarse.opt.timestep = 0.002, task.dynamics.dt
    plant = mbrl.SimulatedPlant(task, dynamics=MujocoDynamics(fine, threads=1))
    model = MujocoDynamics(coarse, threads=max(1, len(os.sched_getaffinity(0)) - 1))

    # Whatever the planner says: no more than the motor can, at no more than 1000 N/s, and never beyond the rail.
    safety = mbrl.Safety(
        control_limits=task.control_limits,
        rate_limits=(-1000.0, 1000.0),
        envelope=([-2.0, -100.0, -20.0, -50.0], [2.0, 100.0, 20.0, 50.0]),
    )
    config.out.mkdir(parents=True, exist_ok=True)
    file = config.out / "log.npz"
    file.unlink(missing_ok=True)
    with AsynchronousMPC(task.problem(model), config.planner) as mpc:
        mpc.warm_up(plant.x.unsqueeze(0))
        result = mbrl.run_control_loop(
            plant, mpc, period=config.period, steps=round(config.seconds / config.period), safety=safety, save=file
        )
        print(result)
        print(mpc.report())

    log = result.trajectory
    even = resample(log, dt=config.period, max_gap=config.seconds)  # the loop's own stamps jitter a little
    save_figure(plot_trajectory(even, control_limits=task.control_limits), config.out / "log.png")
    angles = log.observations[log.times >= log.times[-1] - 1.0, 1]
    upright = bool((np.cos(angles) >= np.cos(0.2)).all())
    print(f"{'upright' if upright else 'not upright'} over the last second; {file} and {config.out / 'log.png'}")
    return upright


if __name__ == "__main__":
    raise SystemExit(0 if main(tyro.cli(Config, description=__doc__)) else 1)
