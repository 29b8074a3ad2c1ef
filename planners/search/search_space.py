r"""The states, controls and distances of a tree search.

The distance of two states is :math:`\sqrt{\sum_i w_i d_i^2}` with :math:`d = x_1 \ominus x_0`, angles measured on the circle.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dynamics import Dynamics
from planners.control_set import expanded
from planners.problem import Problem, check_rows


@dataclass(frozen=True, eq=False)
class TreeSpace:
    """What a tree search asks of a problem.

    Attributes:
        problem: its dynamics, constraints and allowed controls.
        goal: ``(n,)``.
        tolerance: how far each component of the tangent vector to the goal may be from zero ``(tangent_dim,)``.
        weights: w ``(*batch, tangent_dim)``.
        region: lower and upper bound of what is drawn, as tangent vectors at the goal ``(*batch, tangent_dim)``.
        limits: lower and upper control limits ``(*batch, T, m)``; T = 1 where they are the same at every step.
        t0: step of the first control.
    """

    problem: Problem
    goal: Tensor
    tolerance: Tensor
    weights: Tensor
    region: tuple[Tensor, Tensor]
    limits: tuple[Tensor, Tensor]
    t0: int

    @property
    def last(self) -> int:
        """The depth that no node may exceed: the horizon, or a number that is never reached."""
        return 2**62 if self.problem.horizon == math.inf else int(self.problem.horizon)

    def distance(self, x1: Tensor, x0: Tensor) -> Tensor:
        """Distances of states, whose batch axes broadcast; ``weights`` belong to the first batch axes."""
        d = displacement(self.problem.dynamics, x1, x0)
        w = self.weights.reshape(*self.weights.shape[:-1], *[1] * (d.ndim - self.weights.ndim), d.shape[-1])
        return (w * d.square()).sum(-1).sqrt()

    def at_goal(self, x: Tensor) -> Tensor:
        """Whether states ``(..., n)`` are within the tolerance of the goal and keep the terminal constraints."""
        at_goal = (displacement(self.problem.dynamics, x, self.goal).abs() <= self.tolerance).all(-1)
        return at_goal & self.may_end(x)

    def may_end(self, x: Tensor) -> Tensor:
        """Whether states ``(..., n)`` keep the terminal constraints."""
        keeps = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        for constraint in self.problem.terminal_constraints:
            if constraint.soft is None:
                value = constraint.value(x, None, None)
                keeps = keeps & (check_rows(constraint, value, tuple(keeps.shape)) <= 0).all(-1)
        return keeps

    def samples(self, count: int, goal_bias: float, generator: torch.Generator) -> Tensor:
        """Random states ``(*batch, count, n)``, each the goal with probability ``goal_bias``."""
        lower, upper = (bound.unsqueeze(-2) for bound in self.region)
        shape = (*lower.shape[:-2], count, lower.shape[-1])
        drawn = lower + (upper - lower) * torch.rand(shape, generator=generator, dtype=lower.dtype, device=lower.device)
        drawn = self.problem.dynamics.retract(self.goal.expand(*shape[:-1], -1), drawn)
        chosen = torch.rand((*shape[:-1], 1), generator=generator, dtype=lower.dtype, device=lower.device) < goal_bias
        return torch.where(chosen, self.goal, drawn)

    def including(self, states: Tensor, alive: Tensor) -> "TreeSpace":
        """The same space, its region extended to those states ``(*batch, N, n)`` that are alive ``(*batch, N)``."""
        d = displacement(self.problem.dynamics, states, self.goal).masked_fill(~alive.unsqueeze(-1), 0.0)
        lower, upper = self.region
        return replace(self, region=(torch.minimum(lower, d.amin(-2)), torch.maximum(upper, d.amax(-2))))

    def shares(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Random numbers in [0, 1], ``(*shape, m)``, which :meth:`controls` makes into controls."""
        like = self.limits[0]
        return torch.rand((*shape, like.shape[-1]), generator=generator, dtype=like.dtype, device=like.device)

    def controls(self, shares: Tensor, depth: Tensor) -> Tensor:
        """Allowed controls from numbers in [0, 1].

        Args:
            shares: ``(*batch, S, K, m)``, how far between the lower and the upper limit; with allowed values, which of them.
            depth: steps of the plan ``(*batch, S, H)``.

        Returns:
            ``(*batch, S, K, H, m)``.
        """
        values = self.problem.control_values
        if values is not None:
            chosen = (shares[..., 0] * len(values)).long().clamp(0, len(values) - 1)
            held = values.to(shares)[chosen].unsqueeze(-2)
            return held.expand(*held.shape[:-2], depth.shape[-1], -1)
        lower, upper = (self._limit_at(limit, depth).unsqueeze(-3) for limit in self.limits)
        return (lower + shares.unsqueeze(-2) * (upper - lower)).clamp(lower, upper)

    def resting(self, depth: Tensor) -> Tensor:
        """The allowed controls nearest to zero, ``(*depth.shape, m)``."""
        values = self.problem.control_values
        if values is not None:
            nearest = values[values.double().square().sum(-1).argmin()].to(self.goal)
            return nearest.expand(*depth.shape, -1)
        lower, upper = (self._limit_at(limit, depth) for limit in self.limits)
        return torch.zeros_like(lower).clamp(lower, upper).expand(*depth.shape, -1)

    def _limit_at(self, limit: Tensor, depth: Tensor) -> Tensor:
        """Rows of a limit ``(*batch, T, m)`` at steps ``(*batch, S, H)``; one row for all where there is one."""
        batch, (T, m) = limit.shape[:-2], limit.shape[-2:]
        if T == 1:
            return limit.reshape(*batch, *[1] * (depth.ndim - len(batch)), m).expand(*depth.shape, m)
        index = depth.clamp(0, T - 1).reshape(*batch, -1, 1).expand(*batch, -1, m)
        return limit.gather(-2, index).reshape(*depth.shape, m)

    def rollout(self, x: Tensor, us: Tensor, depth: Tensor) -> Tensor:
        """States after each step, ``(..., H, n)``, from states ``(..., n)`` at depths ``(...)`` that broadcast to them."""
        xs = []
        for k in range(us.shape[-2]):
            t = self.t0 + (depth + k).clamp_max(self.last - 1)
            x = self.problem.dynamics(x, us[..., k, :], t)
            xs.append(x)
        return torch.stack(xs, dim=-2)

    def free(self, x: Tensor, u: Tensor, x_next: Tensor, depth: Tensor) -> Tensor:
        """Whether steps ``(..., n)``, ``(..., m)`` to ``(..., n)`` at depths ``(...)`` are finite and keep all constraints.

        Those of the state alone are tested where a step ends, so that every state after the first keeps them.
        """
        free, t = x_next.isfinite().all(-1), self.t0 + depth.clamp_max(self.last - 1)
        for constraint in self.problem.constraints:
            if constraint.soft is None:
                value = constraint.value(x_next, None, None) if constraint.of_state else constraint.value(x, u, t)
                free = free & (check_rows(constraint, value, tuple(free.shape)) <= 0).all(-1)
        return free

    def violated(self, violations: dict[str, Tensor], like: Tensor) -> Tensor:
        """Whether a plan with these violations breaks a hard constraint beyond rounding, ``(*batch,)``."""
        hard = {constraint.name for constraint in self.problem.all_constraints if constraint.soft is None}
        violated = torch.zeros(like.shape[:-1], dtype=torch.bool, device=like.device)
        for name in hard & violations.keys():
            violated = violated | ~(violations[name] <= _rounding(like))
        return violated


