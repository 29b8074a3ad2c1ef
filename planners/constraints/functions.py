"""Constraints from plain functions."""

import abc
from collections.abc import Callable

from torch import Tensor

from planners.constraints.base import Constraint, Slack


class _FunctionConstraint(Constraint, abc.ABC):
    """Rows from a function of states, controls and steps."""

    def __init__(
        self,
        function: Callable[[Tensor, Tensor, int | Tensor], Tensor],
        *,
        name: str | None = None,
        soft: Slack | None = None,
    ):
        super().__init__(name=name, soft=soft)
        self.function = function

    def value(self, x: Tensor, u: Tensor | None, t: int | Tensor | None) -> Tensor:
        """The function's rows, ``(*batch, k)``."""
        return self.function(x, u, t)  # type: ignore[arg-type]


class Inequality(_FunctionConstraint):
    """``fn(x, u, t) <= 0``, row by row.

    Args:
        function: ``fn(x, u, t) -> (*batch, k)``, written for any batch.
        name: what messages call it.
        soft: the price of violating it; None makes it hard.
    """

    equality = False  # type: ignore[override]


class Equality(_FunctionConstraint):
    """``fn(x, u, t) == 0``, row by row; arguments as of :class:`Inequality`."""

    equality = True  # type: ignore[override]


class _StateFunctionConstraint(Constraint, abc.ABC):
    """Rows from a function of states."""

    of_state = True

    def __init__(self, function: Callable[[Tensor], Tensor], *, name: str | None = None, soft: Slack | None = None):
        super().__init__(name=name, soft=soft)
        self.function = function

    def value(self, x: Tensor, u: Tensor | None = None, t: int | Tensor | None = None) -> Tensor:
        """The function's rows, ``(*batch, k)``."""
        return self.function(x)


class StateInequality(_StateFunctionConstraint):
    """``fn(x) <= 0``, row by row: an obstacle, for instance. For stages and for the last state.

    Args:
        function: ``fn(x) -> (*batch, k)``, written for any batch.
        name: what messages call it.
        soft: the price of violating it; None makes it hard.
    """

    equality = False  # type: ignore[override]


class StateEquality(_StateFunctionConstraint):
    """``fn(x) == 0``, row by row; arguments as of :class:`StateInequality`."""

    equality = True  # type: ignore[override]
