"""What a planner is handed: dynamics, cost, horizon, limits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor

from dynamics import Dynamics
from dynamics.base import surely_finite
from planners.constraints import Constraint
from planners.costs import Cost

CACHED_NUMBERS = 2**15  # of an intermediate result that stays in a processor's second-level cache

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
        control_limits: (lower, upper), each a number or a tensor that broadcasts to ``(*batch, T, m)``, by step of the plan.
        control_values: the allowed discrete controls ``(k, m)``.
        rate_limits: (lower, upper) change of control per second.
        constraints: constraints on (x_t, u_t) for t = 0 .. T-1; those of the state alone begin at t = 1, as no plan changes x_0.
        terminal_constraints: constraints on the last state x_T, each one of the state alone; a limit that shall hold at the
            last state too is listed in both. The price of a soft constraint is part of the cost.
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
    constraints: Sequence[Constraint] = ()
    terminal_constraints: Sequence[Constraint] = ()
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
        if self.horizon != math.inf and not (math.isfinite(self.horizon) and self.horizon == int(self.horizon) >= 1):
            raise ValueError(f"horizon must be a positive number of steps or math.inf, got {self.horizon}")
        if not 0.0 < self.discount <= 1.0:
            raise ValueError(f"discount must be in (0, 1], got {self.discount}")
        for name in ("control_limits", "rate_limits"):
            _check_limits(name, getattr(self, name), self.horizon, self.dynamics.control_dim)
        values, m = self.control_values, self.dynamics.control_dim
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        if values is not None and not (isinstance(shape, tuple) and len(shape) == 2 and shape[0] and shape[1] == m):
            raise ValueError(f"control_values must be a tensor of shape (k, {m}), got {shape}")
        if isinstance(values, Tensor):
            self._check_values(values)
        self._check_constraints()
        if self.termination_cost and self.termination is None:
            raise ValueError(f"termination_cost {self.termination_cost} is charged at termination, which is not given")

    def _check_constraints(self) -> None:
        for field in ("constraints", "terminal_constraints"):
            given = getattr(self, field)
            if isinstance(given, Constraint) or not all(isinstance(constraint, Constraint) for constraint in given):
                kinds = type(given).__name__ if isinstance(given, Constraint) else [type(c).__name__ for c in given]
                fix = (
                    f"write [{kinds}(...)]"
                    if isinstance(given, Constraint)
                    else "wrap a function in Inequality or Equality"
                )
                raise TypeError(f"{field} must be a sequence of constraints, got {kinds}; {fix}")
        n = self.dynamics.state_dim
        for constraint in self.all_constraints:
            states = getattr(constraint, "states", None) or ()
            if any(not -n <= i < n for i in states):
                raise ValueError(
                    f"constraint {constraint.name!r} is on the states {states}, the dynamics have {n}: 0 to {n - 1}"
                )
        wrong = [constraint.name for constraint in self.terminal_constraints if not constraint.of_state]
        if wrong:
            raise ValueError(
                f"terminal_constraints must be functions of the state alone, which {', '.join(wrong)} is not; use "
                "StateInequality or StateEquality"
            )

    def _check_values(self, values: Tensor) -> None:
        """Raise ValueError unless the allowed controls ``(k, m)`` are finite and within the limits of every step."""
        values = values.double()
        lower, upper = (
            limit.expand(torch.broadcast_shapes(limit.shape, values.shape[-1:])) for limit in self.limits_like(values)
        )
        lower, upper = lower.reshape(-1, values.shape[-1]).amax(0), upper.reshape(-1, values.shape[-1]).amin(0)
        if not bool((values.isfinite() & (values >= lower) & (values <= upper)).all()):
            raise ValueError(
                f"control_values must be finite and within control_limits at every step, got {values.tolist()} and limits "
                f"{lower.tolist()} to {upper.tolist()}"
            )

    def features(self) -> set[str]:
        """Names of the fields that ask something special of a planner."""
        optional = ("control_limits", "control_values", "rate_limits", "termination", "terminal_value")
        used = {name for name in optional if getattr(self, name) is not None}
        for name in ("constraints", "terminal_constraints"):
            if any(constraint.soft is None for constraint in getattr(self, name)):
                used.add(name)
        if any(constraint.soft is not None for constraint in self.all_constraints):
            used.add("soft constraints")
        if self.discount != 1.0:
            used.add("discount")
        if self.horizon == math.inf:
            used.add("infinite horizon")
        return used

    @property
    def all_constraints(self) -> tuple[Constraint, ...]:
        """Stage and terminal constraints."""
        return (*self.constraints, *self.terminal_constraints)

    def violations(self, xs: Tensor, us: Tensor, *, t0: int = 0) -> dict[str, Tensor]:
        """By how much a trajectory violates each constraint at most, soft ones too, by name: ``(*batch,)`` each.

        Args:
            xs: states ``(*batch, T+1, n)``.
            us: controls ``(*batch, T, m)``.
            t0: step of the first control.
        """
        steps = torch.arange(t0, t0 + us.shape[-2], device=us.device)
        found: dict[str, Tensor] = {}
        for constraint in self.constraints:
            first = int(constraint.of_state)
            rows = constraint.violation(xs[..., first:-1, :], us[..., first:, :], steps[first:])
            _keep_larger(found, constraint.name, rows.flatten(-2))
        for constraint in self.terminal_constraints:
            _keep_larger(found, constraint.name, constraint.violation(xs[..., -1, :]))
        return found

    def hard_violation(self, xs: Tensor, us: Tensor, *, t0: int = 0) -> Tensor:
        """By how much a trajectory violates its hard constraints at most, ``(*batch,)``; arguments as of :meth:`violations`."""
        hard = {
            name: [constraint for constraint in getattr(self, name) if constraint.soft is None]
            for name in ("constraints", "terminal_constraints")
        }
        worst = torch.zeros(us.shape[:-2], dtype=us.dtype, device=us.device)
        for violation in replace(self, **hard).violations(xs, us, t0=t0).values():
            worst = torch.maximum(worst, violation)
        return worst

    def precision(self, us: Tensor) -> float:
        """The relative error of what is computed in the dtype of us: the coarser of that and of the model's own.

        Networks compute in their own dtype, and differences lose a third of the digits.
        """
        dtypes = [us.dtype, *(p.dtype for p in self.dynamics.parameters() if p.is_floating_point())]
        epsilon = max(torch.finfo(dtype).eps for dtype in dtypes)
        return epsilon if self.dynamics.derivatives == "autograd" else 10 * epsilon ** (2 / 3)

    def limits_like(self, us: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper control limits in the dtype and on the device of ``us``; infinite where there are none."""
        lower, upper = self.control_limits if self.control_limits is not None else (-math.inf, math.inf)
        return _like(lower, us), _like(upper, us)

    def trajectory_cost(self, xs: Tensor, us: Tensor, *, t0: int = 0) -> Tensor:
        """Total cost of trajectories.

        Args:
            xs: states ``(*batch, T+1, n)``.
            us: controls ``(*batch, T, m)``; batch axes broadcast.
            t0: step of the first control.

        Returns:
            ``(*batch,)``; not finite where a state before termination is not.

        Raises:
            ValueError: xs and us do not fit, or a function of the problem returns another shape than its batch.
        """
        T = us.shape[-2]
        if xs.shape[-2] != T + 1:
            raise ValueError(f"xs must have one step more than us, got {tuple(xs.shape)} and {tuple(us.shape)}")
        batch = xs.shape[:-2]
        if us.shape[:-2] != batch:
            batch = torch.broadcast_shapes(batch, us.shape[:-2])
            xs, us = xs.expand(*batch, *xs.shape[-2:]), us.expand(*batch, *us.shape[-2:])
        steps = torch.arange(t0, t0 + T, device=us.device)
        cost, last = self.cost.window(t0, T), xs[..., -1, :]
        stage = self._stage_costs(cost, xs, us, steps)
        final = check_shape("the terminal cost", cost.terminal(last), batch)
        for constraint in self.terminal_constraints:
            if constraint.soft is not None:
                final = final + constraint.soft(check_rows(constraint, constraint.violation(last), batch)).sum(-1)
        if self.terminal_value is not None:
            final = final + check_shape("terminal_value", self.terminal_value(last), batch)
        if self.discount != 1.0:
            stage, final = self.discounts(us)[:-1] * stage, self.discount**T * final
        total = stage.sum(-1) + final if self.termination is None else self._terminated_cost(xs, us, stage, final)
        # A cost that compares states, or ignores them, would not notice that they are NaN.
        if surely_finite(xs):
            return total
        return total.masked_fill(~self.finite_states(xs), float("nan"))

    def _stage_costs(self, cost: Cost, xs: Tensor, us: Tensor, steps: Tensor) -> Tensor:
        """Stage costs ``(*batch, T)``, a few steps at a time where a batch is large: intermediate results stay in cache."""
        T, batch = us.shape[-2], us.shape[:-2]
        block = max(1, CACHED_NUMBERS // max(math.prod(batch), 1))
        parts = []
        for start in range(0, max(T, 1), block):
            rows = slice(start, start + block)
            x, x_next = xs[..., :-1, :][..., rows, :], xs[..., 1:, :][..., rows, :]
            stage = cost.transition(x, us[..., rows, :], x_next, steps[rows])
            parts.append(check_shape("the stage cost", stage, (*batch, x.shape[-2])))
            for constraint in self.constraints:
                if constraint.soft is not None:
                    parts[-1] = parts[-1] + self._slack_costs(constraint, x, us[..., rows, :], steps[rows], start)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _slack_costs(self, constraint: Constraint, x: Tensor, u: Tensor, steps: Tensor, start: int) -> Tensor:
        """The price of violating a soft constraint at steps that begin with the plan's step ``start``, ``(*batch, steps)``."""
        violation = check_rows(constraint, constraint.violation(x, u, steps), tuple(x.shape[:-1]))
        price = constraint.soft(violation).sum(-1)  # type: ignore[misc]
        if start == 0 and constraint.of_state:
            price = torch.cat([torch.zeros_like(price[..., :1]), price[..., 1:]], dim=-1)
        return price

    def finite_states(self, xs: Tensor) -> Tensor:
        """Whether all states of ``(*batch, T+1, n)`` up to the first terminal one are finite, ``(*batch,)`` of bool."""
        finite = xs.isfinite().all(-1)
        finite[..., 1:] |= self._ended(xs)[..., :-1]
        return finite.all(-1)

    def _ended(self, xs: Tensor) -> Tensor:
        """Whether a state is the first terminal one or comes after it, ``(*batch, T+1)`` of bool."""
        if self.termination is None:
            return torch.zeros(xs.shape[:-1], dtype=torch.bool, device=xs.device)
        terminal = check_shape("termination", self.termination(xs), tuple(xs.shape[:-1]))
        if terminal.dtype != torch.bool:  # a probability would be cut down to zero
            raise ValueError(f"termination must return bool, got {terminal.dtype}; compare with a threshold")
        return terminal.to(torch.uint8).cummax(-1).values.bool()

    def discounts(self, us: Tensor) -> Tensor:
        """Gamma^t for t = 0 .. T, ``(T+1,)``."""
        return self.discount ** torch.arange(us.shape[-2] + 1, dtype=us.dtype, device=us.device)

    def _terminated_cost(self, xs: Tensor, us: Tensor, stage: Tensor, final: Tensor) -> Tensor:
        """Stage costs up to the first terminal state x_k (charged gamma^k times the termination cost), nothing after it."""
        ended = self._ended(xs)
        alive = stage.masked_fill(ended[..., :-1], 0.0).sum(-1) + final.masked_fill(ended[..., -1], 0.0)
        if not self.termination_cost:
            return alive
        first = ended & ~torch.cat([torch.zeros_like(ended[..., :1]), ended[..., :-1]], dim=-1)
        return alive + self.termination_cost * (self.discounts(us) * first).sum(-1)


def check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The value of a function of a problem, or a ValueError if its shape is not that of the batch it was called with."""
    came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if came != tuple(shape):  # most would broadcast into a wrong result
        raise ValueError(
            f"{name} must have shape {tuple(shape)}, one number for each state, got {came}; a function gives "
            "(*batch,) for states (*batch, n), a reference (*batch, L, n) needs the batch axes of x0"
        )
    return value


def check_rows(constraint: Constraint, value: Tensor, batch: tuple[int, ...]) -> Tensor:
    """The rows ``(*batch, k)`` of a constraint, or a ValueError if they are not that."""
    came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if not isinstance(value, Tensor) or value.ndim != len(batch) + 1 or tuple(value.shape[:-1]) != tuple(batch):
        raise ValueError(
            f"constraint {constraint.name!r} must give rows (*batch, k) with batch {tuple(batch)}, got {came}; a function of one "
            "row keeps its last axis: x[..., :1] and not x[..., 0]"
        )
    if not value.is_floating_point():
        raise ValueError(
            f"constraint {constraint.name!r} must give floating-point numbers that are not positive where it holds, got bool or "
            "whole numbers; return the difference, x[..., :1] - 0.5, and not the comparison"
        )
    return value


def _keep_larger(found: dict[str, Tensor], name: str, rows: Tensor) -> None:
    if rows.shape[-1] == 0:
        return
    largest = rows.amax(-1)
    found[name] = torch.maximum(found[name], largest) if name in found else largest


def _like(limit: float | Tensor, us: Tensor) -> Tensor:
    return torch.as_tensor(limit, dtype=us.dtype, device=us.device)


def _check_limits(name: str, limits: Limits | None, horizon: int | float, control_dim: int) -> None:
    if limits is None:
        return
    row = (control_dim,) if horizon == math.inf else (int(horizon), control_dim)
    try:
        lower, upper = (torch.as_tensor(limit, dtype=torch.float64) for limit in limits)
        if torch.broadcast_shapes(lower.shape, upper.shape, row)[-len(row) :] != row:
            raise ValueError
    except (TypeError, ValueError, RuntimeError):
        shape = f"(*batch, {', '.join(map(str, row))})"
        raise ValueError(f"{name} must be (lower, upper), each broadcasting to {shape}, got {limits}") from None
    if bool((~(lower <= upper)).any()):
        raise ValueError(
            f"{name} must satisfy lower <= upper everywhere, got lower {lower.tolist()}, upper {upper.tolist()}"
        )
