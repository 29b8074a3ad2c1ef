"""Distill a trajectory optimizer into a policy, and see what each of them is worth where neither was tuned.

    python examples/guided_policy_search.py
    python examples/guided_policy_search.py --noise 0.2

Differential dynamic programming makes a pendulum that starts anywhere near upright stand, from each state with a plan of its
own that begins with the way a sampling planner went. A policy learns from these plans (guided policy search without guidance).
On initial states that it has not seen, and under disturbances of the control, it is compared with the plans as they are, open
loop, and with the plans and their feedback. At the end: what an episode costs each of them, and a figure.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import tyro
from torch import Tensor

import mbrl
from mbrl.plots import save_figure
from mbrl.plots.style import BLUE, GRAY, ORANGE, grid_of_axes, in_house_style
from mbrl.tasks.base import uniform_initial_state
from planners import DDP, ICEM, Solution

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """Settings of the run."""

    noise: float = 0.1
    """Standard deviation of disturbances of the control, in half widths of its limits."""
    conditions: int = 12
    """Initial states of an iteration."""
    iterations: int = 2
    """Batches of initial states to learn from."""
    fit_steps: int = 2000
    """Steps of Adam of an iteration."""
    held_out: int = 20
    """Initial states that are not learned from."""
    steps: int = 60
    """Length of an episode."""
    tiny: bool = False
    """Hardly any of everything, and no check of the result."""
    seed: int = 0
    """Of all that is random."""
    out: Path = Path("runs/guided_policy_search")
    """Folder for the figure."""


def pendulum(steps: int) -> mbrl.Task:
    """The pendulum near upright, whence it falls if nothing is done."""
    task = mbrl.pendulum_swing_up("torch")
    return replace(task, episode_steps=steps, initial_state=uniform_initial_state([-0.4, -0.5], [0.4, 0.5]))


def episodes(task: mbrl.Task, plans: Solution, policy: mbrl.Policy, noise: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """States ``(N, T+1, n)`` and costs ``(N,)`` of plans, of plans with feedback, and of the policy, under equal disturbances."""
    controller = plans.controller()
    lower, upper = task.limits()
    gains = {
        "plan alone": lambda x, t: plans.us[:, t],
        "plan and feedback": lambda x, t: controller.mean(x.unsqueeze(-2).expand(-1, plans.us.shape[-2], -1))[:, t],
        "policy": lambda x, t: policy.actions.controls(policy.distribution(task.observe(x)).mode().to(x)),
    }
    found = {}
    for name, control in gains.items():
        x, xs, cost = plans.xs[:, 0], [plans.xs[:, 0]], 0.0
        for t in range(task.episode_steps):
            u = task.admissible(control(x, t) + 0.5 * (upper - lower) * noise[:, t])
            x_next = task.dynamics(x, u, t)
            cost = cost - task.reward(x, u, x_next, t)
            x = x_next
            xs.append(x)
        found[name] = torch.stack(xs, 1), cost + task.cost.terminal(x)
    return found


@in_house_style
def plot(task: mbrl.Task, found: dict[str, tuple[Tensor, Tensor]]) -> "Figure":
    """Angles over time, a panel for each."""
    figure, grid = grid_of_axes(len(found), height=2.2)
    times = task.dynamics.dt * torch.arange(task.episode_steps + 1)
    for axes, (name, (xs, costs)), color in zip(grid, found.items(), (GRAY, ORANGE, BLUE), strict=True):
        axes.plot(times, xs[..., 0].T, color=color, linewidth=0.8)
        axes.set(xlabel="time [s]", ylabel="angle [rad]", title=f"{name}: median cost {float(costs.median()):.3g}")
    return figure


@torch.no_grad()
def main(config: Config) -> bool:
    """Whether the policy does under disturbances what plans alone do not, nearly as well as plans with feedback."""
    torch.set_num_threads(1)  # small tensors
    if config.tiny:
        config = replace(config, conditions=2, iterations=1, fit_steps=5, held_out=3, steps=10)
    task = pendulum(config.steps)
    scout = ICEM(num_samples=50, max_iterations=2, num_elites=10)  # from no control a descent ends hanging down
    teacher = mbrl.ModelTeacher(planner=DDP(max_iterations=3 if config.tiny else 50), scout=scout, temperature=0.1)
    algorithm = mbrl.Distillation(
        teacher=teacher,
        conditions=config.conditions,
        iterations=config.iterations,
        supervised=mbrl.SupervisedStep(steps=config.fit_steps, learning_rate=3e-3),
    )
    with torch.enable_grad():
        result = mbrl.train(algorithm, task, seed=config.seed, evaluation_episodes=0)
    print(f"learned from {result.steps} steps of the plant in {result.seconds:.0f} s")

    generator = torch.Generator().manual_seed(config.seed + 1)
    x0 = task.initial_state(config.held_out, generator)
    plans = teacher.plan(task, x0, task.dynamics, generator=generator)
    noise = torch.randn(*plans.us.shape, generator=generator, dtype=torch.float64)
    for scale in (0.0, config.noise):
        found = episodes(task, plans, result.policy, scale * noise)
        said = ", ".join(f"{name} {float(costs.median()):.3g}" for name, (_, costs) in found.items())
        print(f"median cost with disturbances of {scale:g}: {said}")
    medians = {name: float(costs.median()) for name, (_, costs) in found.items()}
    file = save_figure(plot(task, found), config.out / "policy.png")
    near = medians["policy"] < min(1.5 * medians["plan and feedback"], medians["plan alone"])
    good = all(map(math.isfinite, medians.values())) if config.tiny else near
    print(f"{'distilled' if good else 'NOT distilled'}; {file}")
    return good


if __name__ == "__main__":
    raise SystemExit(0 if main(tyro.cli(Config, description=__doc__)) else 1)