def displacement(dynamics: Dynamics, x1: Tensor, x0: Tensor) -> Tensor:
    """The tangent vector from x0 to x1, ``(*batch, tangent_dim)``, the short way round for angles."""
    d = dynamics.difference(x1, x0)
    if not dynamics.angles or _on_manifold(dynamics):
        return d
    turn = d.new_zeros(d.shape[-1])
    turn[list(dynamics.angles)] = 1.0 / (2.0 * math.pi)
    return torch.addcmul(d, (d * turn).round_(), turn.sign(), value=-2.0 * math.pi)


def tree_space(problem: Problem, x0: Tensor, t0: int, planner: Any, goal: Tensor) -> TreeSpace:
    """The space of a solve from x0 ``(*batch, n)``, in its dtype."""
    goal = goal.to(x0)
    region = _region(problem.dynamics, planner.region, x0, goal)
    half = 0.5 * (region[1] - region[0])
    size = problem.dynamics.tangent_dim
    if planner.weights is None:
        widest = half.amax(-1, keepdim=True)
        widest = torch.where(widest > 0, widest, torch.ones_like(widest))
        weights = torch.where(half > 0, half, widest).square().reciprocal()
    else:
        weights = torch.as_tensor(planner.weights).to(x0).expand(*x0.shape[:-1], size)
    return TreeSpace(
        problem,
        goal,
        torch.as_tensor(planner.goal_tolerance).to(x0).expand(size),
        weights,
        region,
        _limits(problem, x0),
        t0,
    )


def _region(dynamics: Dynamics, region: Any, x0: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    if region is not None:
        center = 0.0 if _on_manifold(dynamics) else goal
        lower, upper = (
            (torch.as_tensor(bound).to(x0) - center).expand(*x0.shape[:-1], dynamics.tangent_dim) for bound in region
        )
        return lower, upper
    start = displacement(dynamics, x0, goal).nan_to_num(0.0, 0.0, 0.0)
    margin = start.abs().amax(-1, keepdim=True)
    margin = torch.where(margin > 0, margin, torch.ones_like(margin))
    lower, upper = start.clamp_max(0.0) - margin, start.clamp_min(0.0) + margin
    for i in () if _on_manifold(dynamics) else dynamics.angles:
        lower[..., i], upper[..., i] = -math.pi, math.pi
    return lower, upper


def _limits(problem: Problem, x0: Tensor) -> tuple[Tensor, Tensor]:
    batch, m = x0.shape[:-1], problem.dynamics.control_dim
    lower, upper = problem.limits_like(x0)
    if problem.horizon == math.inf:  # without an axis of steps
        lower, upper = (expanded("control_limits", limit, (*batch, m)).unsqueeze(-2) for limit in (lower, upper))
        return lower, upper
    T = int(problem.horizon)
    lower, upper = (expanded("control_limits", limit, (*batch, T, m)) for limit in (lower, upper))
    if bool((lower == lower[..., :1, :]).all() & (upper == upper[..., :1, :]).all()):
        return lower[..., :1, :], upper[..., :1, :]
    return lower, upper


def _rounding(x: Tensor) -> float:
    return 1e3 * torch.finfo(x.dtype).eps


def _on_manifold(dynamics: Dynamics) -> bool:
    return dynamics.tangent_dim != dynamics.state_dim
