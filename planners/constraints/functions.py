"""Constraints from plain functions."""

from collections.abc import Callable

from torch import Tensor

from planners.constraints.base import Constraint, Slack


class Inequality(Constraint):
    """``fn(x, u, t) <= 0``, row by row.

    Args:
        function: ``fn(x, u, t) -> (*batch, k)``, written for any batch.
        name: what messages call it.
        soft: the price of violating it; None makes it hard.
    """

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


class Equality(Inequality):
    """``fn(x, u, t) == 0``, row by row; arguments as of :class:`Inequality`."""

    equality = True


class StateInequality(Constraint):
    """``fn(x) <= 0``, row by row: an obstacle, for instance. For stages and for the last state.

    Args:
        function: ``fn(x) -> (*batch, k)``, written for any batch.
        name: what messages call it.
        soft: the price of violating it; None makes it hard.
    """

    of_state = True

    def __init__(self, function: Callable[[Tensor], Tensor], *, name: str | None = None, soft: Slack | None = None):
        super().__init__(name=name, soft=soft)
        self.function = function

    def value(self, x: Tensor, u: Tensor | None = None, t: int | Tensor | None = None) -> Tensor:
        """The function's rows, ``(*batch, k)``."""
        return self.function(x)


class StateEquality(StateInequality):
    """``fn(x) == 0``, row by row; arguments as of :class:`StateInequality`."""

    equality = True
