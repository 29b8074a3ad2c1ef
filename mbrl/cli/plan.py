"""Plan on a task from one initial state: once, or with --mpc at every step of an episode; figures, and a video of the simulation.

    mbrl plan CartPoleSwingUp --horizon 50 --run runs/plan
    mbrl plan PendulumSwingUp --mpc --seconds 5 --planner icem --planner.num-samples 200
    mbrl plan PendulumSwingUp --mpc --model runs/ensemble --seed 1
    mbrl plan PendulumSwingUp --policy runs/ppo --seconds 5
    mbrl plan CarParking --planner DDP --planner.max-iterations 300

The simulation of the task is planned on, or a fitted model with --model; what is filmed is always the simulation.
With --policy nothing is planned: a trained policy, the run folder of mbrl train, acts in the episode.
Choose a planner with --planner NAME; its options follow as --planner.OPTION, and mbrl plan --planner NAME --help lists them.
"""

import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import mbrl
from dynamics import LearnedDynamics, Trajectory, write_trajectories
from mbrl.cli.actors import CHOICES, PLANNING, AnyPlanner, one_thread, policy, read_model
from mbrl.cli.runs import opened_run, refuse
from mbrl.cli.tasks import TaskName, find_task
from mbrl.plots import (
    Picture,
    Text,
    Video,
    html_report,
    plot_planning,
    plot_predictions,
    plot_trajectory,
    save_figure,
    write_task_video,
)
from mbrl.plots.report import Section
from planners import ICEM, MPC, Problem, Status, solve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CHOICES", "Options", "run"]


@dataclass(frozen=True)
class Options:
    """Options of ``mbrl plan``."""

    task: TaskName
    """Name of the task, see mbrl tasks."""
    run: Path | None = None
    """Run folder; runs/plan-DATE-TIME by default."""
    model: Path | None = None
    """Model to plan on: the run folder of a fit, or its model.safetensors; the simulation itself by default."""
    mpc: bool = False
    """Plan again at every step of an episode; without it one plan is made and executed blindly."""
    policy: str | None = None
    """A policy to act instead of a planner: the run folder of mbrl train, a policy.safetensors, spline-noise or random."""
    horizon: int | None = None
    """Steps of a plan; the task's by default."""
    seconds: float | None = None
    """Length of the episode with --mpc or --policy [s]; the task's by default."""
    seed: int = 0
    """Of the initial state and the planner."""
    backend: str | None = None
    """Simulator, where the task has several."""
    video: bool = True
    """Film the simulation, or not with --no-video."""
    planner: AnyPlanner = field(default_factory=ICEM)
    """How it is planned, --planner NAME."""


@one_thread()
def run(options: Options) -> None:
    """Plan, act, look."""
    if options.policy is not None:
        refuse(options, [*PLANNING, "mpc"], f"--policy {options.policy} does not plan")
    elif not options.mpc:
        refuse(options, ["seconds"], "without --mpc the episode is as long as the plan, --horizon")
    if options.seconds is not None and not 0 < options.seconds < math.inf:
        raise ValueError(f"--seconds takes a positive number, got {options.seconds}")
    task, model = find_task(options.task, options.backend), read_model(options.model)
    problem = task.problem(model, options.horizon)
    if options.policy is not None:
        actor: Any = policy(options.policy, task)
        who = f"Policy {options.policy}"
    else:  # also where it acts once: MPC checks that the planner honors the problem
        actor, who = MPC(problem, options.planner), type(options.planner).__name__
    with opened_run("plan", options if options.policy is None else replace(options, planner=None)) as run:
        sys.stdout.write(f"run folder: {run.folder}\n")
        seconds = task.episode_steps * task.dynamics.dt if options.seconds is None else options.seconds
        if options.policy is not None:
            episode, summary, figures = _acted(run, task, actor, seconds, options.seed)
        elif options.mpc:
            episode, summary, figures = _controlled(run, task, actor, seconds, options.seed)
        else:
            episode, summary, figures = _planned(task, problem, model, options)
        shown: list[Section] = [
            Text("\n".join(f"{name}: {_words(value)}" for name, value in summary.items()), "Result")
        ]
        if options.video:
            path = write_task_video(run.path("episode.mp4"), task, episode)
            shown.append(Video(path, f"The simulation of {task.name}."))
        for name, (figure, caption) in figures.items():
            shown.append(Picture(figure, caption))
            save_figure(figure, run.path(f"figures/{name}.png"))
        write_trajectories(run.path("episode.npz"), [episode], overwrite=True)
        html_report(run.path("report.html"), f"{who} on {task.name}", shown)
        run.finish(summary)
        sys.stdout.write("".join(f"{name}: {_words(value)}\n" for name, value in summary.items()))
        sys.stdout.write(f"report: {run.path('report.html')}\n")


Outcome = tuple[Trajectory, dict[str, Any], dict[str, tuple["Figure", str]]]


