r"""Affine constraints: :math:`C x + D u \le d`, limits of states, a goal for the last state."""

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from planners.constraints.base import Constraint, Slack

Values = Tensor | Sequence[float] | Sequence[Sequence[float]] | float


class _LinearConstraint(Constraint, abc.ABC):
    """Rows ``C x + D u - d``."""

    is_affine = True
    C: Tensor
    D: Tensor | None
    d: Tensor

    def __init__(
        self, C: Values, D: Values | None = None, d: Values = 0.0, *, name: str | None = None, soft: Slack | None = None
    ):
        super().__init__(name=name, soft=soft)
        _register(self, "C", C)
        _register(self, "d", d)
        if D is None:
            self.D = None
        else:
            _register(self, "D", D)
        if self.C.ndim != 2 or (self.D is not None and (self.D.ndim != 2 or len(self.D) != len(self.C))):
            came = f"{tuple(self.C.shape)} and {None if self.D is None else tuple(self.D.shape)}"
            raise ValueError(f"C must have shape (k, n) and D (k, m), got {came}")
        if self.d.shape not in ((), (len(self.C),)):
            raise ValueError(f"d must be a number or have shape ({len(self.C)},), got {tuple(self.d.shape)}")

    @property
    def of_state(self) -> bool:  # type: ignore[override]
        """Whether the rows depend on the state alone."""
        return self.D is None

    def value(self, x: Tensor, u: Tensor | None = None, t: int | Tensor | None = None) -> Tensor:
        """``C x + D u - d``, ``(*batch, k)``."""
        rows = _product(self.C, x, "C") - self.d.to(x)
        return rows if self.D is None or u is None else rows + _product(self.D, u, "D")


class LinearInequality(_LinearConstraint):
    r"""Rows :math:`C x + D u - d \le 0`.

    Args:
        C: ``(k, n)``.
        D: ``(k, m)``; without it the rows depend on the state alone.
        d: ``(k,)`` or a number; zero by default.
        name: what messages call it.
        soft: the price of violating it; None makes it hard.

    Raises:
        ValueError: shapes do not fit or a number is not finite.
    """

    equality = False  # type: ignore[override]


class LinearEquality(_LinearConstraint):
    r"""Rows :math:`C x + D u - d = 0`; arguments as of :class:`LinearInequality`."""

    equality = True  # type: ignore[override]


class StateLimits(Constraint):
    r"""Limits of states, :math:`\underline x \le x \le \overline x`.

    Args:
        lower: ``(n,)`` or a number; minus infinity where there is none.
        upper: ``(n,)`` or a number; infinity where there is none.
        states: indices of the states that are limited, whose limits are then ``(len(states),)``; all by default.
        name: what messages call it.
        soft: the price of violating it; None makes it hard.

    Raises:
        ValueError: a lower limit is above the upper one, or no limit is finite.
    """

    equality = False  # type: ignore[override]
    of_state = True
    is_affine = True
    lower: Tensor
    upper: Tensor

    def __init__(
        self,
        lower: Values = -float("inf"),
        upper: Values = float("inf"),
        *,
        states: Sequence[int] | None = None,
        name: str | None = None,
        soft: Slack | None = None,
    ):
        super().__init__(name=name, soft=soft)
        self.states = None if states is None else tuple(int(i) for i in states)
        _register(self, "lower", lower, finite=False)
        _register(self, "upper", upper, finite=False)
        if self.lower.ndim > 1 or self.upper.ndim > 1 or not bool((self.lower <= self.upper).all()):
            raise ValueError(
                f"state limits must be numbers or one for each state with lower <= upper, got {self.lower.tolist()} and "
                f"{self.upper.tolist()}"
            )
        self._rows = (self.lower > -float("inf"), self.upper < float("inf"))
        if not any(bool(rows.any()) for rows in self._rows):
            raise ValueError("state limits need at least one finite limit, got none")

    def value(self, x: Tensor, u: Tensor | None = None, t: int | Tensor | None = None) -> Tensor:
        """``x - upper`` and ``lower - x`` for each limit that is finite, ``(*batch, k)``."""
        limited = x if self.states is None else x[..., list(self.states)]
        for name, limit in (("lower", self.lower), ("upper", self.upper)):
            if limit.ndim and limit.shape[-1] != limited.shape[-1]:
                raise ValueError(f"{name} is for {limit.shape[-1]} states, {limited.shape[-1]} are limited")
        below, above = (rows.to(x.device).expand(limited.shape[-1]) for rows in self._rows)
        lower, upper = self.lower.to(x).expand(limited.shape[-1]), self.upper.to(x).expand(limited.shape[-1])
        return torch.cat([limited[..., above] - upper[above], lower[below] - limited[..., below]], dim=-1)


class TerminalState(Constraint):
    """States that have to be reached: ``x[states] == goal``, for the last state.

    Args:
        goal: ``(k,)`` or ``(*batch, k)``.
        states: indices of the states; all by default.
        name: what messages call it.
        soft: the price of missing it; None makes it hard.
    """

    equality = True  # type: ignore[override]
    of_state = True
    is_affine = True
    goal: Tensor

    def __init__(
        self, goal: Values, *, states: Sequence[int] | None = None, name: str | None = None, soft: Slack | None = None
    ):
        super().__init__(name=name, soft=soft)
        _register(self, "goal", goal)
        self.states = None if states is None else tuple(int(i) for i in states)

    def value(self, x: Tensor, u: Tensor | None = None, t: int | Tensor | None = None) -> Tensor:
        """``x - goal``, ``(*batch, k)``."""
        reached, goal = x if self.states is None else x[..., list(self.states)], self.goal.to(x)
        if goal.ndim and goal.shape[-1] != reached.shape[-1]:
            raise ValueError(f"goal is for {goal.shape[-1]} states, {reached.shape[-1]} have to reach it")
        if goal.ndim > 1:  # its batch axes are the first of the states, planners add theirs after them
            goal = goal.reshape(*goal.shape[:-1], *[1] * (reached.ndim - goal.ndim), goal.shape[-1])
        return reached - goal


def _register(module: nn.Module, name: str, value: Values, *, finite: bool = True) -> None:
    """Keep a value as what it is: a parameter that an optimizer finds, or a buffer."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    tensor = tensor if tensor.is_floating_point() else tensor.double()
    if bool(tensor.isnan().any()) or (finite and not bool(tensor.isfinite().all())):
        raise ValueError(f"{name} must be finite, got {tensor.tolist()}")
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor)


def _product(matrix: Tensor, vector: Tensor, name: str) -> Tensor:
    if matrix.shape[-1] != vector.shape[-1]:
        raise ValueError(f"{name} has {matrix.shape[-1]} columns, it multiplies vectors of size {vector.shape[-1]}")
    return vector @ matrix.to(vector).mT
