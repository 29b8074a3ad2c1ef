"""What a policy chooses among: normalized controls, or the numbers of finitely many.

A policy's *action* is what its distribution is over, a *control* is what the plant gets. Networks and their step sizes are made
for numbers of order one, so continuous controls are normalized by their limits; probabilities are those of actions.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class ActionSpace(abc.ABC):
    """The actions of a policy and the controls that they stand for."""

    @property
    @abc.abstractmethod
    def control_dim(self) -> int:
        """Number m of controls."""

    @abc.abstractmethod
    def controls(self, actions: Tensor) -> Tensor:
        """The controls ``(*batch, m)`` of actions, within the limits."""

    @abc.abstractmethod
    def actions(self, controls: Tensor) -> Tensor:
        """The actions of controls ``(*batch, m)``."""

    @abc.abstractmethod
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The lowest and highest value of each control, ``(m,)``, infinite where there is no limit."""

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON values from which :func:`action_space` makes it again."""


@dataclass(frozen=True, eq=False)
class ContinuousActions(ActionSpace):
    """Controls between limits; the action is -1 at the lower and 1 at the upper one, and the control itself without limits.

    Attributes:
        lower: lower limits ``(m,)``, -inf where there is none; kept in double precision.
        upper: upper limits ``(m,)``, inf where there is none; likewise.

    Raises:
        ValueError: the limits are no vectors of equal length, inverted or NaN, or a control has one of the two only.
    """

    lower: Tensor
    upper: Tensor

    def __post_init__(self):
        tensors = isinstance(self.lower, Tensor) and isinstance(self.upper, Tensor)
        fit = tensors and self.lower.ndim == 1 and self.lower.shape == self.upper.shape
        if not (fit and bool((self.lower < self.upper).all())):
            raise ValueError(f"need limits (m,), tensors with lower < upper, got {self.lower} and {self.upper}")
        if bool((self.lower.isfinite() != self.upper.isfinite()).any()):
            raise ValueError(
                f"a control is limited on both sides or on none, got {self.lower.tolist()} and {self.upper.tolist()}"
            )
        for name in ("lower", "upper"):
            object.__setattr__(self, name, getattr(self, name).double())

    @property
    def control_dim(self) -> int:
        """Number m of controls."""
        return len(self.lower)

    def controls(self, actions: Tensor) -> Tensor:
        """The controls ``(*batch, m)`` of actions ``(*batch, m)``, clamped to the limits."""
        u = self.unclamped(actions)
        return torch.minimum(torch.maximum(u, self.lower.to(u)), self.upper.to(u))

    def actions(self, controls: Tensor) -> Tensor:
        """The actions ``(*batch, m)`` of controls ``(*batch, m)``."""
        center, half = self.scale(controls)
        return (controls - center) / half

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The limits."""
        return self.lower, self.upper

    def config(self) -> dict[str, Any]:
        """JSON values; an infinite limit is None."""
        limits = {"lower": self.lower, "upper": self.upper}
        return {name: [v if abs(v) < torch.inf else None for v in limit.tolist()] for name, limit in limits.items()}

    def unclamped(self, actions: Tensor) -> Tensor:
        """What :meth:`controls` clamps to the limits, ``(*batch, m)``: the inverse of :meth:`actions` everywhere."""
        center, half = self.scale(actions)
        return center + half * actions

    def scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Middle and half width of the limits of each control, ``(m,)``, in the dtype of a tensor; 0 and 1 without limits."""
        bounded = self.lower.isfinite()
        lower, upper = 0.5 * self.lower, 0.5 * self.upper  # halved before, so that no sum of limits overflows
        center = torch.where(bounded, lower + upper, 0.0)
        half = torch.where(bounded, upper - lower, 1.0)
        return center.to(like), half.to(like)


@dataclass(frozen=True, eq=False)
class DiscreteActions(ActionSpace):
    """Finitely many controls; the action is the number of one.

    Attributes:
        values: the controls ``(k, m)``, kept in double precision.

    Raises:
        ValueError: there is none, or they are no finite matrix.
    """

    values: Tensor

    def __post_init__(self):
        values = self.values
        if (
            not isinstance(values, Tensor)
            or values.ndim != 2
            or not values.numel()
            or not bool(values.isfinite().all())
        ):
            raise ValueError(f"values must be a finite tensor, one row (m,) for each control, got {values}")
        object.__setattr__(self, "values", values.double())

    @property
    def control_dim(self) -> int:
        """Number m of controls."""
        return self.values.shape[1]

    def controls(self, actions: Tensor) -> Tensor:
        """The controls ``(*batch, m)`` of actions ``(*batch,)``."""
        return self.values.to(actions.device)[actions]

    def actions(self, controls: Tensor) -> Tensor:
        """The numbers ``(*batch,)`` of the values nearest to controls ``(*batch, m)``."""
        values = self.values.to(controls)
        return (controls.unsqueeze(-2) - values).square().sum(-1).argmin(-1)

    def contain(self, controls: Tensor, margin: Tensor) -> bool:
        """Whether all controls ``(*batch, m)`` are among the values, each to within a margin ``(m,)``."""
        return bool(((self.controls(self.actions(controls)) - controls).abs() <= margin).all())

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The lowest and highest value of each control, ``(m,)``."""
        return self.values.amin(0), self.values.amax(0)

    def config(self) -> dict[str, Any]:
        """JSON values."""
        return {"values": self.values.tolist()}


def action_space(config: Mapping[str, Any]) -> ActionSpace:
    """The space of a :meth:`ActionSpace.config`.

    Raises:
        ValueError: it is the config of none.
    """
    if set(config) == {"values"}:
        return DiscreteActions(torch.tensor(config["values"], dtype=torch.float64))
    if set(config) == {"lower", "upper"}:
        ends = (("lower", -torch.inf), ("upper", torch.inf))
        limits = [[infinite if v is None else v for v in config[name]] for name, infinite in ends]
        return ContinuousActions(*(torch.tensor(limit, dtype=torch.float64) for limit in limits))
    raise ValueError(f"an action space has values, or lower and upper, got {sorted(config)}")
