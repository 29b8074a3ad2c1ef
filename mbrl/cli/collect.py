"""Record episodes of a task as logs, which mbrl audit and mbrl fit read.

    mbrl collect PendulumSwingUp --episodes 60 --steps 60 --scale 1 --initial-lower -3.14 -6 --initial-upper 3.14 6 --out logs/pendulum-v0
    mbrl collect CartPoleSwingUp --episodes 20 --actor random --out logs/cartpole.npz

What the actors do: spline-noise shakes the system smoothly, random draws a new control at every step, and a trained policy, the
run folder of mbrl train, does what it has learned.
"""  # noqa: E501 (an example is one line to copy)

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import mbrl
from dynamics import summarize, write_trajectories
from mbrl.cli.actors import policy
from mbrl.cli.runs import refuse
from mbrl.cli.tasks import TaskName, find_task


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
    actor: str = "spline-noise"
    """What acts: spline-noise, random, or the run folder of mbrl train or a policy.safetensors."""
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
    if options.actor == "random":
        refuse(options, ["scale", "interval"], "--actor random draws anywhere between the limits at every step")
    elif options.actor != "spline-noise":
        refuse(options, ["scale", "interval"], f"{options.actor} is a trained policy")
    task = find_task(options.task, options.backend)
    generator = torch.Generator().manual_seed(options.seed)
    starts = None
    if options.initial_lower or options.initial_upper:
        anywhere = mbrl.uniform_initial_state(options.initial_lower, options.initial_upper)
        starts = anywhere(options.episodes, generator)
    trajectories = mbrl.record(
        task,
        policy(options.actor, task, scale=options.scale, interval=options.interval),
        options.episodes,
        generator=generator,
        initial_states=starts,
        steps=options.steps,
        progress=None,
    )
    write_trajectories(options.out, trajectories, overwrite=options.overwrite)
    sys.stdout.write(f"{summarize(trajectories)}\nlogs: {options.out}\n")
