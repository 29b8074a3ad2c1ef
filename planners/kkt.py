r"""The optimality conditions of a plan: what they leave over, Newton steps on them, and what they prove.

With the Lagrangian

.. math:: L = \sum_t \ell_t + \ell_T + \sum_t \lambda_{t+1}^\top (f_t \ominus x_{t+1}) + \sum_t y_t^\top c_t + y_T^\top c_T

a plan is optimal to first order if its gradient by the states vanishes (which the recursion of the costates makes sure of), that
by the controls vanishes or pushes against a limit, and the rows c are met with multipliers y of the right sign.

:func:`polished` takes primal-dual active-set Newton steps (semismooth Newton: Hintermüller, Ito and Kunisch 2002) with the exact
Hessian of the Lagrangian, each one solve of :class:`planners.lq_system.LQSystem`; they converge quadratically from what an
augmented Lagrangian or a first-order method leaves over, and hold constraints to the arithmetic.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from planners.batches import spread, where_rows
from planners.constraints.rows import Prices, Rows, StageRows, TerminalRows
from planners.control_set import expanded
from planners.expansion import (
    Expansion,
    control_gradient,
    control_scale,
    convex_hessians,
    cost_scale,
    costates,
    dynamics_curvature,
    expand_problem,
    stationarity,
)
from planners.lq_system import LQFactor, LQRight, LQSystem
from planners.problem import Problem
from planners.riccati import mv
from planners.solution import Solution

UNKNOWN_FEATURES = frozenset({"infinite horizon", "termination", "rate_limits", "control_values"})
"""Features of problems that the conditions do not know; not public, but learners that rest on the conditions ask it, too."""


@dataclass(frozen=True, eq=False)
class Point:
    """A plan with multipliers; the states are the rollout of the controls.

    Attributes:
        xs: ``(*batch, T+1, n)``. us: ``(*batch, T, m)``.
        y: multipliers of the stage rows ``(*batch, T, r)``. y_T: of the terminal rows ``(*batch, r_T)``.
    """

    xs: Tensor
    us: Tensor
    y: Tensor
    y_T: Tensor  # noqa: N815 (the symbols of the equations)


@dataclass(frozen=True, eq=False)
class Certificate:
    r"""What the optimality conditions say about a plan; everything is ``(*batch,)``.

    Attributes:
        stationarity: largest entry of u - clamp(u - gradient of the Lagrangian), relative to the terms that cancel in it.
        violation: largest violation of the dynamics or of a hard row, or error of complementarity of any row.
        residual: the larger of the two: the residual of the optimality conditions.
        margin: complementarity margin: the smallest, over limits and rows, of the larger of slack and multiplier, the latter
            relative to the cost's largest second derivative. Zero where a limit is weakly active, and the solution has a kink.
        curvature: smallest eigenvalue of a reduced control Hessian: positive at a strict local minimum. It is that of the exact
            Hessian of the Lagrangian, unless ``exact`` is false.
        exact: whether second derivatives were exact, of bool, for all of the batch.
        tolerance: residual below which the conditions count as met.
    """

    stationarity: Tensor
    violation: Tensor
    margin: Tensor
    curvature: Tensor
    exact: bool
    tolerance: float

    @property
    def residual(self) -> Tensor:
        """The residual of the optimality conditions."""
        return torch.maximum(self.stationarity, self.violation)

    @property
    def optimal(self) -> Tensor:
        """Whether the plan is a strict local minimum: residual below the tolerance, curvature positive."""
        return (self.residual <= self.tolerance) & (self.curvature > 0)

    @property
    def gradient_valid(self) -> Tensor:
        """Whether the solution is differentiable there: a strict local minimum at which no limit or row is weakly active."""
        return self.optimal & (self.margin > 1e2 * self.tolerance)

    def __str__(self) -> str:
        def largest(value: Tensor) -> str:
            return f"{float(value.max()):.2g}" if value.numel() else "none"

        smallest = f"{float(self.margin.min()):.2g}" if self.margin.numel() else "none"
        return (
            f"Certificate(optimal {int(self.optimal.sum())} of {self.optimal.numel()}, residual {largest(self.residual)}, "
            f"margin {smallest})"
        )

    __repr__ = __str__


class Conditions:
    """The optimality conditions of a problem from fixed initial states.

    Args:
        problem: the problem.
        xs: states ``(*batch, T+1, n)`` and us: controls ``(*batch, T, m)`` of a plan, for the shapes.
        t0: step of the first control.
        exact: whether Hessians have the curvature of dynamics and constraints, or are the Gauss-Newton models.
    """

    def __init__(self, problem: Problem, xs: Tensor, us: Tensor, t0: int, *, exact: bool):
        self.problem, self.t0, self.exact = problem, t0, exact
        self.bare = replace(problem, constraints=(), terminal_constraints=(), control_limits=None)
        self.stage, self.terminal = StageRows(problem, xs, us, t0), TerminalRows(problem, xs, us, t0)
        self.lower, self.upper = (expanded("control_limits", v, tuple(us.shape)) for v in problem.limits_like(us))

    def start(self, xs: Tensor, us: Tensor, multipliers: tuple[Tensor, Tensor] | None = None) -> Point:
        """A plan with the multipliers of stage and terminal rows; zero where they are not known."""
        if multipliers is not None:
            return Point(xs, us, *multipliers)
        y = us.new_zeros(*us.shape[:-1], self.stage.size)
        return Point(xs, us, y, us.new_zeros(*us.shape[:-2], self.terminal.size))

    def at(self, point: Point) -> "Linearized":
        """Everything of first order at a point."""
        bare = expand_problem(self.bare, point.xs, point.us, self.t0)
        value, value_T = self.stage.value(point.xs, point.us), self.terminal.value(point.xs, point.us)
        C, C_T = self.stage.jacobian(point.xs, point.us), self.terminal.jacobian(point.xs, point.us)
        expansion = replace(bare, g=bare.g + mv(C.mT, point.y), p_T=bare.p_T + mv(C_T.mT, point.y_T))
        return Linearized(self, point, expansion, costates(expansion), value, value_T, C, C_T)

    def hessians(self, at: "Linearized") -> tuple[Tensor, Tensor]:
        """The stage Hessians of the Lagrangian ``(*batch, T, k, k)`` and the terminal one, or their Gauss-Newton models."""
        point, e = at.point, at.expansion
        if not self.exact:
            return convex_hessians(self.bare, e, point.xs, point.us, self.t0)
        multipliers = (self.stage, point.y), (self.terminal, point.y_T)
        return lagrangian_hessians(self.bare, e, point.xs, point.us, at.costate, self.t0, *multipliers)


def lagrangian_hessians(
    problem: Problem,
    expansion: Expansion,
    xs: Tensor,
    us: Tensor,
    costate: Tensor,
    t0: int,
    stage: tuple[StageRows | None, Tensor | None],
    terminal: tuple[TerminalRows | None, Tensor | None],
) -> tuple[Tensor, Tensor]:
    """The cost's Hessians with the curvature of dynamics and constraints, ``(*batch, T, k, k)`` and ``(*batch, d, d)``.

    Args:
        problem: dynamics and costs.
        expansion: about the trajectory.
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.
        costate: ``(*batch, T+1, d)``.
        t0: step of the first control.
        stage: the rows of the stages and their multipliers ``(*batch, T, r)``, or None.
        terminal: the rows of the last state and their multipliers ``(*batch, r_T)``, or None.
    """
    H = expansion.H + dynamics_curvature(problem, expansion, xs, us, costate, t0)
    P_T = expansion.P_T
    (rows, y), (rows_T, y_T) = stage, terminal
    if rows is not None and y is not None and rows.size and not rows.is_affine:
        H = H + rows.curvature(xs, us, y)
    if rows_T is not None and y_T is not None and rows_T.size and not rows_T.is_affine:
        P_T = P_T + rows_T.curvature(xs, us, y_T)
    return H, P_T


@dataclass(frozen=True, eq=False)
class Linearized:
    """The conditions at a point.

    Attributes:
        conditions: whose.
        point: where.
        expansion: of dynamics and costs, gradients with the rows' multipliers.
        costate: ``(*batch, T+1, d)``.
        value: rows ``(*batch, T, r)``, value_T: ``(*batch, r_T)``. C: their Jacobians, C_T: of the terminal rows.
    """

    conditions: Conditions
    point: Point
    expansion: Expansion
    costate: Tensor
    value: Tensor
    value_T: Tensor  # noqa: N815
    C: Tensor
    C_T: Tensor

    @property
    def gradient(self) -> Tensor:
        """Of the Lagrangian by the controls, ``(*batch, T, m)``."""
        return control_gradient(self.expansion, self.costate)

    @property
    def scale(self) -> Tensor:
        """What multipliers are measured by, ``(*batch,)``; see :func:`planners.expansion.cost_scale`."""
        return cost_scale(self.expansion)

    def stationarity(self) -> Tensor:
        """Relative projected gradient, ``(*batch,)``."""
        c, own = self.conditions, self.expansion.g[..., self.costate.shape[-1] :]
        return stationarity(self.point.us, self.gradient, own, (c.lower, c.upper), control_scale(self.expansion))

    def violation(self) -> Tensor:
        """Of the dynamics, of hard rows, or of the complementarity of any, ``(*batch,)``."""
        sizes = [_largest(self.expansion.gap, 2)]
        for rows, value, y, core in self._groups():
            if rows.size:
                rho = spread(self.scale, core)
                y_hat, _ = rows.prices.multiplier(value, y, rho)
                sizes.append(_largest((y_hat - y) / rho, core))
        return torch.stack(sizes).amax(0)

    def residual(self) -> Tensor:
        """The larger of the two, ``(*batch,)``; infinite where it is not finite."""
        return torch.maximum(self.stationarity(), self.violation()).nan_to_num(nan=torch.inf, posinf=torch.inf)

    def margin(self) -> Tensor:
        """The complementarity margin, ``(*batch,)``; infinite where nothing can be active."""
        c, us, gradient = self.conditions, self.point.us, self.gradient
        gap = torch.minimum(us - c.lower, c.upper - us)
        pinned = c.lower == c.upper
        push = gradient.abs() / spread(self.scale, 2)
        sizes = [torch.where(pinned, torch.inf, torch.maximum(gap, push)).amin((-2, -1))]
        for rows, value, y, core in self._groups():
            if rows.size:
                margin = _row_margin(rows.prices, value, y, spread(self.scale, core))
                sizes.append(margin.amin(tuple(range(-core, 0))))
        return torch.stack(sizes).amin(0)

    def _groups(self) -> list[tuple[Rows, Tensor, Tensor, int]]:
        c = self.conditions
        return [(c.stage, self.value, self.point.y, 2), (c.terminal, self.value_T, self.point.y_T, 1)]

    def with_settled_rows(self) -> tuple["Linearized", "Settled", "Settled"]:
        """The multipliers of rows that are not part of the next linear system set to what they are; and what is part of it."""
        c = self.conditions
        stage = settled(c.stage.prices, self.value, self.point.y, spread(self.scale, 2))
        terminal = settled(c.terminal.prices, self.value_T, self.point.y_T, spread(self.scale, 1))
        point = replace(self.point, y=stage.y, y_T=terminal.y)
        e = self.expansion
        g = e.g + mv(self.C.mT, stage.y - self.point.y)
        p_T = e.p_T + mv(self.C_T.mT, terminal.y - self.point.y_T)
        expansion = replace(e, g=g, p_T=p_T)
        return replace(self, point=point, expansion=expansion, costate=costates(expansion)), stage, terminal

    def free(self) -> Tensor:
        """Controls that no limit pins, ``(*batch, T, m)`` of bool: by the sign of the multiplier where one is at its limit."""
        c, us, gradient = self.conditions, self.point.us, self.gradient
        return ~((us - gradient <= c.lower) | (us - gradient >= c.upper) | (c.lower == c.upper))

    def system(self, stage: "Settled", terminal: "Settled", free: Tensor) -> LQSystem:
        """The linear system of a Newton step."""
        H, H_T = self.conditions.hessians(self)
        return LQSystem(
            F=self.expansion.F,
            H=H,
            H_T=H_T,
            free=free,
            C=self.C,
            active=stage.active,
            compliance=stage.compliance,
            C_T=self.C_T,
            active_T=terminal.active,
            compliance_T=terminal.compliance,
        )


@dataclass(frozen=True, eq=False)
class Settled:
    """The rows of a Newton step.

    Attributes:
        y: multipliers, those of rows outside of the system final.
        active: rows of the system, of bool.
        compliance: of those rows; zero for what must hold.
        left: what the linearized row should become zero from.
    """

    y: Tensor
    active: Tensor
    compliance: Tensor
    left: Tensor


def polished(
    conditions: Conditions, point: Point, *, tolerance: float, max_iterations: int = 15
) -> tuple[Point, Tensor]:
    """Newton steps on the optimality conditions from a point.

    Args:
        conditions: what to solve.
        point: where to start.
        tolerance: residual to reach.
        max_iterations: at most.

    Returns:
        The point of the smallest residual that was seen, per batch element, and that residual ``(*batch,)``.
    """
    best, least = point, torch.full_like(point.us[..., 0, 0], torch.inf)
    active = torch.ones_like(least, dtype=torch.bool)
    for iteration in range(max_iterations + 1):
        at = conditions.at(point)
        residual = at.residual()
        better = active & (residual < least)
        best, least = where_rows(better, point, best), torch.where(better, residual, least)
        active = better & (residual > tolerance)
        if iteration == max_iterations or not bool(active.any()):
            break
        point = where_rows(active, _newton_step(at), point)
    return best, least


def certified(conditions: Conditions, point: Point, *, tolerance: float) -> tuple[Certificate, LQFactor, Linearized]:
    """What the conditions say about a point, with the factorization at it, for derivatives of the solution."""
    at, stage, terminal = conditions.at(point).with_settled_rows()
    free = at.free()
    factor = at.system(stage, terminal, free).factorized()
    certificate = Certificate(
        stationarity=at.stationarity(),
        violation=at.violation(),
        margin=at.margin(),
        curvature=factor.curvature(),
        exact=conditions.exact,
        tolerance=tolerance,
    )
    return certificate, factor, at


@torch.no_grad()
def certify(solution: Solution, *, tolerance: float = 1e-6) -> Certificate:
    """What the optimality conditions say about a plan, whichever planner found it.

    Args:
        solution: of a problem with a finite horizon; multipliers that its planner does not know count as zero.
        tolerance: residual below which the conditions count as met; not below what the arithmetic resolves.

    Raises:
        ValueError: the problem has an infinite horizon, termination, rate limits or discrete controls, which the conditions do
            not know.
    """
    problem, us = solution.problem, solution.us
    unknown = problem.features() & UNKNOWN_FEATURES
    if unknown:
        raise ValueError(f"the optimality conditions do not know {', '.join(sorted(unknown))}, which the problem has")
    exact = problem.dynamics.derivatives == "autograd"
    conditions = Conditions(problem, solution.xs, us, solution.t0, exact=exact)
    point = conditions.start(solution.xs, us, solution.multipliers)
    return certified(conditions, point, tolerance=max(tolerance, 1e3 * problem.precision(us)))[0]


def _newton_step(at: Linearized) -> Point:
    """One step: the linear system's solution, rolled out with its gains so that the states stay those of the controls."""
    c = at.conditions
    at, stage, terminal = at.with_settled_rows()
    free = at.free()
    lower_hit = at.point.us - at.gradient <= c.lower
    us = torch.where(free, at.point.us, torch.where(lower_hit, c.lower, c.upper))
    pin = us - at.point.us
    system = at.system(stage, terminal, free)
    # a control that moves to its limit does so at once; what that does to the states is part of the right side
    d = at.costate.shape[-1]
    moved = torch.cat([pin.new_zeros(*pin.shape[:-1], d), pin], dim=-1)
    q = torch.cat([torch.zeros_like(at.expansion.g[..., :d]), at.gradient], dim=-1) + mv(system.H, moved)
    factor = system.factorized()
    right = LQRight(
        q=q,
        q_T=torch.zeros_like(at.expansion.p_T),
        b=mv(system.F, moved),
        h=stage.left + mv(system.C, moved),
        h_T=terminal.left,
    )
    s = factor.solve(right)
    xs, us = _rolled_out(at, s.dx, s.du + pin, factor.K)
    return Point(xs, us, at.point.y + s.y, at.point.y_T + s.y_T)


