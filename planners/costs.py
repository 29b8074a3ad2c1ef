r"""Costs: what a plan should make small.

.. math:: J = \sum_{t=0}^{T-1} \gamma^t \, \ell(x_t, u_t, x_{t+1}, t) + \gamma^T \ell_T(x_T)

Costs are written for any batch: states ``(*batch, n)``, controls ``(*batch, m)`` and steps that broadcast to batch give
``(*batch,)``. A planner evaluates a whole trajectory in one call, with time as the last batch axis.
"""

import abc
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from dynamics.derivatives import gradient_and_hessian


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
    """

    is_quadratic: bool = False
    needs_next_state: bool = False

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
            reference: ``(n,)``, ``(L, n)`` by step, or ``(*batch, L, n)``; held at its last value afterwards.
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

    def __add__(self, other: "Cost") -> "SumCost":
        if not isinstance(other, Cost):
            return NotImplemented
        return SumCost([self, other])

    def __rmul__(self, weight: float) -> "SumCost":
        return SumCost([self], weights=[float(weight)])


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

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Weighted sum of the stage costs."""
        return torch.stack(torch.broadcast_tensors(*[w * cost.stage(x, u, t) for w, cost in self._terms()])).sum(0)

    def transition(self, x: Tensor, u: Tensor, x_next: Tensor, t: int | Tensor) -> Tensor:
        """Weighted sum of the transition costs."""
        return torch.stack(
            torch.broadcast_tensors(*[w * cost.transition(x, u, x_next, t) for w, cost in self._terms()])
        ).sum(0)

    def terminal(self, x: Tensor) -> Tensor:
        """Weighted sum of the terminal costs."""
        return torch.stack(torch.broadcast_tensors(*[w * cost.terminal(x) for w, cost in self._terms()])).sum(0)

    def with_reference(self, reference: Tensor, *, start: int = 0) -> "SumCost":
        """Replaces the reference of every summand that has one."""
        tracking = [isinstance(cost, (_ReferenceCost, SumCost)) for _, cost in self._terms()]
        if not any(tracking):
            raise TypeError("no summand has a reference to replace; use a cost with a goal, such as GoalCost")
        return self._map(lambda cost: cost.with_reference(reference, start=start), tracking)

    def window(self, t0: int, horizon: int) -> "SumCost":
        """The sum of the windows."""
        return self._map(lambda cost: cost.window(t0, horizon), [True] * len(self.costs))

    def _terms(self) -> list[tuple[float, Cost]]:
        return list(zip(self.weights, self.costs, strict=True))  # type: ignore[arg-type]

    def _map(self, change: Callable[[Cost], Cost], where: list[bool]) -> "SumCost":
        return SumCost([change(c) if w else c for (_, c), w in zip(self._terms(), where, strict=True)], self.weights)


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


class _ReferenceCost(Cost):
    """A cost of the error between the state and a goal that may depend on the step."""

    goal: Tensor

    def __init__(self, goal: Tensor | Sequence[float] | float):
        super().__init__()
        goal = torch.as_tensor(goal)
        goal = goal if goal.is_floating_point() else goal.double()
        if not bool(goal.isfinite().all()):
            raise ValueError(f"goal must be finite, got {goal.tolist()}")
        self.register_buffer("goal", goal)
        self.start = 0

    def with_reference(self, reference: Tensor, *, start: int = 0) -> Self:
        """This cost with another goal, see :meth:`Cost.with_reference`; a tensor is used as it is."""
        if reference.shape[-1:] != self.goal.shape[-1:] and self.goal.ndim > 0:
            raise ValueError(
                f"reference must have {self.goal.shape[-1]} columns as the goal has, got shape {tuple(reference.shape)}"
            )
        new = copy.copy(self)
        new._buffers = {**self._buffers, "goal": reference}
        new.start = start
        return new

    def window(self, t0: int, horizon: int) -> Self:
        """The part of the goal between the steps t0 and t0 + horizon, held at its ends."""
        if self.goal.ndim < 2:
            return self
        rows = _at_step(self.goal, torch.arange(t0, t0 + horizon + 1) - self.start, core_ndim=1)
        return self.with_reference(rows, start=t0)

    def error(self, x: Tensor, t: int | Tensor) -> Tensor:
        """X - goal at step t, ``(*batch, n)``."""
        if self.goal.ndim < 2:
            return x - self.goal.to(x)
        goal = _at_step(self.goal, torch.as_tensor(t) - self.start, core_ndim=1)
        return x - _align(goal.to(x), self.goal.ndim - 2, x.ndim)

    def terminal_error(self, x: Tensor) -> Tensor:
        """X - goal at its last row, ``(*batch, n)``."""
        if self.goal.ndim < 2:
            return x - self.goal.to(x)
        return x - _align(self.goal[..., -1, :].to(x), self.goal.ndim - 2, x.ndim)


