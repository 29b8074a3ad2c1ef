r"""All rows of a problem's constraints as one vector, with the multipliers and penalties of the augmented Lagrangian.

For a row with value g, multiplier y and penalty rho the augmented Lagrangian has (Powell, Hestenes, Rockafellar)

.. math:: \psi(g; y, \rho) = \max_{\hat y} \; \hat y g - \varphi^*(\hat y) - \frac{(\hat y - y)^2}{2 \rho}

with the conjugate of what a violation costs: for a hard inequality zero on :math:`\hat y \ge 0`, for a hard equality zero
everywhere, for a soft one with :math:`\varphi(s) = v s + w s^2 / 2` it is :math:`(|\hat y| - v)_+^2 / (2 w)`. The maximizer
:math:`\hat y` is the slope of psi and the next multiplier. A soft row is so treated as sharply as a hard one: where its
multiplier stays below v it holds exactly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dynamics.derivatives import jacobian, weighted_hessian
from planners.constraints.base import Constraint
from planners.problem import Problem, check_rows


@dataclass(frozen=True, eq=False)
class Prices:
    """What each row costs, in the shape of the rows without the batch, ``(T, r)`` or ``(r,)``.

    Attributes:
        equality: of bool.
        counts: of bool; rows of the state alone do not count at the first step.
        linear: v, infinite for a hard row; discounted.
        quadratic: w, zero for a hard row; discounted.
    """

    equality: Tensor
    counts: Tensor
    linear: Tensor
    quadratic: Tensor

    @property
    def hard(self) -> Tensor:
        """Rows that must hold."""
        return self.linear.isinf() & self.counts

    def gives_way(self, size: Tensor) -> Tensor:
        """Whether rows whose multiplier would be of that size do not hold at their price, of bool."""
        return (size > self.linear) | (self.equality & (self.linear == 0))

    def multiplier(self, value: Tensor, y: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        """The maximizer above and its derivative by the value: ``(*batch, ..., r)`` each."""
        raw = y + rho * value
        sign = torch.where(self.equality, raw.sign(), 1.0)
        size = torch.where(self.equality, raw.abs(), raw)
        v, w = torch.where(self.linear.isinf(), 0.0, self.linear), self.quadratic
        saturated = self.gives_way(size)
        softened = (rho * v + w * size) / (rho + w)
        multiplier = torch.where(saturated, sign * softened, torch.where(size > 0, raw, 0.0))
        slope = torch.where(saturated, rho * w / (rho + w), torch.where(size > 0, rho.expand_as(size), 0.0))
        slope = torch.where(self.equality & ~saturated, rho.expand_as(size), slope)
        return torch.where(self.counts, multiplier, 0.0), torch.where(self.counts, slope, 0.0)

    def merit(self, value: Tensor, y: Tensor, rho: Tensor) -> Tensor:
        """Psi, summed over the rows of the last axis."""
        multiplier, _ = self.multiplier(value, y, rho)
        above = torch.relu(multiplier.abs() - self.linear)
        w = torch.where(self.quadratic > 0, self.quadratic, 1.0)  # without a quadratic part nothing is above
        conjugate = 0.5 * above.square() / w
        terms = multiplier * value - conjugate - 0.5 * (multiplier - y).square() / rho
        return torch.where(self.counts, terms, 0.0).sum(-1)


class StageRows:
    """The rows of all stage constraints, ``(*batch, T, r)``, as functions of (x, u, t).

    Args:
        problem: whose constraints.
        xs: states ``(*batch, T+1, n)`` and us: controls ``(*batch, T, m)`` of one trajectory, from which sizes are known.
        t0: step of the first control.
    """

    def __init__(self, problem: Problem, xs: Tensor, us: Tensor, t0: int):
        self.constraints, self.dynamics = tuple(problem.constraints), problem.dynamics
        self.steps = t0 + torch.arange(us.shape[-2], device=us.device)
        values = [
            check_rows(c, c.value(xs[..., :-1, :], us, self.steps), tuple(us.shape[:-1])) for c in self.constraints
        ]
        step = torch.arange(us.shape[-2], device=us.device).unsqueeze(-1)
        self.prices = _prices(self.constraints, values, problem.discount ** step.to(us), first=step == 0)
        self.size = self.prices.counts.shape[-1]
        self.is_affine = all(c.is_affine for c in self.constraints)

    def value(self, xs: Tensor, us: Tensor) -> Tensor:
        """Rows along trajectories ``(*batch, T+1, n)`` under ``(*batch, T, m)``: ``(*batch, T, r)``."""
        return _stacked(self.constraints, xs[..., :-1, :], us, self.steps, _after_first(xs))

    def jacobian(self, xs: Tensor, us: Tensor) -> Tensor:
        """Derivative of the rows by (dx, du), ``(*batch, T, r, d + m)``."""
        f, z = self._displaced(xs, us)
        return jacobian(f, z, self.size) if self.size else z.new_zeros(*z.shape[:-1], 0, z.shape[-1])

    def curvature(self, xs: Tensor, us: Tensor, multipliers: Tensor) -> Tensor:
        """Hessian of the rows weighted by multipliers ``(*batch, T, r)``: ``(*batch, T, d + m, d + m)``."""
        f, z = self._displaced(xs, us)
        return weighted_hessian(f, z, multipliers)

    def _displaced(self, xs: Tensor, us: Tensor):
        x, x_of_state = xs[..., :-1, :].unsqueeze(-2), _after_first(xs).unsqueeze(-2)
        u, rows, d = us.unsqueeze(-2), self.steps.unsqueeze(-1), self.dynamics.tangent_dim

        def f(z: Tensor) -> Tensor:
            dx, du = z[..., :d], z[..., d:]
            moved = self.dynamics.retract(x, dx), u + du, rows, self.dynamics.retract(x_of_state, dx)
            return _stacked(self.constraints, *moved)

        return f, us.new_zeros(*us.shape[:-1], d + us.shape[-1])


class TerminalRows:
    """The rows of all terminal constraints, ``(*batch, r)``, as functions of the last state; see :class:`StageRows`."""

    def __init__(self, problem: Problem, xs: Tensor, us: Tensor, t0: int):
        self.constraints, self.dynamics = tuple(problem.terminal_constraints), problem.dynamics
        x = xs[..., -1, :]
        values = [check_rows(c, c.value(x, None, None), tuple(x.shape[:-1])) for c in self.constraints]
        weight = torch.as_tensor(problem.discount ** us.shape[-2], dtype=us.dtype, device=us.device)
        self.prices = _prices(self.constraints, values, weight, first=torch.zeros_like(weight, dtype=torch.bool))
        self.size = self.prices.counts.shape[-1]
        self.is_affine = all(c.is_affine for c in self.constraints)

    def value(self, xs: Tensor, us: Tensor) -> Tensor:
        """Rows at the last of the states ``(*batch, T+1, n)``: ``(*batch, r)``."""
        return _stacked(self.constraints, xs[..., -1, :], None, None)

    def jacobian(self, xs: Tensor, us: Tensor) -> Tensor:
        """Derivative of the rows by dx, ``(*batch, r, d)``."""
        f, z = self._displaced(xs)
        return jacobian(f, z, self.size) if self.size else z.new_zeros(*z.shape[:-1], 0, z.shape[-1])

    def curvature(self, xs: Tensor, us: Tensor, multipliers: Tensor) -> Tensor:
        """Hessian of the rows weighted by multipliers ``(*batch, r)``: ``(*batch, d, d)``."""
        f, z = self._displaced(xs)
        return weighted_hessian(f, z, multipliers)

    def _displaced(self, xs: Tensor):
        x = xs[..., -1, :].unsqueeze(-2)

        def f(dx: Tensor) -> Tensor:
            return _stacked(self.constraints, self.dynamics.retract(x, dx), None, None)

        return f, xs.new_zeros(*xs.shape[:-2], self.dynamics.tangent_dim)


Rows = StageRows | TerminalRows


def _after_first(xs: Tensor) -> Tensor:
    """The states of stage constraints of the state alone, ``(*batch, T, n)``: x_1 in the place of x_0, which does not count.

    There may be no derivative at x_0, and what is not a number would stay so times a multiplier of zero.
    """
    return torch.cat([xs[..., 1:2, :], xs[..., 1:-1, :]], dim=-2)


def _stacked(
    constraints: tuple[Constraint, ...], x: Tensor, u: Tensor | None, t: Tensor | None, x_of_state: Tensor | None = None
) -> Tensor:
    rows = []
    for constraint in constraints:
        own = x_of_state if constraint.of_state and x_of_state is not None else x
        rows.append(constraint.value(own, u, t).to(x))
    return torch.cat(rows, dim=-1) if rows else x.new_zeros(*x.shape[:-1], 0)


def _prices(constraints: tuple[Constraint, ...], values: list[Tensor], weight: Tensor, *, first: Tensor) -> Prices:
    """Prices of rows, times discounts ``(T, 1)`` or a number; ``first`` is true at the first step."""

    def by_row(of_constraint: list, dtype: torch.dtype) -> Tensor:
        rows = [value for value, v in zip(of_constraint, values, strict=True) for _ in range(v.shape[-1])]
        return torch.tensor(rows, dtype=dtype, device=weight.device)

    linear = by_row([float("inf") if c.soft is None else c.soft.linear for c in constraints], weight.dtype)
    quadratic = by_row([0.0 if c.soft is None else c.soft.quadratic for c in constraints], weight.dtype)
    of_state = by_row([c.of_state for c in constraints], torch.bool)
    equality = by_row([c.equality for c in constraints], torch.bool)
    return Prices(equality, ~(first & of_state), weight * linear, weight * quadratic)
