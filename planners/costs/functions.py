"""Costs from plain functions, of a state or of a transition."""

from collections.abc import Callable

from torch import Tensor

from planners.costs.base import Cost


class FunctionCost(Cost):
    """A cost from plain functions.

    Args:
        stage: ``fn(x, u, t) -> (*batch,)``, written for any batch.
        terminal: ``fn(x) -> (*batch,)``; zero by default.
    """

    def __init__(
        self,
        stage: Callable[[Tensor, Tensor, int | Tensor], Tensor],
        terminal: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.stage_function = stage
        self.terminal_function = terminal

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """The stage function's value."""
        return self.stage_function(x, u, t)

    def terminal(self, x: Tensor) -> Tensor:
        """The terminal function's value."""
        return super().terminal(x) if self.terminal_function is None else self.terminal_function(x)


class TransitionCost(Cost):
    """A cost of the state before and after a step, as rewards r(s, a, s') are: the cost is then minus the reward.

    Args:
        transition: ``fn(x, u, x_next, t) -> (*batch,)``, written for any batch.
        terminal: ``fn(x) -> (*batch,)``; zero by default.
    """

    needs_next_state = True

    def __init__(
        self,
        transition: Callable[[Tensor, Tensor, Tensor, int | Tensor], Tensor],
        terminal: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.transition_function = transition
        self.terminal_function = terminal

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Raises TypeError: the next state is missing."""
        raise TypeError(
            "a TransitionCost depends on the next state; evaluate transition(x, u, x_next, t) instead of stage"
        )

    def transition(self, x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        """The transition function's value."""
        return self.transition_function(x, u, x_next, t)

    def terminal(self, x: Tensor) -> Tensor:
        """The terminal function's value."""
        return super().terminal(x) if self.terminal_function is None else self.terminal_function(x)
