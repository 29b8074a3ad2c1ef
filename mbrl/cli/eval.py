"""Measure a planner or a policy on a task: interquartile mean of the return, confidence interval, success rate.

    mbrl eval PendulumSwingUp --planner icem --planner.num-samples 50 --episodes 10
    mbrl eval CartPoleSwingUp --model runs/ensemble --episodes 5 --seed 1 --video swing_up.mp4
    mbrl eval PendulumSwingUp --policy random --run runs/random
    mbrl eval CartPole-v1 --policy runs/ppo --episodes 20

A policy is random, spline-noise, optimal (in a world in tables), or the run folder of mbrl train; one that was trained acts on
gymnasium environments, too. With
--model, a trained policy, or --run, the result is also a row of evaluations.csv in that run folder, which mbrl report shows.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import mbrl
from mbrl.cli.actors import CHOICES, NOISES, PLANNING, TABULAR, AnyPlanner, film, one_thread, policy, read_model
from mbrl.cli.runs import opened_run, refuse
from mbrl.cli.tasks import TaskName, find_task, find_world
from planners import ICEM, MPC

__all__ = ["CHOICES", "Options", "run"]


@dataclass(frozen=True)
class Options:
    """Options of ``mbrl eval``."""

    task: TaskName
    """Name of the task, see mbrl tasks, or with a trained policy a gymnasium id."""
    model: Path | None = None
    """Model to plan on: the run folder of a fit, or its model.safetensors; the simulation itself by default."""
    policy: str | None = None
    """A policy to measure instead of a planner: spline-noise, random, the run folder of mbrl train, or a policy.safetensors."""
    episodes: int = 10
    """Number of episodes, run as one batch."""
    horizon: int | None = None
    """Steps of a plan; the task's by default."""
    seed: int = 0
    """Of the initial states and the planner."""
    video: Path | None = None
    """Film the first episode (mp4)."""
    run: Path | None = None
    """Run folder that keeps the result, a new one or one that is there; that of the model or policy by default."""
    backend: str | None = None
    """Simulator, where the task has several."""
    task_options: tuple[str, ...] = ()
    """Of a world in tables, such as size=16 seed=1."""
    planner: AnyPlanner = field(default_factory=ICEM)
    """What is measured, --planner NAME."""


@one_thread()
def run(options: Options) -> None:
    """Act, summarize, keep, film."""
    if options.policy is not None:
        refuse(options, PLANNING, f"--policy {options.policy} does not plan")
    task: mbrl.Task | mbrl.GridWorld | str
    if options.policy is None:
        refuse(options, ["task_options"], "planners plan on tasks, and those are options of worlds in tables")
        task, model = find_task(options.task, options.backend), read_model(options.model)
        actor: Any = MPC(task.problem(model, options.horizon), options.planner)
        name = type(options.planner).__name__ + (_on_model(options) if options.model else "")
        settings = {"planner": options.planner, "horizon": options.horizon, "backend": options.backend}
    else:
        task = find_world(options.task, options.backend, options.task_options)
        actor, name, settings = policy(options.policy, task), _policy_name(options), {"backend": options.backend}
        if options.task_options:
            settings["task_options"] = " ".join(options.task_options)
        if options.video is not None and isinstance(task, mbrl.GridWorld):
            raise ValueError(f"there is no --video of {task.name}: worlds in tables draw no pictures")
    task_name = task if isinstance(task, str) else task.name
    with _started(options) as started:
        if options.video is not None:
            _check_video(options.video)
        generator = torch.Generator().manual_seed(options.seed)
        evaluation = mbrl.evaluate(actor, task, episodes=options.episodes, generator=generator, progress=None)
        sys.stdout.write(f"{name}, {task_name}: {evaluation}\n")
        folder = options.run or options.model or _trained(options)
        if folder is not None and (folder / "config.json").exists():
            path = mbrl.add_evaluation(
                folder, evaluation, task=task_name, actor=name, seed=options.seed, settings=settings
            )
            sys.stdout.write(f"added to {path}\n")
        if started is not None:
            rate = {} if evaluation.success_rate is None else {"success_rate": evaluation.success_rate}
            started.finish({"return": evaluation.iqm, **rate})
    if options.video is not None:  # last: what was measured is kept where filming fails
        film(options.video, actor, task, evaluation.trajectories[0], options.seed)
        sys.stdout.write(f"video: {options.video}\n")


def _check_video(path: Path) -> None:
    """Raise before the episodes what would go wrong after them."""
    if path.is_dir():
        raise IsADirectoryError(f"--video {path} is a folder; give the name of a file in it")
    if path.suffix != ".mp4":
        raise ValueError(f"a video is written as .mp4, got --video {path}")
    path.parent.mkdir(parents=True, exist_ok=True)


def _on_model(options: Options) -> str:
    """The same words for all seeds of a fit where the result is kept with the model."""
    return " on the model" if options.run in (None, options.model) else f" on {options.model}"


def _trained(options: Options) -> Path | None:
    """The run folder of a trained policy."""
    return None if options.policy in (None, *NOISES, *TABULAR) else Path(options.policy)


def _policy_name(options: Options) -> str:
    """The same words for all seeds of a training where the result is kept with the policy."""
    trained = _trained(options)
    if trained is None:
        return str(options.policy)
    return "trained policy" if options.run in (None, trained) else f"policy of {trained}"


def _started(options: Options) -> AbstractContextManager[mbrl.Run | None]:
    """The run of this evaluation, new or interrupted; None where the result goes to a run of something else, or nowhere."""
    if options.run is None:
        return nullcontext()
    if (options.run / "config.json").exists():
        there = mbrl.read_run(options.run)
        if there.finished or (there.config or {}).get("command") != "eval":
            return nullcontext()
    return opened_run("eval", options if options.policy is None else replace(options, planner=None))
