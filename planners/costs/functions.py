"""Costs from plain functions, of a state or of a transition."""

from collections.abc import Callable

import torch
from torch import Tensor

from dynamics.derivatives import jacobian
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


class ResidualCost(Cost):
    r"""Half the squared length of residuals, :math:`\tfrac12 |r(x, u, t)|^2`, whose Gauss-Newton Hessian is :math:`J^\top J`.

    Args:
        residual: ``fn(x, u, t) -> (*batch, r)``, written for any batch; weights are the square roots of those of the squares.
        terminal: ``fn(x) -> (*batch, r)``; no terminal cost by default.
    """

    def __init__(
        self,
        residual: Callable[[Tensor, Tensor, int | Tensor], Tensor],
        terminal: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.residual_function = residual
        self.terminal_function = terminal

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Half the squared length of the residual."""
        return 0.5 * self.residual_function(x, u, t).square().sum(-1)

    def terminal(self, x: Tensor) -> Tensor:
        """Half the squared length of the terminal residual."""
        if self.terminal_function is None:
            return super().terminal(x)
        return 0.5 * self.terminal_function(x).square().sum(-1)

    def gauss_newton(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """J'J of the residual by (x, u)."""
        n = x.shape[-1]
        rows_t = t.unsqueeze(-1) if isinstance(t, Tensor) and t.ndim > 0 else t
        size = self.residual_function(x, u, t).shape[-1]
        J = jacobian(lambda z: self.residual_function(z[..., :n], z[..., n:], rows_t), torch.cat([x, u], dim=-1), size)
        return J.mT @ J

    def gauss_newton_terminal(self, x: Tensor) -> Tensor:
        """J'J of the terminal residual."""
        if self.terminal_function is None:
            return x.new_zeros(*x.shape, x.shape[-1])
        J = jacobian(self.terminal_function, x, self.terminal_function(x).shape[-1])
        return J.mT @ J


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
