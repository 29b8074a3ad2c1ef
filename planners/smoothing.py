r"""Plans of a smoothed problem: logarithmic barriers in place of limits and inequalities.

.. math:: \min \; J - \tau \sum \log(-c_i) \quad \text{over the rows } c_i < 0 \text{ of limits and hard inequalities}

by primal-dual interior-point Newton steps (slack s, multiplier y, s y = tau; Wright 1997, chapter 5) that start at the plan of
the problem itself. The plan is a smooth function of the data where that of the problem has kinks; it is off by the order of tau.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from planners.batches import spread
from planners.constraints import Constraint
from planners.constraints.rows import Prices
from planners.kkt import Certificate, Conditions, Linearized, Point, Settled, settled
from planners.lq_system import LQFactor, LQRight, LQSolution, LQSystem
from planners.problem import Problem
from planners.riccati import mv

MAX_ITERATIONS = 60
TO_BOUNDARY = 0.9  # share of the way to a slack or multiplier of zero that a step may go
HALVINGS = 12


class ControlLimits(Constraint):
    """Control limits as rows: u - upper and lower - u, for limits ``(*batch, T, m)``.

    Minus one where there is none, and where the two are equal: no slack is left there, such a control is held instead.
    """

    equality = False  # type: ignore[override]
    is_affine = True

    def __init__(self, problem: Problem):
        super().__init__(name="control_limits")
        self.problem = problem

    def value(self, x: Tensor, u: Tensor | None, t: int | Tensor | None) -> Tensor:
        """The rows at all steps of a plan: controls ``(*batch, T, m)``, or ``(*batch, T, rows, m)`` with steps ``(T, 1)``."""
        if u is None or not isinstance(t, Tensor):
            raise TypeError("control limits are rows of controls at the steps of a plan")
        lower, upper = self.problem.limits_like(u)
        if t.ndim > 1:  # the axis of rows that derivatives add
            lower, upper = (limit.unsqueeze(-2) if limit.ndim > 1 else limit for limit in (lower, upper))
        held = lower == upper
        above = torch.where(upper.isinf() | held, -1.0, u - torch.where(upper.isinf(), 0.0, upper))
        below = torch.where(lower.isinf() | held, -1.0, torch.where(lower.isinf(), 0.0, lower) - u)
        return torch.cat([above, below], dim=-1)


def _held(problem: Problem, us: Tensor) -> tuple[Tensor, Tensor] | None:
    """The limits of controls that they hold in place, infinite for others; None where there are no such limits."""
    with torch.enable_grad():
        lower, upper = torch.broadcast_tensors(*problem.limits_like(us))
        held = lower == upper
        return (torch.where(held, lower, -torch.inf), torch.where(held, upper, torch.inf)) if bool(held.any()) else None


@dataclass(frozen=True, eq=False)
class Interior:
    """A point with the slacks of its inequality rows, ``(*batch, T, r)`` and ``(*batch, r_T)``; one in other rows."""

    point: Point
    s: Tensor
    s_T: Tensor  # noqa: N815 (the symbols of the equations)


def smoothed(
    problem: Problem, conditions: Conditions, point: Point, tau: float, *, tolerance: float
) -> tuple[Certificate, LQFactor, Linearized]:
    """The plan of the smoothed problem near a plan of the problem.

    Args:
        problem: the problem.
        conditions: its conditions.
        point: a plan that meets them.
        tau: weight of the barrier.
        tolerance: residual to reach.

    Returns:
        The certificate of the smoothed conditions, their factorization, and the conditions at the smoothed plan; limits are
        rows of it.
    """
    barrier = problem
    if problem.control_limits is not None:
        rows = (*problem.constraints, ControlLimits(problem))
        barrier = replace(problem, control_limits=_held(problem, point.us), constraints=rows)
    inside = Conditions(barrier, point.xs, point.us, conditions.t0, exact=conditions.exact)
    interior = _start(conditions, inside, point, tau)
    for _ in range(MAX_ITERATIONS):
        at = inside.at(interior.point)
        residual = _residual(at, interior, tau)
        if bool((residual <= 0.1 * tolerance).all()):
            break
        interior = _step(at, interior, tau)
    at = inside.at(interior.point)
    stage, terminal = _settled(at, interior, tau)
    factor = _system(at, stage, terminal).factorized()
    residual = _residual(at, interior, tau)
    certificate = Certificate(
        stationarity=at.stationarity(),
        violation=residual,
        margin=torch.full_like(residual, tau**0.5),
        curvature=factor.curvature(),
        exact=inside.exact,
        tolerance=tolerance,
    )
    return certificate, factor, at


def _start(conditions: Conditions, inside: Conditions, point: Point, tau: float) -> Interior:
    """Slacks and multipliers that multiply to tau, between what they are at the plan: those of a problem of unit curvature."""
    at = conditions.at(point)
    us, y = point.us, point.y
    if inside.problem is not conditions.problem:
        gradient = at.gradient
        width = conditions.upper - conditions.lower
        room = 0.45 * torch.where(width.isinf(), 1e6, width)
        lower_s, upper_s = us - conditions.lower, conditions.upper - us
        near_lower = torch.minimum(_middle(lower_s, torch.relu(gradient), tau), room)
        near_upper = torch.minimum(_middle(upper_s, torch.relu(-gradient), tau), room)
        us = torch.where(lower_s.isinf(), us, torch.maximum(us, conditions.lower + near_lower))
        us = torch.where(upper_s.isinf(), us, torch.minimum(us, conditions.upper - near_upper))
        y = torch.cat([y, torch.relu(-gradient), torch.relu(gradient)], dim=-1)
    xs = inside.problem.dynamics.rollout(point.xs[..., 0, :], us, inside.t0)
    found = Point(xs, us, y, point.y_T)
    stage, terminal = inside.stage.value(xs, us), inside.terminal.value(xs, us)
    s, y = _complementary(inside.stage.prices, stage, y, tau)
    s_T, y_T = _complementary(inside.terminal.prices, terminal, point.y_T, tau)
    return Interior(replace(found, y=y, y_T=y_T), s, s_T)


def _middle(slack: Tensor, multiplier: Tensor, tau: float) -> Tensor:
    difference = torch.where(slack.isinf(), 0.0, slack) - multiplier
    return 0.5 * (difference + (difference.square() + 4 * tau).sqrt())


def _complementary(prices: Prices, value: Tensor, y: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    rows = _barrier_rows(prices)
    s = _middle(-value, y, tau)
    return torch.where(rows, s, 1.0), torch.where(rows, tau / s, y)


def _barrier_rows(prices: Prices) -> Tensor:
    """Rows that get a barrier: hard inequalities."""
    return prices.hard & ~prices.equality


def _groups(at: Linearized, interior: Interior):
    c = at.conditions
    return (
        (c.stage.prices, at.value, interior.point.y, interior.s, 2),
        (c.terminal.prices, at.value_T, interior.point.y_T, interior.s_T, 1),
    )


def _settled(at: Linearized, interior: Interior, tau: float) -> list[Settled]:
    """All rows: those with a barrier give way by s / y, the others are as without smoothing."""
    found = []
    for prices, value, y, s, core in _groups(at, interior):
        plain, rows = settled(prices, value, y, spread(at.scale, core)), _barrier_rows(prices)
        found.append(
            Settled(
                y=torch.where(rows, y, plain.y),
                active=rows | plain.active,
                compliance=torch.where(rows, s / torch.where(rows, y, 1.0), plain.compliance),
                left=torch.where(rows, value + tau / torch.where(rows, y, 1.0), plain.left),
            )
        )
    return found


def _system(at: Linearized, stage: Settled, terminal: Settled) -> LQSystem:
    return at.system(stage, terminal, at.free())


def _residual(at: Linearized, interior: Interior, tau: float) -> Tensor:
    """The largest error of stationarity, of the rows, and of s y = tau relative to tau's root, ``(*batch,)``."""
    sizes = [at.stationarity()]
    for prices, value, y, s, core in _groups(at, interior):
        if value.shape[-1]:
            rows = _barrier_rows(prices)
            rho = spread(at.scale, core)
            other = (prices.multiplier(value, y, rho)[0] - y).abs() / rho
            error = torch.maximum((value + s).abs(), (s * y - tau).abs() / tau**0.5)
            sizes.append(torch.where(rows, error, other).amax(tuple(range(-core, 0))))
    return torch.stack(sizes).amax(0).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _step(at: Linearized, interior: Interior, tau: float) -> Interior:
    """A primal-dual Newton step, as long as slacks and multipliers stay positive."""
    stage, terminal = _settled(at, interior, tau)
    at = replace(at, point=replace(at.point, y=stage.y, y_T=terminal.y))
    system = _system(at, stage, terminal)
    d = at.costate.shape[-1]
    zero = torch.zeros_like(at.expansion.g[..., :d])
    right = LQRight(
        q=torch.cat([zero, at.gradient], dim=-1),
        q_T=torch.zeros_like(at.expansion.p_T),
        b=torch.zeros_like(at.expansion.gap),
        h=stage.left,
        h_T=terminal.left,
    )
    step = system.factorized().solve(right)
    z = torch.cat([step.dx[..., :-1, :], step.du], dim=-1)
    ds = -(mv(at.C, z) + at.value + interior.s)
    ds_T = -(mv(at.C_T, step.dx[..., -1, :]) + at.value_T + interior.s_T)
    return _moved(at, interior, step, ds, ds_T)