def _rolled_out(at: Linearized, dx: Tensor, du: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """The controls us + du + K (x - (xs + dx)) and their states."""
    c, dynamics = at.conditions, at.conditions.problem.dynamics
    x, xs, us = at.point.xs[..., 0, :], [at.point.xs[..., 0, :]], []
    for t in range(du.shape[-2]):
        error = dynamics.difference(x, at.point.xs[..., t, :]) - dx[..., t, :]
        u = at.point.us[..., t, :] + du[..., t, :] + mv(K[..., t, :, :], error)
        u = torch.minimum(torch.maximum(u, c.lower[..., t, :]), c.upper[..., t, :])
        x = dynamics(x, u, c.t0 + t)
        us.append(u)
        xs.append(x)
    return torch.stack(xs, dim=-2), torch.stack(us, dim=-2)


def settled(prices: Prices, value: Tensor, y: Tensor, rho: Tensor) -> Settled:
    """Which rows hold as equalities, give way at their price, or play no part."""
    raw = y + rho * value
    size = torch.where(prices.equality, raw.abs(), raw)
    sign = torch.where(prices.equality, raw.sign(), 1.0)
    saturated = prices.counts & prices.gives_way(size)
    held = prices.counts & ~saturated & (prices.equality | (size > 0))
    gives_way = saturated & (prices.quadratic > 0)
    w = torch.where(prices.quadratic > 0, prices.quadratic, 1.0)
    limit = sign * torch.where(saturated, prices.linear, 0.0)
    fixed = torch.where(held | gives_way, y, torch.where(saturated, limit, 0.0))
    compliance = torch.where(gives_way, 1.0 / w, 0.0).expand_as(value)
    left = torch.where(gives_way, value - (y - limit) / w, value)
    return Settled(fixed, held | gives_way, compliance, left)


def _row_margin(prices: Prices, value: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """By how much a row is from changing its kind: active, inactive, at its price; infinite for rows that cannot."""
    inequality = torch.maximum(-value, y.abs() / scale)
    inequality = torch.where(prices.equality, torch.inf, inequality)
    at_price = torch.maximum((prices.linear - y.abs()).abs() / scale, value.abs())
    smooth = prices.linear.isinf() | (prices.equality & (prices.linear == 0))
    margin = torch.minimum(inequality, torch.where(smooth, torch.inf, at_price))
    return torch.where(prices.counts, margin, torch.inf)


def _largest(value: Tensor, core: int) -> Tensor:
    return value.abs().amax(tuple(range(-core, 0)))