class QuadraticCost(_ReferenceCost):
    r"""The quadratic cost of the error :math:`e = x - g` and the control.

    .. math::
        \ell = \tfrac12 e^\top Q e + e^\top N u + \tfrac12 u^\top R u + q^\top e + r^\top u, \qquad
        \ell_T = \tfrac12 e^\top Q_T e .

    Args:
        Q: ``(n, n)``, symmetric.
        R: ``(m, m)``, symmetric.
        N: ``(n, m)``; zero by default.
        q: ``(n,)``; zero by default.
        r: ``(m,)``; zero by default.
        Q_terminal: ``(n, n)``, symmetric; zero by default.
        goal: ``(n,)``, ``(L, n)`` by step or ``(*batch, L, n)``; zero by default.

    Q, R, N, q and r may have one more, leading axis: one value for each step, the last one held.

    Raises:
        ValueError: shapes do not fit, or a matrix is not symmetric.
    """

    is_quadratic = True
    Q: Tensor
    R: Tensor
    N: Tensor
    q: Tensor
    r: Tensor
    Q_terminal: Tensor

    def __init__(
        self,
        Q: Tensor,
        R: Tensor,
        N: Tensor | None = None,
        q: Tensor | None = None,
        r: Tensor | None = None,
        Q_terminal: Tensor | None = None,
        goal: Tensor | Sequence[float] | None = None,
    ):
        Q, R = torch.as_tensor(Q), torch.as_tensor(R)
        n, m = Q.shape[-1], R.shape[-1]
        super().__init__(Q.new_zeros(n) if goal is None else goal)
        values = {
            "Q": (Q, (n, n)),
            "R": (R, (m, m)),
            "N": (Q.new_zeros(n, m) if N is None else torch.as_tensor(N), (n, m)),
            "q": (Q.new_zeros(n) if q is None else torch.as_tensor(q), (n,)),
            "r": (R.new_zeros(m) if r is None else torch.as_tensor(r), (m,)),
            "Q_terminal": (Q.new_zeros(n, n) if Q_terminal is None else torch.as_tensor(Q_terminal), (n, n)),
            "goal": (self.goal, (n,)),
        }
        for name, (value, shape) in values.items():
            if value.shape[-len(shape) :] != shape or (name != "goal" and value.ndim > len(shape) + 1):
                raise ValueError(f"{name} must have shape {shape}, or one such per step, got {tuple(value.shape)}")
            if name in ("Q", "R", "Q_terminal") and not torch.allclose(value, value.mT):
                raise ValueError(f"{name} must be symmetric; use 0.5 * ({name} + {name}.mT)")
            self.register_buffer(name, value, persistent=True)

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """The quadratic form at step t."""
        Q, R, N, q, r = self._coefficients(x, t)
        e = self.error(x, t)
        state = (e * (0.5 * _apply(Q, e) + _apply(N, u) + q)).sum(-1)
        return state + (u * (0.5 * _apply(R, u) + r)).sum(-1)

    def terminal(self, x: Tensor) -> Tensor:
        """The quadratic form of the last state."""
        e = self.terminal_error(x)
        return 0.5 * (e * _apply(self.Q_terminal.to(x), e)).sum(-1)

    def expand(self, x: Tensor, u: Tensor, t: int | Tensor) -> StageExpansion:
        """The exact expansion, in closed form."""
        Q, R, N, q, r = self._coefficients(x, t)
        e = self.error(x, t)
        n, m, batch = x.shape[-1], u.shape[-1], x.shape[:-1]
        return StageExpansion(
            value=self.stage(x, u, t),
            x=_apply(Q, e) + _apply(N, u) + q,
            u=_apply(N.mT, e) + _apply(R, u) + r,
            xx=Q.expand(*batch, n, n),
            xu=N.expand(*batch, n, m),
            uu=R.expand(*batch, m, m),
        )

    def expand_terminal(self, x: Tensor) -> TerminalExpansion:
        """The exact expansion, in closed form."""
        Q = self.Q_terminal.to(x)
        gradient = _apply(Q, self.terminal_error(x))
        return TerminalExpansion(value=self.terminal(x), x=gradient, xx=Q.expand(*x.shape, x.shape[-1]))

    def _coefficients(self, x: Tensor, t: int | Tensor) -> tuple[Tensor, ...]:
        core = {"Q": 2, "R": 2, "N": 2, "q": 1, "r": 1}
        return tuple(_at_step(getattr(self, name), t, core_ndim=ndim).to(x) for name, ndim in core.items())


