"""Look in the browser: at logs and recorded episodes, or at a planner or policy that runs, with a slider for each of its options.

    mbrl view runs/plan
    mbrl view logs/pendulum-v0 --task PendulumSwingUp
    mbrl view CartPoleSwingUp --policy runs/ppo
    mbrl view CartPoleSwingUp --model runs/ensemble --planner icem --planner.num-samples 50

The page is served until Ctrl-C. It takes viser: pip install "mbrl-control[view]".
"""

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

import mbrl
from dynamics import Trajectory
from mbrl.cli.actors import CHOICES, PLANNING, AnyPlanner, one_thread, policy, read_model
from mbrl.cli.logs import Reading
from mbrl.cli.runs import refuse
from mbrl.cli.tasks import find_task, is_task, nearest
from planners import ICEM, MPC

__all__ = ["CHOICES", "Options", "run"]


@dataclass(frozen=True)
class Options:
    """Options of ``mbrl view``."""

    what: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="TASK | RUN | PATH [PATH ...]", help_behavior_hint="(required)"),
    ]
    """A task to run something on, the run folder of mbrl plan or mbrl train, or logs."""
    task: str | None = None
    """Task that the logs are of, whose scene is shown; a run folder says it itself."""
    model: Path | None = None
    """Model to plan on: the run folder of a fit, or its model.safetensors; the simulation itself by default."""
    policy: str | None = None
    """A policy to run instead of a planner: spline-noise, random, the run folder of mbrl train, or a policy.safetensors."""
    horizon: int | None = None
    """Steps of a plan; the task's by default."""
    seed: int = 0
    """Of the initial states and what acts."""
    backend: str | None = None
    """Simulator, where the task has several."""
    host: str = "127.0.0.1"
    """Address to serve at; 0.0.0.0 lets other machines look."""
    port: int = 8080
    """Port of the address; the next free one is taken where it is not free, 0 takes any."""
    speed: float = 1.0
    """Simulated seconds per second."""
    reading: tyro.conf.OmitArgPrefixes[Reading] = field(default_factory=Reading)
    planner: AnyPlanner = field(default_factory=ICEM)
    """What runs, --planner NAME."""


@one_thread()
def run(options: Options) -> None:
    """Serve the page until Ctrl-C."""
    from mbrl.viewer import view_control, view_trajectory

    served = {"host": options.host, "port": options.port, "speed": options.speed}
    if len(options.what) == 1 and is_task(options.what[0]) and not Path(options.what[0]).exists():
        _refuse_options_of_logs(options)
        task = find_task(options.what[0], options.backend)
        generator = torch.Generator().manual_seed(options.seed)
        view_control(task, _actor(task, options), generator=generator, **served)
    else:
        running = ["policy", *PLANNING, "seed"]
        refuse(options, running, f"{' '.join(options.what)} is no task, and nothing runs where logs are shown")
        episodes, name = _recorded(options)
        if name is None:
            refuse(options, ["backend"], "logs are shown in the scene of a task, --task")
        task = None if name is None else find_task(name, options.backend)
        view_trajectory(episodes, task, **served)
    sys.stdout.write("closed\n")


def _refuse_options_of_logs(options: Options) -> None:
    why = f"{options.what[0]} is a task, and no logs are read"
    refuse(options, ["task"], why)
    refuse(options.reading, [field.name for field in fields(Reading)], why)
    if options.policy is not None:
        refuse(options, PLANNING, f"--policy {options.policy} does not plan")


def _actor(task: mbrl.Task, options: Options) -> Any:
    if options.policy is not None:
        return policy(options.policy, task)
    return MPC(task.problem(read_model(options.model), options.horizon), options.planner)


def _recorded(options: Options) -> tuple[list[Trajectory], str | None]:
    """The trajectories to show, and the name of their task where it is known."""
    if not (len(options.what) == 1 and (Path(options.what[0]) / "config.json").exists()):
        try:
            return options.reading.trajectories(options.what, ()), options.task
        except FileNotFoundError as error:
            near = nearest(options.what[0])[:1]
            raise FileNotFoundError(f"{error}{f' Nearest task: {near[0]}' if near else ''}") from None
    record = mbrl.read_run(options.what[0])
    episode = record.folder / "episode.npz"
    if not episode.exists():
        raise FileNotFoundError(f"{record.folder} holds no episode.npz to show; mbrl plan and mbrl train leave one")
    return options.reading.trajectories([str(episode)], ()), options.task or (record.config or {}).get("task")
