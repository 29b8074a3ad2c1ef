"""What acts: the protocol that policies, controllers and MPC share."""

from typing import Any, Protocol

import torch
from torch import Tensor

from mbrl.tasks.base import Task


class Actor(Protocol):
    """Anything that maps what it sees to controls, with a memory that goes in and comes out as a value.

    Attributes:
        acts_on: ``"observation"`` or ``"state"``; an actor that needs the state gets the task's.
    """

    @property
    def acts_on(self) -> str:
        """``"observation"`` or ``"state"``."""
        ...

    def init(self, batch: int, *, generator: torch.Generator | None = None) -> Any:
        """Memory at the start of a batch of episodes."""
        ...

    def act(self, y: Tensor, memory: Any, *, deterministic: bool = True) -> tuple[Tensor, Any]:
        """Controls ``(batch, m)`` for observations or states ``(batch, dim)``, and the next memory."""
        ...


def require_actor(actor: Any, task: Task | None = None) -> None:
    """Raise TypeError for what does not act, such as a function or a planner that nothing closes the loop of.

    With a task, an actor that knows what it fits (a policy) raises ValueError where it does not.
    """
    missing = [name for name in ("acts_on", "init", "act") if not hasattr(actor, name)]
    if missing or isinstance(actor, type):
        raise TypeError(
            f"an actor has acts_on, init and act (see mbrl.Actor), got {actor!r}; a planner acts inside planners.MPC(problem, "
            "planner)"
        )
    if task is not None and hasattr(actor, "check_task"):
        actor.check_task(task)
