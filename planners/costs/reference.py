"""Costs of the error between the state and a goal that may move."""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from planners.costs.base import Cost


class ReferenceCost(Cost):
    """A cost of the error between the state and a goal that may depend on the step."""

    has_reference = True
    goal: Tensor

    def __init__(self, goal: Tensor | Sequence[float] | float):
        super().__init__()
        self._register("goal", finite_tensor("goal", goal))
        self.start = 0

    @property
    def time_varying(self) -> bool:  # type: ignore[override]
        """Whether the goal has more than one row."""
        return self.goal.ndim >= 2 and self.goal.shape[-2] > 1

    def _register(self, name: str, value: Tensor) -> None:
        """Keep a value as what it is: a parameter that an optimizer finds, or a buffer."""
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, value)

    def with_reference(self, reference: Tensor, *, start: int = 0) -> Self:
        """This cost with another goal, see :meth:`Cost.with_reference`; a tensor is used as it is."""
        if not isinstance(reference, Tensor):  # as it comes from a sensor or a file
            reference = torch.as_tensor(reference, dtype=torch.float64)
        if reference.shape[-1:] != self.goal.shape[-1:] and self.goal.ndim > 0:
            raise ValueError(
                f"reference must have {self.goal.shape[-1]} columns as the goal has, got shape {tuple(reference.shape)}"
            )
        if 0 in reference.shape[-2:]:
            raise ValueError(f"reference must have at least one row, got shape {tuple(reference.shape)}")
        new = copy.copy(self)
        new._buffers, new._parameters = {**self._buffers, "goal": reference}, dict(self._parameters)
        new._parameters.pop("goal", None)
        new.start = start
        return new

    def window(self, t0: int, horizon: int) -> Self:
        """The part of the goal between the steps t0 and t0 + horizon, held at its ends."""
        if self.goal.ndim < 2:
            return self
        return self.with_reference(self._goal_at(torch.arange(t0, t0 + horizon + 1)), start=t0)

    def error(self, x: Tensor, t: int | Tensor) -> Tensor:
        """The error x - goal at step t, ``(*batch, n)``."""
        return x - fitted("goal", self._goal_at(t, x.ndim - 1), x)

    def terminal_error(self, x: Tensor) -> Tensor:
        """The error x - goal at the goal's last row, ``(*batch, n)``."""
        last = 0 if self.goal.ndim < 2 else self.start + self.goal.shape[-2] - 1
        return x - fitted("goal", self._goal_at(last, x.ndim - 1), x)

    def _goal_at(self, t: int | Tensor, batch_ndim: int = 0) -> Tensor:
        """The goal's rows at steps t, the ends held, for states with ``batch_ndim`` axes before the last.

        Batch axes of the goal are the first axes of the states, steps broadcast to the last ones.
        """
        if self.goal.ndim < 2:
            return self.goal
        index = held(torch.as_tensor(t, device=self.goal.device) - self.start, self.goal.shape[-2])
        batch = self.goal.shape[:-2]
        ndim = max(batch_ndim, len(batch) + index.ndim)
        worlds = [
            torch.arange(size, device=self.goal.device).reshape(-1, *[1] * (ndim - axis - 1))
            for axis, size in enumerate(batch)
        ]
        return self.goal[(*worlds, index)]


def finite_tensor(name: str, value: Tensor | Sequence[float] | float) -> Tensor:
    """A floating-point tensor: tensors as they are, numbers and sequences in double precision."""
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, dtype=torch.float64)
    elif not value.is_floating_point():
        value = value.double()
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite, got {value.tolist()}")
    return value


def fitted(name: str, value: Tensor, z: Tensor) -> Tensor:
    """A value for states or controls z ``(*batch, k)``, cast like them; ValueError unless it is a number or has k columns."""
    if value.ndim > 0 and value.shape[-1] != z.shape[-1]:  # z of one column would broadcast into a wrong result
        raise ValueError(f"{name} is for vectors of size {value.shape[-1]}, the problem's have size {z.shape[-1]}")
    return value.to(z)


def held(steps: Tensor, length: int) -> Tensor:
    """Rows of steps in a sequence of that length, whose ends are held."""
    return steps.clamp(0, length - 1)
