"""What commands that act on a task share: policies by name, planners, and the model that is planned on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import mbrl
from dynamics import LearnedDynamics, load
from mbrl.cli.choices import choice, choices_of, planner_kinds

KINDS = planner_kinds()
CHOICES = choices_of("planner", KINDS)
PLANNING = ("model", "horizon", "planner")
"""Options that a policy has no use for."""

if TYPE_CHECKING:
    AnyPlanner = Any
else:
    AnyPlanner = choice(KINDS)

Policy = Literal["spline-noise", "random"]


def policy(name: Policy, task: mbrl.Task, *, scale: float = 0.5, interval: int = 5) -> Any:
    """An actor that needs no plan (Any: the noises name what the protocol has as a property)."""
    m = task.dynamics.control_dim
    if name == "random":
        return mbrl.UniformNoise(task.control_limits, m)
    return mbrl.SplineNoise(task.control_limits, m, interval=interval, scale=scale)


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
    """Plan on one thread: the matrix products are small, and a second thread costs more than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
