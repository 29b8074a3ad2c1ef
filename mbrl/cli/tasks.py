"""List the tasks: states n, controls m, control step, length of an episode, simulators.

    mbrl tasks

The names are what mbrl collect, mbrl plan and mbrl eval take.
"""

import difflib
import inspect
import re
import sys
from dataclasses import dataclass
from typing import Annotated, get_args

import tyro

from mbrl.docstrings import first_sentence
from mbrl.envs.making import checked_id
from mbrl.tasks import CONSTRUCTORS, Task

TaskName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]


@dataclass(frozen=True)
class Options:
    """No options."""


def run(options: Options) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("task", "n", "m", "dt [s]", "episode [s]", "simulators", "what"):
        table.add_column(escape(title), justify="left" if title in ("task", "simulators", "what") else "right")
    for name, constructor in CONSTRUCTORS.items():
        task = constructor()
        plant, seconds = task.dynamics, task.episode_steps * task.dynamics.dt
        numbers = (str(plant.state_dim), str(plant.control_dim), f"{plant.dt:g}", f"{seconds:g}")
        table.add_row(name, *numbers, ", ".join(backends(name)), escape(first_sentence(constructor)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def backends(name: str) -> tuple[str, ...]:
    """The simulators that a task can run on, its default first; none to choose from where it has one only."""
    parameter = inspect.signature(CONSTRUCTORS[name]).parameters.get("backend")
    return () if parameter is None else get_args(parameter.annotation)


def is_task(name: str) -> bool:
    """Whether :func:`find_task` finds a task."""
    return _plain(name) in {one.lower() for one in CONSTRUCTORS}


def nearest(name: str) -> list[str]:
    """Tasks with similar names."""
    known = {one.lower(): one for one in CONSTRUCTORS}
    return [known[one] for one in difflib.get_close_matches(_plain(name), known, n=3, cutoff=0.4)]


def _plain(name: str) -> str:
    return name.removeprefix("mbrl/").removesuffix("-v0").lower()


def find_world(name: str, backend: str | None = None) -> Task | str:
    """A task by its name, or the id of another gymnasium environment.

    Raises:
        ValueError: there is neither, or the backend cannot be chosen.
    """
    import gymnasium

    if is_task(name) or not (name in gymnasium.registry or ":" in name or re.search(r"-v\d+$", name)):
        return find_task(name, backend)
    if backend is not None:
        raise ValueError(f"--backend would be ignored: {name} is a gymnasium environment with a simulator of its own")
    return checked_id(name)


def find_task(name: str, backend: str | None = None) -> Task:
    """A task by its name or its gymnasium id.

    Raises:
        ValueError: there is no such task, or it does not run on the backend.
    """
    known, plain_name = {one.lower(): one for one in CONSTRUCTORS}, _plain(name)
    if plain_name not in known:
        near = nearest(name)
        hint = f"nearest: {', '.join(near)}" if near else f"there is {', '.join(CONSTRUCTORS)}"
        raise ValueError(f"there is no task {name!r}; {hint} (mbrl tasks lists them)")
    found = known[plain_name]
    if backend is None:
        return CONSTRUCTORS[found]()
    if backend not in backends(found):
        there = " or ".join(backends(found)) or "no other simulator than its own"
        raise ValueError(f"task {found} runs on {there}, got backend {backend!r}")
    return CONSTRUCTORS[found](backend=backend)
