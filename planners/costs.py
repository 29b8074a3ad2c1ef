r"""Costs: what a plan should make small.

.. math:: J = \sum_{t=0}^{T-1} \gamma^t \, \ell(x_t, u_t, x_{t+1}, t) + \gamma^T \ell_T(x_T)

Costs are written for any batch: states ``(*batch, n)``, controls ``(*batch, m)`` and steps that broadcast to batch give
``(*batch,)``. A planner evaluates a whole trajectory in one call, with time as the last batch axis.
"""

import abc
import copy
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
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

    def __add__(self, other: "Cost") -> "SumCost":
        if not isinstance(other, Cost):
            return NotImplemented
        return SumCost([self, other])

    def __rmul__(self, weight: float) -> "SumCost":
        if not isinstance(weight, numbers.Real):  # a tensor would lose its graph
            return NotImplemented
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

    has_reference = True
    goal: Tensor

    def __init__(self, goal: Tensor | Sequence[float] | float):
        super().__init__()
        self._register("goal", _tensor("goal", goal))
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
        return x - _fitted("goal", self._goal_at(t, x.ndim - 1), x)

    def terminal_error(self, x: Tensor) -> Tensor:
        """The error x - goal at the goal's last row, ``(*batch, n)``."""
        last = 0 if self.goal.ndim < 2 else self.start + self.goal.shape[-2] - 1
        return x - _fitted("goal", self._goal_at(last, x.ndim - 1), x)

    def _goal_at(self, t: int | Tensor, batch_ndim: int = 0) -> Tensor:
        """The goal's rows at steps t, the ends held, for states with ``batch_ndim`` axes before the last.

        Batch axes of the goal are the first axes of the states, steps broadcast to the last ones.
        """
        if self.goal.ndim < 2:
            return self.goal
        index = _held(torch.as_tensor(t, device=self.goal.device) - self.start, self.goal.shape[-2])
        batch = self.goal.shape[:-2]
        ndim = max(batch_ndim, len(batch) + index.ndim)
        worlds = [
            torch.arange(size, device=self.goal.device).reshape(-1, *[1] * (ndim - axis - 1))
            for axis, size in enumerate(batch)
        ]
        return self.goal[(*worlds, index)]


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

    Q, R, N, q and r may have one more, leading axis: one value for each step, the last one held. Values given as
    ``nn.Parameter`` are parameters of the cost.

    Raises:
        ValueError: shapes do not fit, a value is not finite, or a matrix is not symmetric.
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
        Q, R = _tensor("Q", Q), _tensor("R", R)
        n, m = (matrix.shape[-1] if matrix.ndim else 1 for matrix in (Q, R))
        super().__init__(Q.new_zeros(n) if goal is None else goal)
        values = {
            "Q": (Q, (n, n)),
            "R": (R, (m, m)),
            "N": (Q.new_zeros(n, m) if N is None else _tensor("N", N), (n, m)),
            "q": (Q.new_zeros(n) if q is None else _tensor("q", q), (n,)),
            "r": (R.new_zeros(m) if r is None else _tensor("r", r), (m,)),
        }
        for name, (value, shape) in values.items():
            if value.shape[-len(shape) :] != shape or value.ndim > len(shape) + 1 or value.shape[: -len(shape)] == (0,):
                raise ValueError(f"{name} must have shape {shape}, or one such per step, got {tuple(value.shape)}")
            self._register(name, value)
        self._register("Q_terminal", Q.new_zeros(n, n) if Q_terminal is None else _tensor("Q_terminal", Q_terminal))
        if self.Q_terminal.shape != (n, n):
            raise ValueError(f"Q_terminal must have shape {(n, n)}, got {tuple(self.Q_terminal.shape)}")
        if self.goal.shape[-1:] != (n,):
            raise ValueError(f"goal must have shape {(n,)}, or one such per step, got {tuple(self.goal.shape)}")
        for name in ("Q", "R", "Q_terminal"):
            value = getattr(self, name)
            if not torch.allclose(value, value.mT):
                raise ValueError(f"{name} must be symmetric; use 0.5 * ({name} + {name}.mT)")

    @property
    def time_varying(self) -> bool:  # type: ignore[override]
        """Whether the goal or a coefficient has more than one row."""
        steps = [len(v) for v, ndim in self._values() if v.ndim > ndim]
        return super().time_varying or any(n > 1 for n in steps)

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """The quadratic form at step t."""
        Q, R, N, q, r = self._coefficients(x, u, t)
        e = self.error(x, t)
        state = (e * (0.5 * _apply(Q, e) + _apply(N, u) + q)).sum(-1)
        return state + (u * (0.5 * _apply(R, u) + r)).sum(-1)

    def terminal(self, x: Tensor) -> Tensor:
        """The quadratic form of the last state."""
        e = self.terminal_error(x)
        return 0.5 * (e * _apply(self.Q_terminal.to(x), e)).sum(-1)

    def expand(self, x: Tensor, u: Tensor, t: int | Tensor) -> StageExpansion:
        """The exact expansion, in closed form."""
        Q, R, N, q, r = self._coefficients(x, u, t)
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

    def _values(self) -> list[tuple[Tensor, int]]:
        """Q, R, N, q and r, each with its number of axes when it is the same at all steps."""
        return [(self.Q, 2), (self.R, 2), (self.N, 2), (self.q, 1), (self.r, 1)]

    def _coefficients(self, x: Tensor, u: Tensor, t: int | Tensor) -> list[Tensor]:
        _fitted("Q", self.Q, x)
        _fitted("R", self.R, u)
        rows = [
            value if value.ndim == ndim else value[_held(torch.as_tensor(t, device=value.device), len(value))]
            for value, ndim in self._values()
        ]
        return [row.to(x) for row in rows]


