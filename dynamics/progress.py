"""A progress bar that stays out of the way when nobody watches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Reports how far a piece of work has come."""

    def __call__(self, completed: int, text: str = "") -> None:
        """Show ``completed`` of the total, and a few words or figures."""


@contextmanager
def progress_bar(title: str, total: int, *, show: bool | None = None) -> Iterator[Advance]:
    """A rich progress bar on standard error.

    Args:
        title: what is going on.
        total: amount of work.
        show: False for none; None shows it on a terminal only.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    visible = console.is_terminal if show is None else show
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[text]}")
    with Progress(*columns, console=console, disable=not visible) as progress:
        task = progress.add_task(title, total=total, text="")

        def advance(completed: int, text: str = "") -> None:
            progress.update(task, completed=completed, text=text)

        yield advance