def _planned(task: mbrl.Task, problem: Problem, model: LearnedDynamics | None, options: Options) -> Outcome:
    """One plan, and the simulation under its controls."""
    generator = torch.Generator().manual_seed(options.seed)
    x0 = task.initial_state(1, generator)
    solution = solve(problem, options.planner, x0, generator=generator)
    (episode,) = mbrl.record(task, _Played(solution.us), 1, initial_states=x0, steps=solution.us.shape[-2])
    states = torch.tensor(episode.states)
    summary: dict[str, Any] = {
        "planned_cost": float(solution.cost[0]),
        "executed_cost": float(problem.trajectory_cost(states, torch.tensor(episode.controls))),
        "planning_seconds": float(solution.stats["seconds"]),
        "status": Status(int(solution.status[0])).name.lower(),
    }
    if solution.certificate is not None:
        summary["certificate"] = str(solution.certificate)
    drawn = plot_trajectory(episode, control_limits=_limits(task))
    figures = {"episode": (drawn, "The plan as the simulation executed it.")}
    if model is not None:
        predicted = plot_predictions(model, episode, steps=len(episode))
        figures["plan"] = (predicted, "What the model predicted under the planned controls (log: the simulation).")
    return episode, summary, figures


def _controlled(run: mbrl.Run, task: mbrl.Task, mpc: MPC, seconds: float, seed: int) -> Outcome:
    """An episode of model predictive control, with a row of metrics for each step."""
    actor, dt = _Noted(mpc), task.dynamics.dt
    episode, rewards = _recorded(task, actor, seconds, seed)
    for k, (spent, cost) in enumerate(zip(actor.seconds, actor.costs, strict=True)):
        reward = {"rollout/reward": rewards[k]} if k < len(rewards) else {}
        run.log(k, **reward, **{"plan/cost": cost, "time/planning": spent})
    rate = {"rate_hz": len(actor.seconds) / sum(actor.seconds)}
    summary: dict[str, Any] = {"return": sum(rewards), **rate, **_success(task, episode)}
    figures = {
        "episode": (plot_trajectory(episode, control_limits=_limits(task)), "The controlled episode."),
        "planning": (plot_planning(actor.seconds, actor.costs, dt), "Planning time and predicted cost."),
    }
    return episode, summary, figures


def _acted(run: mbrl.Run, task: mbrl.Task, actor: mbrl.Actor, seconds: float, seed: int) -> Outcome:
    """An episode of what does not plan."""
    episode, rewards = _recorded(task, actor, seconds, seed)
    for k, reward in enumerate(rewards):
        run.log(k, **{"rollout/reward": reward})
    summary: dict[str, Any] = {"return": sum(rewards), **_success(task, episode)}
    drawn = plot_trajectory(episode, control_limits=_limits(task))
    return episode, summary, {"episode": (drawn, "The controlled episode.")}


def _recorded(task: mbrl.Task, actor: Any, seconds: float, seed: int) -> tuple[Trajectory, list[float]]:
    """An episode and its rewards."""
    generator, steps = torch.Generator().manual_seed(seed), max(round(seconds / task.dynamics.dt), 1)
    (episode,) = mbrl.record(task, actor, 1, generator=generator, steps=steps, progress=None)
    return episode, [] if episode.rewards is None else episode.rewards.tolist()


def _success(task: mbrl.Task, episode: Trajectory) -> dict[str, bool]:
    """Whether it was one, where the task says what that is; an episode that ends with neither has diverged."""
    if task.success is None:
        return {}
    ended = episode.terminated or episode.truncated
    return {"success": ended and bool(task.success(torch.tensor(episode.states)))}


def _limits(task: mbrl.Task) -> tuple[list[float], list[float]]:
    lower, upper = task.limits()
    return lower.tolist(), upper.tolist()


class _Played:
    """An actor that plays controls ``(1, T, m)``, whatever it sees."""

    acts_on = "state"

    def __init__(self, us: torch.Tensor):
        self.us = us

    def init(self, batch: int, *, generator: torch.Generator | None = None) -> int:
        """The first step."""
        return 0

    def act(self, y: torch.Tensor, memory: int, *, deterministic: bool = True) -> tuple[torch.Tensor, int]:
        """The next controls."""
        return self.us[:, memory], memory + 1


class _Noted:
    """An actor that does what MPC does and notes how long each plan took and what it would cost."""

    acts_on = "state"

    def __init__(self, mpc: MPC):
        self.mpc = mpc
        self.seconds: list[float] = []
        self.costs: list[float] = []

    def init(self, batch: int, *, generator: torch.Generator | None = None) -> Any:
        """Memory of the MPC."""
        return self.mpc.init(batch, generator=generator)

    def act(self, y: torch.Tensor, memory: Any, *, deterministic: bool = True) -> tuple[torch.Tensor, Any]:
        """The MPC's control."""
        control, memory = self.mpc.act(y, memory)
        self.seconds.append(memory.solution.stats["seconds"])
        self.costs.append(float(memory.solution.cost.mean()))
        return control, memory


def _words(value: float | bool | str) -> str:
    if isinstance(value, str):
        return value
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.4g}"