class _DistanceCost(_ReferenceCost):
    """Weighted distances of each state to a goal, angles measured on the circle, plus squared controls."""

    state_weights: Tensor
    control_weights: Tensor
    terminal_weights: Tensor

    def __init__(self, goal, state_weights, control_weights, terminal_weights, angles: Sequence[int]):
        super().__init__(goal)
        self.angles = tuple(angles)
        self.register_buffer("state_weights", _weights("state_weights", state_weights))
        self.register_buffer("control_weights", _weights("control_weights", control_weights))
        terminal = 0.0 if terminal_weights is None else terminal_weights
        self.register_buffer("terminal_weights", _weights("terminal_weights", terminal))

    @abc.abstractmethod
    def distance(self, squared: Tensor) -> Tensor:
        """The distance to charge, from the squared one."""

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Weighted distances plus weighted squared controls."""
        state = (self.state_weights.to(x) * self.distance(self._squared(self.error(x, t)))).sum(-1)
        return state + (self.control_weights.to(u) * u.square()).sum(-1)

    def terminal(self, x: Tensor) -> Tensor:
        """Weighted distances of the last state."""
        return (self.terminal_weights.to(x) * self.distance(self._squared(self.terminal_error(x)))).sum(-1)

    def _squared(self, error: Tensor) -> Tensor:
        if not self.angles:
            return error.square()
        is_angle = torch.zeros(error.shape[-1], dtype=torch.bool, device=error.device)
        is_angle[list(self.angles)] = True
        return torch.where(is_angle, 2.0 * (1.0 - torch.cos(error)), error.square())


class GoalCost(_DistanceCost):
    r"""Squared distance to a goal: :math:`\sum_i w_i d_i^2 + \sum_j v_j u_j^2`.

    For an angle, :math:`d^2 = 2 (1 - \cos e)`, which is the squared error for small errors and does not see full turns.

    Args:
        goal: ``(n,)``, ``(L, n)`` by step, or a number.
        state_weights: w, ``(n,)`` or a number.
        control_weights: v, ``(m,)`` or a number.
        terminal_weights: weights of the last state; zero by default.
        angles: indices of the states that are angles [rad].
    """

    def __init__(
        self,
        goal: Tensor | Sequence[float] | float = 0.0,
        state_weights: Tensor | Sequence[float] | float = 1.0,
        control_weights: Tensor | Sequence[float] | float = 0.0,
        terminal_weights: Tensor | Sequence[float] | float | None = None,
        *,
        angles: Sequence[int] = (),
    ):
        super().__init__(goal, state_weights, control_weights, terminal_weights, angles)

    def distance(self, squared: Tensor) -> Tensor:
        """The squared distance itself."""
        return squared


class SmoothAbsCost(_DistanceCost):
    r"""Smooth absolute distance to a goal: :math:`\sum_i w_i (\sqrt{d_i^2 + p^2} - p) + \sum_j v_j u_j^2`.

    Quadratic closer than p, linear beyond, so that far states do not drown near ones (Tassa et al. 2012). Angles as in
    :class:`GoalCost`.

    Args:
        goal: ``(n,)``, ``(L, n)`` by step, or a number.
        state_weights: w, ``(n,)`` or a number.
        control_weights: v, ``(m,)`` or a number.
        terminal_weights: weights of the last state; zero by default.
        smoothing: p, in the unit of the state.
        angles: indices of the states that are angles [rad].
    """

    def __init__(
        self,
        goal: Tensor | Sequence[float] | float = 0.0,
        state_weights: Tensor | Sequence[float] | float = 1.0,
        control_weights: Tensor | Sequence[float] | float = 0.0,
        terminal_weights: Tensor | Sequence[float] | float | None = None,
        *,
        smoothing: float = 0.1,
        angles: Sequence[int] = (),
    ):
        super().__init__(goal, state_weights, control_weights, terminal_weights, angles)
        if not smoothing > 0:
            raise ValueError(f"smoothing must be positive, got {smoothing}")
        self.smoothing = float(smoothing)

    def distance(self, squared: Tensor) -> Tensor:
        """The smooth absolute value."""
        return (squared + self.smoothing**2).sqrt() - self.smoothing


def _weights(name: str, value: Tensor | Sequence[float] | float) -> Tensor:
    weights = torch.as_tensor(value)
    weights = weights if weights.is_floating_point() else weights.double()
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError(f"{name} must be finite and not negative, got {weights.tolist()}")
    return weights


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _at_step(value: Tensor, t: int | Tensor, *, core_ndim: int) -> Tensor:
    """The row of a per-step value at step t, the ends held; the value itself if it has no step axis."""
    if value.ndim == core_ndim:
        return value
    axis = value.ndim - core_ndim - 1
    index = torch.as_tensor(t, device=value.device).clamp(0, value.shape[axis] - 1)
    if index.ndim == 0:
        return value.select(axis, int(index))
    if axis == 0:
        return value[index]
    if index.ndim > 1:
        raise ValueError(
            f"a reference with batch axes takes one step or a row of steps, got t of shape {tuple(index.shape)}"
        )
    return value.index_select(axis, index)


def _align(value: Tensor, batch_ndim: int, ndim: int) -> Tensor:
    """Values ``(*batch, ..., n)`` with singleton axes after their batch axes, to broadcast against an ndim-axis tensor."""
    missing = ndim - value.ndim
    if batch_ndim == 0 or missing <= 0:
        return value
    return value.reshape(*value.shape[:batch_ndim], *[1] * missing, *value.shape[batch_ndim:])