def _moved(at: Linearized, interior: Interior, step: LQSolution, ds: Tensor, ds_T: Tensor) -> Interior:
    """The longest share of a step that keeps slacks and multipliers positive and the states finite."""
    c, point = at.conditions, at.point
    rows, rows_T = _barrier_rows(c.stage.prices), _barrier_rows(c.terminal.prices)
    pairs = [(interior.s, ds, rows, 2), (point.y, step.y, rows, 2)]
    pairs += [(interior.s_T, ds_T, rows_T, 1), (point.y_T, step.y_T, rows_T, 1)]
    alpha = point.us.new_ones(point.us.shape[:-2])
    for value, change, barrier, core in pairs:
        if value.shape[-1]:
            room = torch.where(barrier & (change < 0), -TO_BOUNDARY * value / change.clamp_max(-1e-300), torch.inf)
            alpha = torch.minimum(alpha, room.amin(tuple(range(-core, 0))))
    for _ in range(HALVINGS):
        us = point.us + alpha[..., None, None] * step.du
        xs = c.problem.dynamics.rollout(point.xs[..., 0, :], us, c.t0)
        finite = xs.isfinite().all(-1).all(-1)
        if bool(finite.all()):
            break
        alpha = torch.where(finite, alpha, 0.5 * alpha)
    a2, a1 = alpha[..., None, None], alpha[..., None]
    moved = Point(xs, us, point.y + a2 * step.y, point.y_T + a1 * step.y_T)
    return Interior(
        moved, torch.where(rows, interior.s + a2 * ds, 1.0), torch.where(rows_T, interior.s_T + a1 * ds_T, 1.0)
    )
