"""Swing-up from a bad sensor: the angle alone is measured, with an error of 2 degrees, and MPC plans from a filter's estimate.

    python examples/estimate_and_control.py

A MuJoCo pendulum is pushed about by a small random torque. A Kalman filter on the torch model of it estimates angle and velocity
from noisy angles between -pi and pi; a few percent of them are lost. MPC plans on the same model from the estimate. At the end:
how far off the estimate was, beside differences of the measured angles, and a figure.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro

import mbrl
from dynamics import ExtendedKalmanFilter, Pendulum, UnscentedKalmanFilter
from mbrl.plots import plot_estimates, save_figure
from planners import ICEM, MPC


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    filter: Literal["extended", "unscented"] = "unscented"
    """Which Kalman filter."""
    planner: ICEM = field(
        default_factory=lambda: ICEM(num_samples=60, max_iterations=2, initial_std=0.3, minimum_std=0.01)
    )
    """What plans from the estimate."""
    noise: float = 0.03
    """Standard deviation of a measured angle [rad]."""
    lost: float = 0.05
    """Share of measurements that are lost."""
    seconds: float = 6.0
    """Length of the run [s]."""
    seed: int = 0
    """Of all that is random."""
    out: Path = Path("runs/estimate_and_control")
    """Folder for the figure."""


def main(config: Config) -> bool:
    """Whether the pendulum stood upright over the last second, and the estimate kept its promise."""
    torch.set_num_threads(1)  # small tensors
    generator = torch.Generator().manual_seed(config.seed)
    task, model = mbrl.pendulum_swing_up(torque_limit=3.0), Pendulum()
    disturbance = torch.tensor([0.0, 0.01], dtype=torch.float64)  # of one step [rad, rad/s]

    # What is known: the model, how large disturbance and noise are, and that it hangs, more or less.
    kind = {"extended": ExtendedKalmanFilter, "unscented": UnscentedKalmanFilter}[config.filter]
    kalman = kind(
        model,
        torch.diag(disturbance**2),
        torch.tensor([[config.noise**2]], dtype=torch.float64),
        observation=lambda x: x[..., :1],
        observation_angles=[0],
    )
    hanging = torch.tensor([math.pi, 0.0], dtype=torch.float64)
    belief = kalman.init(hanging, 0.2**2 * torch.eye(2, dtype=torch.float64))
    actor = mbrl.EstimatedStateActor(MPC(task.problem(model, horizon=25), config.planner), kalman, belief)

    x, memory = task.initial_state(1, generator), actor.init(1, generator=generator)
    xs, ys, beliefs = [], [], []
    for _ in range(round(config.seconds / model.dt)):
        y = x[:, :1] + config.noise * torch.randn(1, 1, generator=generator, dtype=torch.float64)
        y = torch.atan2(torch.sin(y), torch.cos(y))
        y = torch.where(torch.rand(1, 1, generator=generator) < config.lost, math.nan, y)
        u, memory = actor.act(y, memory)
        for values, value in zip((xs, ys, beliefs), (x, y, memory.belief), strict=True):
            values.append(value)
        x = task.dynamics(x, u) + disturbance * torch.randn(1, 2, generator=generator, dtype=torch.float64)

    xs, ys = torch.cat(xs), torch.cat(ys)
    means, stds = torch.cat([b.mean for b in beliefs]), torch.cat([b.std for b in beliefs])
    differences = torch.atan2(torch.sin(ys.diff(dim=0)), torch.cos(ys.diff(dim=0)))[:, 0] / model.dt
    error = float((means - xs)[1:, 1].square().mean().sqrt())
    naive = float((differences - xs[1:, 1]).square().nanmean().sqrt())
    covered = float(((means - xs).abs() <= 2 * stds).double().mean())
    print(f"velocity off by {error:.3f} rad/s, {naive / error:.0f} times less than differences of angles")
    print(f"{100 * covered:.0f} % of the states within two standard deviations of the estimate")

    figure = plot_estimates(
        means,
        stds,
        dt=model.dt,
        names=model.state_names,
        units=["rad", "rad/s"],
        states=xs,
        measurements={"angle": ys[:, 0]},
        angles=["angle"],
    )
    file = save_figure(figure, config.out / "estimates.png")
    upright = bool(task.success(xs))
    print(f"{'upright' if upright else 'not upright'} over the last second; {file}")
    return upright and error < naive / 4 and covered > 0.8


if __name__ == "__main__":
    raise SystemExit(0 if main(tyro.cli(Config, description=__doc__)) else 1)
