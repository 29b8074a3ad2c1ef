"""What a planner is handed: dynamics, cost, horizon, limits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from dynamics import Dynamics
from planners.costs import Cost

Limits = tuple[float | Tensor, float | Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    r"""An optimal control problem.

    .. math::
        \min_{u} \sum_{t=0}^{T-1} \gamma^t \ell(x_t, u_t, x_{t+1}, t) + \gamma^T (\ell_T(x_T) + V(x_T))
        \quad \text{s.t.} \quad x_{t+1} = f(x_t, u_t, t), \quad \underline u \le u_t \le \overline u

    Attributes:
        dynamics: f.
        cost: stage and terminal cost.
        horizon: T, the number of steps, or ``math.inf``.
        control_limits: (lower, upper), each a number or a tensor that broadcasts to ``(*batch, T, m)``.
        control_values: the allowed discrete controls ``(k, m)``.
        rate_limits: (lower, upper) change of control per second.
        constraints: stage constraints.
        terminal_constraints: constraints on the last state.
        discount: gamma, in (0, 1].
        termination: ``fn(x) -> (*batch,)`` of bool; from the step after it is true, stage costs are zero, and the terminal
            cost and value are left out.
        termination_cost: charged once, when termination becomes true.
        terminal_value: V, a cost-to-go ``fn(x) -> (*batch,)`` added to the terminal cost.

    Raises:
        ValueError: a field is out of range; TypeError: dynamics or cost is of another kind.
    """

    dynamics: Dynamics
    cost: Cost
    horizon: int | float
    _: KW_ONLY
    control_limits: Limits | None = None
    control_values: Tensor | None = None
    rate_limits: Limits | None = None
    constraints: Sequence[Any] = ()
    terminal_constraints: Sequence[Any] = ()
    discount: float = 1.0
    termination: Callable[[Tensor], Tensor] | None = None
    termination_cost: float = 0.0
    terminal_value: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self):
        if not isinstance(self.dynamics, Dynamics):
            raise TypeError(
                f"dynamics must be a Dynamics, got {type(self.dynamics).__name__}; wrap a function in TorchDynamics"
            )
        if not isinstance(self.cost, Cost):
            raise TypeError(f"cost must be a Cost, got {type(self.cost).__name__}; wrap a function in FunctionCost")
        if self.horizon != math.inf and (self.horizon != int(self.horizon) or self.horizon < 1):
            raise ValueError(f"horizon must be a positive number of steps or math.inf, got {self.horizon}")
        if not 0.0 < self.discount <= 1.0:
            raise ValueError(f"discount must be in (0, 1], got {self.discount}")
        for name in ("control_limits", "rate_limits"):
            _check_limits(name, getattr(self, name), self.dynamics.control_dim)
        values = self.control_values
        if values is not None and (values.ndim != 2 or values.shape[1] != self.dynamics.control_dim or not len(values)):
            raise ValueError(
                f"control_values must have shape (k, {self.dynamics.control_dim}), got {tuple(values.shape)}"
            )

    def features(self) -> set[str]:
        """Names of the fields that ask something special of a planner."""
        optional = ("control_limits", "control_values", "rate_limits", "termination", "terminal_value")
        used = {name for name in optional if getattr(self, name) is not None}
        used |= {name for name in ("constraints", "terminal_constraints") if len(getattr(self, name))}
        if self.discount != 1.0:
            used.add("discount")
        if self.horizon == math.inf:
            used.add("infinite horizon")
        return used

    def limits_like(self, us: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper control limits in the dtype and on the device of ``us``; infinite where there are none."""
        lower, upper = self.control_limits if self.control_limits is not None else (-math.inf, math.inf)
        return torch.as_tensor(lower).to(us), torch.as_tensor(upper).to(us)

    def trajectory_cost(self, xs: Tensor, us: Tensor, *, t0: int = 0) -> Tensor:
        """Total cost of trajectories.

        Args:
            xs: states ``(*batch, T+1, n)``.
            us: controls ``(*batch, T, m)``; batch axes broadcast.
            t0: step of the first control.

        Returns:
            ``(*batch,)``; not finite where a state before termination is not.
        """
        T = us.shape[-2]
        steps = torch.arange(T, device=us.device)
        discounts = self.discount ** steps.to(us.dtype)
        stage = discounts * self.cost.transition(xs[..., :-1, :], us, xs[..., 1:, :], t0 + steps)
        final = self.cost.terminal(xs[..., -1, :])
        if self.terminal_value is not None:
            final = final + self.terminal_value(xs[..., -1, :])
        final = self.discount**T * final
        if self.termination is None:
            return stage.sum(-1) + final
        return self._terminated_cost(self.termination(xs), stage, final, discounts)

    def _terminated_cost(self, terminal: Tensor, stage: Tensor, final: Tensor, discounts: Tensor) -> Tensor:
        """Stage costs up to the first terminal state x_k (charged gamma^k times the termination cost), nothing after it."""
        ended = (
            terminal.to(torch.uint8).cummax(-1).values.bool()
        )  # (*batch, T+1): x_k is at or after the first terminal state
        alive = stage.masked_fill(ended[..., :-1], 0.0).sum(-1) + final.masked_fill(ended[..., -1], 0.0)
        if not self.termination_cost:
            return alive
        first = ended & ~torch.cat([torch.zeros_like(ended[..., :1]), ended[..., :-1]], dim=-1)
        factors = torch.cat([discounts, self.discount * discounts[-1:]]) if len(discounts) else discounts.new_ones(1)
        return alive + self.termination_cost * (factors * first).sum(-1)


def _check_limits(name: str, limits: Limits | None, control_dim: int) -> None:
    if limits is None:
        return
    try:
        lower, upper = (torch.as_tensor(limit, dtype=torch.float64) for limit in limits)
        torch.broadcast_shapes(lower.shape, upper.shape, (control_dim,))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"{name} must be (lower, upper), each broadcasting to (*batch, T, {control_dim}), got {limits}"
        ) from None
    if bool((~(lower <= upper)).any()):
        raise ValueError(
            f"{name} must satisfy lower <= upper everywhere, got lower {lower.tolist()}, upper {upper.tolist()}"
        )
