"""Run by .ci/run in an empty environment that holds the wheel and its requirements: python -I -W error wheel_smoke.py."""

import subprocess
import sys
from pathlib import Path

import torch

import dynamics
import mbrl
import planners
from dynamics import DoubleIntegrator, LinearModel, Trajectory, fit
from mbrl.testing import check_dynamics
from planners import ICEM, GoalCost, Problem, solve

for package in (dynamics, planners, mbrl):
    assert Path(package.__file__).is_relative_to(sys.prefix), f"{package.__name__} comes from {package.__file__}"
    assert Path(package.__file__).with_name("py.typed").exists(), f"{package.__name__} lost its py.typed"

point = DoubleIntegrator(dt=0.1)
check_dynamics(point)

cost = GoalCost(state_weights=torch.tensor([1.0, 0.1]), control_weights=0.01)
problem = Problem(point, cost, horizon=20, control_limits=(-1.0, 1.0))
x0 = torch.tensor([0.5, 0.0], dtype=torch.float64)  # half a meter off, at rest
solution = solve(problem, ICEM(), x0, generator=torch.Generator().manual_seed(0))
idle = problem.trajectory_cost(point.rollout(x0, torch.zeros_like(solution.us)), torch.zeros_like(solution.us))
assert solution.cost < 0.5 * idle, f"the plan costs {solution.cost:.3f}, doing nothing {idle:.3f}"

us = torch.rand(10, 60, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
xs = point.rollout(x0.expand(10, 2), us)
model = LinearModel(state_dim=2, control_dim=1, dt=point.dt)
fit(model, [Trajectory(x.numpy(), u.numpy(), dt=point.dt) for x, u in zip(xs, us, strict=True)])
error = (model(x0, us[0, 0]) - point(x0, us[0, 0])).abs().max()
assert error < 1e-3, f"a linear model of a linear system is off by {error:.2e}"
tasks = subprocess.run([Path(sys.prefix, "bin", "mbrl"), "tasks"], capture_output=True, text=True, check=True).stdout
assert "CartPoleSwingUp" in tasks, f"mbrl tasks says {tasks!r}"
sys.stdout.write(f"wheel of {Path(dynamics.__file__).parent.parent}: {solution}\n")
