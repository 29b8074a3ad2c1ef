"""What training leaves and files hold: actors that are modules, and know what their columns are."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from dynamics.base import is_numbered
from mbrl.policies.action_space import ActionSpace, ContinuousActions, DiscreteActions
from mbrl.tasks.base import Task

Labels = Mapping[str, Sequence[str]]


class LearnedActor(nn.Module, abc.ABC):
    """An actor that was learned; :func:`mbrl.save_policy` writes it, and :func:`mbrl.load_policy` reads it.

    Args:
        actions: what there is to choose among.

    Attributes:
        names: names of the columns by group, ``"controls"`` and ``"observations"`` or ``"states"``, where they are known.
        units: units, likewise.
    """

    def __init__(self, actions: ActionSpace):
        super().__init__()
        self.actions = actions
        self.names: Labels = {}
        self.units: Labels = {}

    @property
    @abc.abstractmethod
    def acts_on(self) -> str:
        """``"observation"`` or ``"state"``."""

    @property
    @abc.abstractmethod
    def seen_dim(self) -> int:
        """Number of columns that it sees."""

    @abc.abstractmethod
    def init(self, batch: int = 1, *, generator: torch.Generator | None = None) -> Any:
        """Memory at the start of a batch of episodes."""

    @abc.abstractmethod
    def act(self, y: Tensor, memory: Any, *, deterministic: bool = True) -> tuple[Tensor, Any]:
        """Controls ``(batch, m)`` for what is seen, ``(batch, dim)``, and the next memory."""

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON values from which :meth:`restored` makes it again, together with the tensors of its ``state_dict``."""

    @classmethod
    @abc.abstractmethod
    def restored(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The actor of a :meth:`config` and tensors."""

    def describe(self, task: Task) -> None:
        """Note what the columns are on a task, the names and units that it has for them; they are saved with the actor."""
        groups = (f"{self.acts_on}s", "controls")
        self.names, self.units = (
            {group: tuple(labels[group]) for group in groups if group in labels} for labels in (task.names, task.units)
        )

    def check_task(self, task: Task) -> None:
        """Check that the actor fits a task.

        Raises:
            ValueError: the task shows other columns, has other controls, or does not take all that the actor may give.
        """
        x = task.initial_state(1, torch.Generator().manual_seed(0))
        shown = x if self.acts_on == "state" else task.observe(x)
        self.check_fits(shown.shape[-1], task_actions(task), task=f"task {task.name}")
        for kind, own, others in (("names", self.names, task.names), ("units", self.units, task.units)):
            for group in own.keys() & others.keys():
                mine, its = tuple(own[group]), tuple(others[group])
                if mine != its and not is_numbered(mine) and not is_numbered(its):
                    raise ValueError(f"task {task.name} has {kind} of {group} {its}, the policy {mine}")

    def check_fits(self, seen_dim: int, actions: ActionSpace, *, task: str = "the task") -> None:
        """Check that the actor sees as many columns as there are, and gives no controls but those that there are.

        Args:
            seen_dim: number of columns that are shown.
            actions: what may be chosen among.
            task: what they are of, for the message.

        Raises:
            ValueError: the actor was made for something else.
        """
        found, has = (seen_dim, actions.control_dim), (self.seen_dim, self.actions.control_dim)
        if found != has:
            raise ValueError(
                f"{task} shows {found[0]} columns and takes {found[1]} controls, the policy sees {has[0]} and gives "
                f"{has[1]}; it was made for another task"
            )
        (lower, upper), (lowest, highest) = actions.bounds(), self.actions.bounds()
        margin = 1e-6 * (upper - lower)
        fits = bool(((lowest >= lower - margin) & (highest <= upper + margin)).all())
        taken = f"controls from {lower.tolist()} to {upper.tolist()}"
        if isinstance(actions, DiscreteActions):
            taken = f"the controls {actions.values.tolist()} alone"
            fits = fits and isinstance(self.actions, DiscreteActions) and actions.contain(self.actions.values, margin)
        if not fits:
            raise ValueError(f"{task} takes {taken}, the policy chooses among {self.actions.config()}")


def task_actions(task: Task) -> ActionSpace:
    """What there is to choose among on a task."""
    if task.control_values is not None:
        return DiscreteActions(task.control_values.double())
    return ContinuousActions(*task.limits())