class _DistanceCost(_ReferenceCost):
    """Weighted distances of each state to a goal, angles measured on the circle, plus squared controls."""

    state_weights: Tensor
    control_weights: Tensor
    terminal_weights: Tensor

    def __init__(self, goal, state_weights, control_weights, terminal_weights, angles: Sequence[int]):
        super().__init__(goal)
        self.angles = tuple(angles)
        self._register("state_weights", _weights("state_weights", state_weights))
        self._register("control_weights", _weights("control_weights", control_weights))
        terminal = 0.0 if terminal_weights is None else terminal_weights
        self._register("terminal_weights", _weights("terminal_weights", terminal))
        sizes = {v.shape[-1] for v in (self.goal, self.state_weights, self.terminal_weights) if v.ndim > 0}
        if len(sizes) > 1:
            raise ValueError(f"goal, state_weights and terminal_weights must be of one size n, got {sorted(sizes)}")
        if any(not 0 <= i < min(sizes, default=i + 1) for i in self.angles):
            raise ValueError(f"angles must be indices of states, got {self.angles}")

    @abc.abstractmethod
    def distance(self, squared: Tensor) -> Tensor:
        """The distance to charge, from the squared one."""

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Weighted distances plus weighted squared controls."""
        weights = _fitted("state_weights", self.state_weights, x)
        state = (weights * self.distance(self._squared(self.error(x, t)))).sum(-1)
        return state + (_fitted("control_weights", self.control_weights, u) * u.square()).sum(-1)

    def terminal(self, x: Tensor) -> Tensor:
        """Weighted distances of the last state."""
        weights = _fitted("terminal_weights", self.terminal_weights, x)
        return (weights * self.distance(self._squared(self.terminal_error(x)))).sum(-1)

    def _squared(self, error: Tensor) -> Tensor:
        if not self.angles:
            return error.square()
        is_angle = torch.zeros(error.shape[-1], dtype=torch.bool, device=error.device)
        is_angle[list(self.angles)] = True
        return torch.where(is_angle, 4.0 * torch.sin(0.5 * error).square(), error.square())


class GoalCost(_DistanceCost):
    r"""Squared distance to a goal: :math:`\sum_i w_i d_i^2 + \sum_j v_j u_j^2`.

    For an angle, :math:`d^2 = 2 (1 - \cos e) = 4 \sin^2(e/2)`, which is the squared error for small errors and does not see
    full turns.

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
        if not 0 < smoothing < float("inf"):
            raise ValueError(f"smoothing must be positive, got {smoothing}")
        self.smoothing = float(smoothing)

    def distance(self, squared: Tensor) -> Tensor:
        """The smooth absolute value."""
        # the difference of the root and p, without the cancellation near zero
        return squared / ((squared + self.smoothing**2).sqrt() + self.smoothing)


def _tensor(name: str, value: Tensor | Sequence[float] | float) -> Tensor:
    """A floating-point tensor: tensors as they are, numbers and sequences in double precision."""
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, dtype=torch.float64)
    elif not value.is_floating_point():
        value = value.double()
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite, got {value.tolist()}")
    return value


def _weights(name: str, value: Tensor | Sequence[float] | float) -> Tensor:
    weights = _tensor(name, value)
    if weights.ndim > 1 or not bool((weights >= 0).all()):
        raise ValueError(f"{name} must be a number or one for each dimension, not negative, got {weights.tolist()}")
    return weights


def _fitted(name: str, value: Tensor, z: Tensor) -> Tensor:
    """A value for states or controls z ``(*batch, k)``, cast like them; ValueError unless it is a number or has k columns."""
    if value.ndim > 0 and value.shape[-1] != z.shape[-1]:  # z of one column would broadcast into a wrong result
        raise ValueError(f"{name} is for vectors of size {value.shape[-1]}, the problem's have size {z.shape[-1]}")
    return value.to(z)


def _held(steps: Tensor, length: int) -> Tensor:
    """Rows of steps in a sequence of that length, whose ends are held."""
    return steps.clamp(0, length - 1)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
