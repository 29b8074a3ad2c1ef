r"""Costs: what a plan should make small.

.. math:: J = \sum_{t=0}^{T-1} \gamma^t \, \ell(x_t, u_t, x_{t+1}, t) + \gamma^T \ell_T(x_T)

Costs are written for any batch: states ``(*batch, n)``, controls ``(*batch, m)`` and steps that broadcast to batch give
``(*batch,)``. A planner evaluates a whole trajectory in one call, with time as the last batch axis.
"""

import abc
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn

from dynamics.derivatives import gradient_and_hessian
from planners.psd import convexified


@dataclass(frozen=True, eq=False)
class StageExpansion:
    """Second-order expansion of a stage cost: value ``(*batch,)``, gradients ``(*batch, n | m)`` and Hessian blocks."""

    value: Tensor
    x: Tensor
    u: Tensor
    xx: Tensor
    xu: Tensor
    uu: Tensor


@dataclass(frozen=True, eq=False)
class TerminalExpansion:
    """Second-order expansion of a terminal cost: value ``(*batch,)``, gradient ``(*batch, n)``, Hessian."""

    value: Tensor
    x: Tensor
    xx: Tensor


class Cost(nn.Module, abc.ABC):
    """A cost to be minimized; ``cost_a + cost_b`` and ``weight * cost`` are costs too.

    Attributes:
        is_quadratic: whether stage and terminal are exactly quadratic in (x, u).
        needs_next_state: whether the cost of a step depends on the state it leads to.
        has_reference: whether :meth:`with_reference` replaces something.
        time_varying: whether stage costs differ between steps.
    """

    is_quadratic: bool = False
    needs_next_state: bool = False
    has_reference: bool = False
    time_varying: bool = False

    @abc.abstractmethod
    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Cost of one step, ``(*batch,)``."""

    def terminal(self, x: Tensor) -> Tensor:
        """Cost of the last state, ``(*batch,)``; zero by default."""
        return x.new_zeros(x.shape[:-1])

    def transition(self, x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        """Cost of one step and the state it leads to, ``(*batch,)``; :meth:`stage` unless the cost needs x_next."""
        return self.stage(x, u, t)

    def with_reference(self, reference: Tensor, *, start: int = 0) -> Self:
        """This cost with another reference to track.

        Args:
            reference: ``(n,)``, ``(L, n)`` by step, or ``(*batch, L, n)``; held at its first row before, at its last
                afterwards.
            start: step of the first row.

        Raises:
            TypeError: the cost has no reference.
        """
        raise TypeError(f"{type(self).__name__} has no reference to replace; use a cost with a goal, such as GoalCost")

    def window(self, t0: int, horizon: int) -> "Cost":
        """This cost for the steps t0 .. t0 + horizon, the terminal cost taken at the last; itself without a reference."""
        return self

    def expand(self, x: Tensor, u: Tensor, t: int | Tensor) -> StageExpansion:
        """Second-order expansion of :meth:`stage` at ``(*batch, n)`` and ``(*batch, m)``; exact, by autograd."""
        n = x.shape[-1]
        rows_t = t.unsqueeze(-1) if isinstance(t, Tensor) and t.ndim > 0 else t
        gradient, hessian = gradient_and_hessian(
            lambda z: self.stage(z[..., :n], z[..., n:], rows_t), torch.cat([x, u], dim=-1)
        )
        return StageExpansion(
            value=self.stage(x, u, t),
            x=gradient[..., :n],
            u=gradient[..., n:],
            xx=hessian[..., :n, :n],
            xu=hessian[..., :n, n:],
            uu=hessian[..., n:, n:],
        )

    def expand_terminal(self, x: Tensor) -> TerminalExpansion:
        """Second-order expansion of :meth:`terminal` at ``(*batch, n)``; exact, by autograd."""
        gradient, hessian = gradient_and_hessian(self.terminal, x)
        return TerminalExpansion(value=self.terminal(x), x=gradient, xx=hessian)

    def gauss_newton(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """A positive semidefinite model of the Hessian of :meth:`stage` by (x, u), ``(*batch, n + m, n + m)``.

        The nearest such matrix to the exact Hessian by default. A cost of squared residuals knows a better one, J'J, which does
        not vanish where the residual's curvature cancels it, as that of 1 - cos(angle) does for a hanging pole.
        """
        e = self.expand(x, u, t)
        return convexified(torch.cat([torch.cat([e.xx, e.xu], dim=-1), torch.cat([e.xu.mT, e.uu], dim=-1)], dim=-2))

    def gauss_newton_terminal(self, x: Tensor) -> Tensor:
        """The same for :meth:`terminal`, ``(*batch, n, n)``."""
        return convexified(self.expand_terminal(x).xx)

    def __add__(self, other: "Cost") -> "SumCost":
        if not isinstance(other, Cost):
            return NotImplemented
        return SumCost([self, other])

    def __rmul__(self, weight: float) -> "SumCost":
        if not isinstance(weight, numbers.Real):  # a tensor would lose its graph
            return NotImplemented
        return SumCost([self], weights=[float(weight)])

    __mul__ = __rmul__


class SumCost(Cost):
    """A weighted sum of costs; usually written ``a + 0.1 * b``.

    Args:
        costs: the summands.
        weights: one per summand; ones by default.

    Raises:
        ValueError: there is no summand or the weights do not match.
    """

    def __init__(self, costs: Sequence[Cost], weights: Sequence[float] | None = None):
        super().__init__()
        weights = [1.0] * len(costs) if weights is None else list(weights)
        if not costs or len(weights) != len(costs):
            raise ValueError(f"need at least one cost and one weight each, got {len(costs)} and {len(weights)}")
        self.costs = nn.ModuleList(costs)
        self.weights = weights
        self.is_quadratic = all(cost.is_quadratic for cost in costs)
        self.needs_next_state = any(cost.needs_next_state for cost in costs)
        self.has_reference = any(cost.has_reference for cost in costs)
        self.time_varying = any(cost.time_varying for cost in costs)

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Weighted sum of the stage costs."""
        return self._sum([cost.stage(x, u, t) for _, cost in self._terms()])

    def transition(self, x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        """Weighted sum of the transition costs."""
        return self._sum([cost.transition(x, u, x_next, t) for _, cost in self._terms()])

    def terminal(self, x: Tensor) -> Tensor:
        """Weighted sum of the terminal costs."""
        return self._sum([cost.terminal(x) for _, cost in self._terms()])

    def expand(self, x: Tensor, u: Tensor, t: int | Tensor) -> StageExpansion:
        """Weighted sum of the expansions, so that closed forms stay in use."""
        parts = [cost.expand(x, u, t) for _, cost in self._terms()]
        return StageExpansion(
            **{f.name: self._sum([getattr(p, f.name) for p in parts]) for f in fields(StageExpansion)}
        )

    def expand_terminal(self, x: Tensor) -> TerminalExpansion:
        """Weighted sum of the expansions."""
        parts = [cost.expand_terminal(x) for _, cost in self._terms()]
        names = [f.name for f in fields(TerminalExpansion)]
        return TerminalExpansion(**{name: self._sum([getattr(p, name) for p in parts]) for name in names})

    def gauss_newton(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Weighted sum of those of the summands; the default with a negative weight."""
        if min(self.weights) < 0:
            return super().gauss_newton(x, u, t)
        return self._sum([cost.gauss_newton(x, u, t) for _, cost in self._terms()])

    def gauss_newton_terminal(self, x: Tensor) -> Tensor:
        """Weighted sum of those of the summands; the default with a negative weight."""
        if min(self.weights) < 0:
            return super().gauss_newton_terminal(x)
        return self._sum([cost.gauss_newton_terminal(x) for _, cost in self._terms()])

    def with_reference(self, reference: Tensor, *, start: int = 0) -> "SumCost":
        """Replaces the reference of every summand that has one."""
        if not self.has_reference:
            raise TypeError("no summand has a reference to replace; use a cost with a goal, such as GoalCost")
        costs = [c.with_reference(reference, start=start) if c.has_reference else c for _, c in self._terms()]
        return SumCost(costs, self.weights)

    def window(self, t0: int, horizon: int) -> "SumCost":
        """The sum of the windows."""
        return SumCost([cost.window(t0, horizon) for _, cost in self._terms()], self.weights)

    def _terms(self) -> list[tuple[float, Cost]]:
        return list(zip(self.weights, self.costs, strict=True))  # type: ignore[arg-type]

    def _sum(self, values: list[Tensor]) -> Tensor:
        weighted = [weight * value for weight, value in zip(self.weights, values, strict=True)]
        return torch.stack(torch.broadcast_tensors(*weighted)).sum(0)
