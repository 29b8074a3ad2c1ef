"""Distances to a goal, with angles measured on the circle."""

import abc
from collections.abc import Sequence

import torch
from torch import Tensor

from planners.costs.reference import ReferenceCost, finite_tensor, fitted


class _DistanceCost(ReferenceCost):
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

    @abc.abstractmethod
    def slope(self, squared: Tensor) -> Tensor:
        """The derivative of the distance by the squared one."""

    def stage(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """Weighted distances plus weighted squared controls."""
        weights = fitted("state_weights", self.state_weights, x)
        state = (weights * self.distance(self._squared(self.error(x, t)))).sum(-1)
        return state + (fitted("control_weights", self.control_weights, u) * u.square()).sum(-1)

    def terminal(self, x: Tensor) -> Tensor:
        """Weighted distances of the last state."""
        weights = fitted("terminal_weights", self.terminal_weights, x)
        return (weights * self.distance(self._squared(self.terminal_error(x)))).sum(-1)

    def gauss_newton(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        r"""The Hessian of the squares with the weights that the distances give them now: it bounds the exact one from above.

        The squared distance of an angle is that of the points (sin e, cos e) and (0, 1), whose J'J is one.
        """
        weights = fitted("state_weights", self.state_weights, x)
        state = 2.0 * weights * self.slope(self._squared(self.error(x, t)))
        control = (2.0 * fitted("control_weights", self.control_weights, u)).expand_as(u)
        return torch.diag_embed(torch.cat([state, control], dim=-1))

    def gauss_newton_terminal(self, x: Tensor) -> Tensor:
        """The same for the last state."""
        weights = fitted("terminal_weights", self.terminal_weights, x)
        return torch.diag_embed(2.0 * weights * self.slope(self._squared(self.terminal_error(x))))

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

    def slope(self, squared: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(squared)


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

    def slope(self, squared: Tensor) -> Tensor:
        """Half the inverse of the root."""
        return 0.5 / (squared + self.smoothing**2).sqrt()


def _weights(name: str, value: Tensor | Sequence[float] | float) -> Tensor:
    weights = finite_tensor(name, value)
    if weights.ndim > 1 or not bool((weights >= 0).all()):
        raise ValueError(f"{name} must be a number or one for each dimension, not negative, got {weights.tolist()}")
    return weights
