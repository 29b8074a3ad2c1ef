"""Record episodes of a task as logs, which mbrl audit and mbrl fit read.

    mbrl collect PendulumSwingUp --episodes 60 --steps 60 --scale 1 --initial-lower -3.14 -6 --initial-upper 3.14 6 --out logs/pendulum-v0
    mbrl collect CartPoleSwingUp --episodes 20 --actor random --out logs/cartpole.npz
    mbrl collect PendulumSwingUp --backend torch --actor planner --planner ddp --episodes 4 --steps 40 --out logs/expert.npz
    mbrl collect Objectworld --task-options size=16 --actor optimal --steps 8 --out logs/objectworld.npz

What the actors do: spline-noise shakes the system smoothly, random draws a new control at every step, a planner plans at every
step, and a trained policy, the run folder of mbrl train, does what it has learned. In a world in tables there is random and
optimal, with --temperature one that is random about what is best.
"""  # noqa: E501 (an example is one line to copy)

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import mbrl
from dynamics import summarize, write_trajectories
from mbrl.cli.actors import CHOICES, TABULAR, AnyPlanner, policy
from mbrl.cli.runs import refuse
from mbrl.cli.tasks import TaskName, find_world
from planners import ICEM, MPC

__all__ = ["CHOICES", "Options", "run"]


@dataclass(frozen=True)
class Options:
    """Options of ``mbrl collect``."""

    task: TaskName
    """Name of the task, see mbrl tasks."""
    out: Path
    """Where to: a file ending in .npz, or the folder of a Minari dataset, whose name ends in -v0."""
    episodes: int = 50
    """Number of episodes."""
    steps: int | None = None
    """Length of an episode; the task's by default."""
    actor: str | None = None
    """What acts: spline-noise (the default of tasks), random (that of worlds), planner, optimal, or the run folder of mbrl train
    or a policy.safetensors."""
    planner: AnyPlanner = field(default_factory=ICEM)
    """What plans with --actor planner, --planner NAME."""
    horizon: int | None = None
    """Planner: steps of a plan; the task's by default."""
    temperature: float = 0.0
    """Optimal: reward per nat; the larger, the more random where little is lost."""
    scale: float = 0.5
    """Spline noise: standard deviation of the knots in half widths of the control limits."""
    interval: int = 5
    """Spline noise: steps between knots."""
    initial_lower: tuple[float, ...] = ()
    """Lower ends of the initial states, one for each state; the task's own distribution by default."""
    initial_upper: tuple[float, ...] = ()
    """Upper ends of the initial states."""
    seed: int = 0
    """Of the initial states and the controls."""
    backend: str | None = None
    """Simulator, where the task has several."""
    task_options: tuple[str, ...] = ()
    """Of a world in tables, such as size=16 seed=1."""
    overwrite: bool = False
    """Replace logs that are there."""


def run(options: Options) -> None:
    """Record, summarize, write."""
    if options.out.suffix not in ("", ".npz"):
        raise ValueError(f"logs are written as .npz or as the folder of a Minari dataset, got --out {options.out}")
    if not options.out.suffix and not re.search(r"-v\d+$", options.out.name):
        raise ValueError(f"the folder of a Minari dataset is called NAME-v0, with a version, got --out {options.out}")
    if options.out.exists() and not options.overwrite:
        raise FileExistsError(f"{options.out} exists; choose another --out, or give --overwrite to replace it")
    task = find_world(options.task, options.backend, options.task_options)
    if isinstance(task, str):
        raise ValueError(f"episodes are recorded on tasks of this library, got the gymnasium environment {task}")
    actor = _actor(options, task)
    generator = torch.Generator().manual_seed(options.seed)
    starts = None
    if options.initial_lower or options.initial_upper:
        anywhere = mbrl.uniform_initial_state(options.initial_lower, options.initial_upper)
        starts = anywhere(options.episodes, generator)
    trajectories = mbrl.record(
        task,
        actor,
        options.episodes,
        generator=generator,
        initial_states=starts,
        steps=options.steps,
        deterministic=not (isinstance(task, mbrl.GridWorld) and options.actor in (None, *TABULAR)),
        progress=None,
    )
    write_trajectories(options.out, trajectories, overwrite=options.overwrite)
    summary = (
        f"{len(trajectories)} episodes of {trajectories[0].num_steps} steps"
        if isinstance(task, mbrl.GridWorld)
        else None
    )
    sys.stdout.write(f"{summary or summarize(trajectories)}\nlogs: {options.out}\n")


def _actor(options: Options, task: mbrl.Task | mbrl.GridWorld) -> Any:
    """What acts, without an option that would be ignored."""
    name = options.actor or ("random" if isinstance(task, mbrl.GridWorld) else "spline-noise")
    if name != "spline-noise":
        anywhere = name == "random"
        why = "--actor random draws anywhere" if anywhere else f"{name} shakes nothing"
        refuse(options, ["scale", "interval"], why)
    if name != "planner":
        refuse(options, ["planner", "horizon"], f"--actor {name} does not plan")
    if name != "optimal":
        refuse(options, ["temperature"], f"--actor {name} is not the optimal one")
    if name == "planner":
        if isinstance(task, mbrl.GridWorld):
            raise ValueError(
                f"no controls are planned in {task.name}, a world in tables; --actor optimal knows what is best"
            )
        return MPC(task.problem(horizon=options.horizon), options.planner)
    return policy(name, task, scale=options.scale, interval=options.interval, temperature=options.temperature)
