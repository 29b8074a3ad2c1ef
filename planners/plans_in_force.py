r"""What holds between two plans: the controls to give, their age, and the state that they lead to.

Of plans that were made from states measured at :math:`s_1 < s_2 < \dots`, each element of a batch follows its newest usable
one, read at the present time,

.. math:: u(t) = u_i(t) + K_i(t) \, (x(t) \ominus \bar x_i(t)),

with the gains of planners that have them. Of age :math:`a = t - s_i` beyond the limit :math:`\sigma` it fades to zero, by the
factor :math:`\max(0, \min(1, 2 - a / \sigma))`. Everything is clamped to the control limits.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from planners.problem import Problem
from planners.solution import Solution
from planners.splines import KnotGrid


@dataclass(frozen=True, eq=False)
class _Held:
    """A plan, when the state was measured that it is from [s], and the elements ``(*batch,)`` that follow it."""

    solution: Solution
    measured_at: float
    elements: Tensor


@dataclass(frozen=True, eq=False)
class Given:
    """The last control that a loop gave.

    Attributes:
        u: ``(*batch, m)``.
        at: when [s].
        period: time from control to control [s], 0 where it is not known.
    """

    u: Tensor
    at: float
    period: float

    def replaced_before(self, time: float) -> float:
        """When the loop gives the control that holds at a time [s]."""
        if not self.period:
            return time
        return self.at + math.floor((time - self.at) / self.period + 1e-6) * self.period


@dataclass(frozen=True, eq=False)
class PlansInForce:
    """The plans that a batch of loops follows; a value, replaced as a whole.

    Attributes:
        problem: limits and model.
        batch: the batch shape.
        staleness: age beyond which a plan fades [s].
        held: the plans, newest first, each with the elements that follow it.
    """

    problem: Problem
    batch: tuple[int, ...]
    staleness: float
    held: tuple[_Held, ...] = ()

    def with_plan(self, solution: Solution, measured_at: float) -> "PlansInForce":
        """A new plan for the elements for which it is usable; the others keep theirs."""
        usable = solution.usable
        older = [replace(held, elements=held.elements & ~usable) for held in self.held]
        newest = _Held(solution, measured_at, usable)
        return replace(self, held=tuple(held for held in (newest, *older) if bool(held.elements.any())))

    def age(self, now: float) -> Tensor:
        """Time since the states were measured that the plans are from [s], ``(*batch,)``; infinite without a plan."""
        age = torch.full(self.batch, math.inf, dtype=torch.float64)
        for held in self.held:
            age = age.masked_fill(held.elements.to(age.device), now - held.measured_at)
        return age

    @torch.no_grad()
    def control(self, now: float, like: Tensor, x: Tensor | None = None) -> Tensor:
        """Controls ``(*batch, m)`` at a time [s], always finite and within the limits; without a plan, zero, clamped.

        Args:
            now: the time [s].
            like: gives dtype and device.
            x: states at that time ``(*batch, n)``, for plans with gains.
        """
        u = like.new_zeros(*self.batch, self.problem.dynamics.control_dim)
        for held in self.held:
            u = torch.where(held.elements.unsqueeze(-1), _read(held.solution, now, x).to(u), u)
        age = self.age(now)
        if self.staleness < math.inf and not bool((age <= self.staleness).all()):
            u = u * (2.0 - age / self.staleness).clamp(0.0, 1.0).unsqueeze(-1).to(u)
        return self._allowed(torch.where(u.isfinite(), u, 0.0))

    @torch.no_grad()
    def expected_state(self, x: Tensor, start: float, end: float, given: Given | None = None) -> Tensor:
        """States ``(*batch, n)`` at the end [s] if they are x at the start [s] and these plans are followed.

        The model takes steps of its dt, each with the control of its middle; within the last one the state is on a straight
        line. Where no finite state comes out of it, x.

        Args:
            x: states at the start.
            start: a time [s].
            end: a later time [s].
            given: the last control, which holds until the loop comes back; None for a loop that never leaves.
        """
        dynamics = self.problem.dynamics
        before, after, position = x, x, 0.0
        for k in range(math.ceil((end - start) / dynamics.dt - 1e-9)):
            begin = start + k * dynamics.dt
            middle = 0.5 * (begin + min(begin + dynamics.dt, end))
            at = middle if given is None else given.replaced_before(middle)
            u = given.u.to(x) if given is not None and at <= given.at else self.control(at, x)
            before, after, position = (
                after,
                dynamics(after, u, step_at(begin, dynamics.dt)),
                (end - begin) / dynamics.dt,
            )
        expected = after if position >= 1.0 else dynamics.retract(before, position * dynamics.difference(after, before))
        return torch.where(expected.isfinite().all(-1, keepdim=True), expected, x)

    def _allowed(self, u: Tensor) -> Tensor:
        """Controls ``(*batch, m)`` within the limits of a plan's first step, or the nearest of the discrete ones."""
        values = self.problem.control_values
        lower, upper = (
            limit[..., 0, :] if limit.ndim > 1 else limit for limit in self.problem.limits_like(u.unsqueeze(-2))
        )
        u = u.clamp(lower, upper)
        if values is None:
            return u
        values = values.to(u)
        return values[(u.unsqueeze(-2) - values).square().sum(-1).argmin(-1)]


def step_at(time: float, dt: float) -> int:
    """The step of a model with steps of dt [s] that a time [s] belongs to."""
    return math.floor(time / dt + 1e-6)


def _read(solution: Solution, now: float, x: Tensor | None) -> Tensor:
    """A plan's controls ``(*batch, m)`` at a time [s], corrected by its gains where there is a state ``(*batch, n)``."""
    at = torch.tensor([now], dtype=torch.float64)
    u, K = solution.controls_at(at).squeeze(-2), solution.K
    if K is None or x is None:
        return u
    if K.ndim == solution.us.ndim:  # one gain for all times belongs to its own x and u
        u, expected = solution.us[..., 0, :], solution.xs[..., 0, :]
    else:
        steps = solution.us.shape[-2]
        k = int(KnotGrid(solution.time, solution.problem.dynamics.dt, steps).held(at))
        K, expected = K[..., k, :, :], _state_at(solution, now)
    corrected = u + (K @ solution.problem.dynamics.difference(x, expected).unsqueeze(-1)).squeeze(-1)
    return torch.where(corrected.isfinite().all(-1, keepdim=True), corrected, u)


def _state_at(solution: Solution, now: float) -> Tensor:
    """The state that a plan expects at a time [s], straight between steps, ``(*batch, n)``."""
    dynamics, steps = solution.problem.dynamics, solution.us.shape[-2]
    position = min(max((now - solution.time) / dynamics.dt, 0.0), float(steps))
    k = min(int(position), steps - 1)
    before, after = solution.xs[..., k, :], solution.xs[..., k + 1, :]
    return dynamics.retract(before, (position - k) * dynamics.difference(after, before))
