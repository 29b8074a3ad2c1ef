"""List the tasks: states n, controls m, control step, length of an episode, simulators.

    mbrl tasks

The names are what mbrl collect, mbrl plan and mbrl eval take. Those in tables are worlds of n cells with m actions, to learn
rewards in; with --task-options size=16 seed=1 they are made with other options.
"""

import difflib
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from mbrl.docstrings import first_sentence
from mbrl.envs.making import checked_id
from mbrl.tasks import CONSTRUCTORS, WORLDS, GridWorld, Task
from mbrl.tasks.worlds import episode_steps

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
    for name, constructor in WORLDS.items():
        world = constructor()
        numbers = (str(world.mdp.states), str(world.mdp.actions), "1", str(episode_steps(world)))
        table.add_row(name, *numbers, "tables", escape(first_sentence(constructor)))
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
    known = {one.lower(): one for one in (*CONSTRUCTORS, *WORLDS)}
    return [known[one] for one in difflib.get_close_matches(_plain(name), known, n=3, cutoff=0.4)]


def _plain(name: str) -> str:
    return name.removeprefix("mbrl/").removesuffix("-v0").lower()


def find_world(name: str, backend: str | None = None, options: Sequence[str] = ()) -> Task | GridWorld | str:
    """A task or a world by its name, or the id of another gymnasium environment.

    Args:
        name: of it.
        backend: of a task.
        options: of a world, ``"size=16"`` and so on.

    Raises:
        ValueError: there is neither, or the backend or an option cannot be chosen.
    """
    import gymnasium

    worlds = {one.lower(): one for one in WORLDS}
    if _plain(name) in worlds:
        found = worlds[_plain(name)]
        if backend is not None:
            raise ValueError(f"--backend would be ignored: {found} is a world in tables")
        return WORLDS[found](**_chosen_options(found, options))
    if options:
        raise ValueError(f"--task-options are those of {', '.join(WORLDS)}, which are made in tables, not of {name}")
    if is_task(name) or not (name in gymnasium.registry or ":" in name or re.search(r"-v\d+$", name)):
        return find_task(name, backend)
    if backend is not None:
        raise ValueError(f"--backend would be ignored: {name} is a gymnasium environment with a simulator of its own")
    return checked_id(name)


def _chosen_options(name: str, options: Sequence[str]) -> dict[str, Any]:
    """The keywords of a world's constructor that were asked for: numbers, and choices among a few words."""
    constructor = WORLDS[name]
    hints = get_type_hints(constructor)
    defaults = inspect.signature(constructor).parameters
    known = {key: hints[key] for key in defaults if hints[key] in (int, float) or get_origin(hints[key]) is Literal}
    chosen: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or key not in known:
            shown = " ".join(f"{one}={defaults[one].default}" for one in known)
            raise ValueError(f"--task-options takes NAME=VALUE, of {name} {shown}, got {option!r}")
        kind = known[key]
        words = {str(value): value for value in get_args(kind)}
        try:
            chosen[key] = words[text] if words else kind(text)
        except (KeyError, ValueError):
            what = " or ".join(words) or ("an integer" if kind is int else "a number")
            raise ValueError(f"--task-options {key}= takes {what}, got {text!r}") from None
    return chosen


def find_task(name: str, backend: str | None = None) -> Task:
    """A task by its name or its gymnasium id.

    Raises:
        ValueError: there is no such task, or it does not run on the backend.
    """
    known, plain_name = {one.lower(): one for one in CONSTRUCTORS}, _plain(name)
    if plain_name not in known:
        near = nearest(name)
        worlds = [one for one in WORLDS if one.lower() == plain_name]
        if worlds:
            raise ValueError(
                f"{worlds[0]} is a world in tables, in which no controls are planned or drawn; it takes policies"
            )
        hint = f"nearest: {', '.join(near)}" if near else f"there is {', '.join(CONSTRUCTORS)}"
        raise ValueError(f"there is no task {name!r}; {hint} (mbrl tasks lists them)")
    found = known[plain_name]
    if backend is None:
        return CONSTRUCTORS[found]()
    if backend not in backends(found):
        there = " or ".join(backends(found)) or "no other simulator than its own"
        raise ValueError(f"task {found} runs on {there}, got backend {backend!r}")
    return CONSTRUCTORS[found](backend=backend)
