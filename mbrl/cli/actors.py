"""What commands that act on a task share: policies, planners, the model that is planned on, and films of what happened."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import mbrl
from dynamics import LearnedDynamics, Trajectory, load
from mbrl.cli.choices import choice, choices_of, planner_kinds
from mbrl.tasks.worlds import world_name
from planners import solve_mdp

KINDS = planner_kinds()
CHOICES = choices_of("planner", KINDS)
PLANNING = ("model", "horizon", "planner")
"""Options that a policy has no use for."""

NOISES = ("spline-noise", "random")
"""Policies that need no training."""

TABULAR = ("random", "optimal")
"""Those of worlds in tables."""

if TYPE_CHECKING:
    AnyPlanner = Any
else:
    AnyPlanner = choice(KINDS)


def policy(
    name: str,
    task: mbrl.Task | mbrl.GridWorld | str,
    *,
    scale: float = 0.5,
    interval: int = 5,
    temperature: float = 0.0,
) -> Any:
    """An actor that needs no plan (Any: the noises name what the protocol has as a property).

    Args:
        name: of a noise, ``optimal`` in a world in tables, or the run folder or file of a trained policy.
        task: what it acts on, a task, a world or a gymnasium id.
        scale: of spline noise.
        interval: of spline noise.
        temperature: of the optimal policy of a world.

    Raises:
        ValueError: the policy does not fit the task, or there is none of that name.
        FileNotFoundError: there is no policy in the folder.
    """
    if isinstance(task, mbrl.GridWorld) and name in (*TABULAR, *NOISES):
        if name not in TABULAR:
            raise ValueError(f"{name} is for controls within limits; in {task.name} there is {' and '.join(TABULAR)}")
        mdp = task.mdp
        if name == "random":
            return mbrl.TabularPolicy(mdp.transitions.new_full((mdp.states, mdp.actions), 1.0 / mdp.actions))
        return mbrl.TabularPolicy(solve_mdp(mdp, temperature=temperature).policy)
    if name == "optimal" and not Path(name).exists():
        raise ValueError("optimal is known in worlds in tables alone; on a task, --planner NAME plans")
    if name not in NOISES:
        return read_policy(name, task)
    if isinstance(task, mbrl.GridWorld | str):
        raise ValueError(f"{name} takes its limits from a task of this library, got the gymnasium environment {task}")
    m = task.dynamics.control_dim
    if name == "random":
        return mbrl.UniformNoise(task.control_limits, m)
    return mbrl.SplineNoise(task.control_limits, m, interval=interval, scale=scale)


def read_policy(path: str | Path, task: mbrl.Task | mbrl.GridWorld | str | None = None) -> mbrl.LearnedActor:
    """The trained policy in a run folder or a file, which has to fit the task if there is one."""
    found = Path(path)
    if not found.exists():
        raise ValueError(
            f"there is no policy {str(path)!r}: it is one of {', '.join(NOISES)}, or the run folder of mbrl train, or a "
            "policy.safetensors"
        )
    if found.is_dir() and not (found / "policy.safetensors").exists():
        what = "the run has not ended" if (found / "config.json").exists() else "it is no run folder"
        raise FileNotFoundError(f"there is no policy.safetensors in {found}: {what}")
    trained = mbrl.load_policy(found)
    if task is not None:
        _check_fit(trained, task, found)
    return trained


def _check_fit(trained: mbrl.LearnedActor, task: mbrl.Task | mbrl.GridWorld | str, path: Path) -> None:
    try:
        if isinstance(task, mbrl.Task):
            trained.check_task(task)
        else:
            worlds = mbrl.Assignment(task, 1).worlds(1)
            worlds.env.close()
            seen_dim = worlds.observation_dim if trained.acts_on == "observation" else trained.seen_dim
            trained.check_fits(seen_dim, worlds.actions, task=task if isinstance(task, str) else world_name(task))
    except ValueError as error:
        raise ValueError(f"the policy in {path} does not fit: {error}") from error


def film(path: Path, actor: Any, task: mbrl.Task | mbrl.GridWorld | str, episode: Trajectory | None, seed: int) -> None:
    """An episode of a task as a video, or of a gymnasium environment as it draws itself; the file is whole or not there.

    Args:
        path: the file, ``*.mp4``.
        actor: what acts.
        task: a task, or a gymnasium id.
        episode: what has happened on the task; None to let it happen now.
        seed: of the episode.
    """
    from mbrl.plots import write_task_video

    generator = torch.Generator().manual_seed(seed)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")  # the suffix says how it is written
    try:
        if isinstance(task, mbrl.Task) and episode is not None:
            write_task_video(partial, task, episode)
        else:
            mbrl.evaluate(actor, task, episodes=1, generator=generator, video=partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_model(path: Path | None) -> LearnedDynamics | None:
    """The model at the path of a run folder or of a model file; None without a path.

    Raises:
        FileNotFoundError: there is none; the message says whether the run has not ended.
        ValueError: the file is no model.
    """
    if path is None:
        return None
    if not path.is_dir():
        return load(path)
    if not (path / "model.safetensors").exists():
        what = "the run has not ended" if (path / "config.json").exists() else "it is no run folder"
        raise FileNotFoundError(f"there is no model.safetensors in {path}: {what}")
    return load(path / "model.safetensors")


@contextmanager
def one_thread() -> Iterator[None]:
    """Plan or train on one thread: the matrix products are small, and a second thread costs more than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
