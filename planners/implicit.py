r"""Derivatives of plans by the implicit function theorem.

At a strict local minimum the optimality conditions :math:`F(z, \lambda, y; \theta) = 0` of a plan determine it as a function of
whatever the problem depends on. For a loss with gradient r by the plan,

.. math::
    M (w, \nu, \pi, \xi) = (r, 0, 0, 0), \qquad
    \frac{d \ell}{d \theta} = -(w, \nu, \pi, \xi)^\top \frac{\partial F}{\partial \theta},

with M the symmetric matrix of the optimality conditions: the exact Hessian of the Lagrangian, the Jacobians of the dynamics, of
the rows that hold as equalities and of the limits that pin a control. M is solved as one linear-quadratic problem
(:mod:`planners.lq_system`); F is evaluated once with gradients at the fixed solution, so that autograd reaches every tensor the
problem is made of, those in closures too. Amos et al. (2018) use the Hessian of the cost alone, which is right for linear
dynamics only: ``curvature="gauss-newton"``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from planners.batches import where_batch, where_rows
from planners.control_set import expanded
from planners.expansion import convex_hessians
from planners.kkt import Certificate, Conditions, Linearized, Point, certified, polished
from planners.lq_system import LQFactor, LQRight
from planners.problem import Problem
from planners.riccati import mv
from planners.smoothing import smoothed
from planners.solution import Solution, Status

if TYPE_CHECKING:
    from planners.convex import OptimalityCertificate


@dataclass(frozen=True)
class Implicit:
    """Differentiate the converged optimality conditions.

    Attributes:
        curvature: second derivatives of dynamics and constraints in the conditions: ``"exact"``, by autograd;
            ``"finite-difference"``, for dynamics that autograd does not pass through, such as MuJoCo's; ``"gauss-newton"``, none
            of the dynamics, as in Amos et al. (2018), which is wrong by the order of the gradient itself on nonlinear dynamics.
        invalid: what happens where the plan is not a strict local minimum to the tolerance: ``"raise"`` an error once a gradient
            is asked for there, ``"zero"`` gradients, or ``"one-step"``: the derivative of one Newton step from there, with
            Gauss-Newton Hessians where the exact ones are not convex.
        smoothing: weight of a logarithmic barrier in place of hard limits and inequalities. The plan is then that of the
            smoothed problem, a smooth function of everything; zero for the problem itself.
        tolerance: residual of the optimality conditions to which plans are refined before they are differentiated.

    Raises:
        ValueError: a field is out of range.
    """

    curvature: Literal["exact", "finite-difference", "gauss-newton"] = "exact"
    invalid: Literal["raise", "zero", "one-step"] = "raise"
    smoothing: float = 0.0
    tolerance: float = 1e-8

    def __post_init__(self):
        if self.curvature not in ("exact", "finite-difference", "gauss-newton"):
            raise ValueError(
                f"curvature must be 'exact', 'finite-difference' or 'gauss-newton', got {self.curvature!r}"
            )
        if self.invalid not in ("raise", "zero", "one-step"):
            raise ValueError(f"invalid must be 'raise', 'zero' or 'one-step', got {self.invalid!r}")
        if not 0.0 <= self.smoothing < float("inf"):
            raise ValueError(f"smoothing must not be negative, got {self.smoothing}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}")

    def check(self, problem: Problem) -> None:
        """Raise ValueError if the dynamics do not have the derivatives asked for."""
        if self.curvature == "exact" and problem.dynamics.derivatives != "autograd":
            raise ValueError(
                f"{type(problem.dynamics).__name__} has no exact second derivatives; choose curvature='finite-difference', or, "
                "without those of the dynamics, curvature='gauss-newton', or dynamics in torch"
            )

    def tolerance_in(self, problem: Problem, us: Tensor) -> float:
        """The tolerance, not below what the arithmetic resolves."""
        return max(self.tolerance, 1e3 * problem.precision(us))


class InvalidGradientError(RuntimeError):
    """A gradient was asked for where the plan does not determine one; ``certificate`` says why."""

    def __init__(self, certificate: "Certificate | OptimalityCertificate"):
        self.certificate = certificate
        bad = ~certificate.optimal
        stuck = int((~(certificate.residual <= certificate.tolerance)).sum())
        reasons = []
        if stuck:
            largest = float(certificate.residual.max())
            reasons.append(f"{stuck} are not converged to {certificate.tolerance:.1g} (largest residual {largest:.2g})")
        if int(bad.sum()) > stuck:
            reasons.append(f"{int(bad.sum()) - stuck} are no strict minima")
        super().__init__(
            f"{int(bad.sum())} of {bad.numel()} plans have no valid gradient: {', '.join(reasons)}; look at solution.status, "
            "raise max_iterations, or choose Implicit(invalid='zero') or Implicit(invalid='one-step')"
        )


@dataclass(frozen=True, eq=False)
class Refined:
    """A plan after Newton steps, and the factorized optimality conditions there.

    Not public, as :func:`refined` is not: a seam for learners that need the derivatives by many weights at once, which autograd
    would take a pass each for. The two packages change together.

    Attributes:
        point: the plan and its multipliers, of the problem itself.
        certificate: what the conditions say about it, or about the smoothed plan.
        factor: M.
        at: the conditions, at the smoothed plan if there is to be one.
    """

    point: Point
    certificate: Certificate
    factor: LQFactor
    at: Linearized

    def response(self, gradient_x: Tensor, gradient_u: Tensor) -> Tensor:
        """How the controls change where terms are added to the cost, to first order.

        Args:
            gradient_x: of each of k terms by the states, ``(k, *batch, T+1, d)``, discounts included.
            gradient_u: by the controls, ``(k, *batch, T, m)``.

        Returns:
            Changes of the controls, per unit of each term, ``(k, *batch, T, m)``: -M^{-1} of the gradients.
        """
        right = LQRight(
            q=torch.cat([gradient_x[..., :-1, :], gradient_u], dim=-1),
            q_T=gradient_x[..., -1, :],
            b=torch.zeros_like(self.at.expansion.gap),
            h=torch.zeros_like(self.at.value),
            h_T=torch.zeros_like(self.at.value_T),
        )
        return self.factor.solve(right).du


@torch.no_grad()
def refined(solution: Solution, how: Implicit) -> Refined:
    """Newton steps from the plan of any planner, and what there is to differentiate it by.

    Args:
        solution: where it is near a local minimum Newton steps lead there.
        how: the options, but for what happens where the plan is no minimum.
    """
    problem, xs, us = solution.problem, solution.xs, solution.us
    tolerance = how.tolerance_in(problem, us)
    conditions = Conditions(problem, xs, us, solution.t0, exact=how.curvature != "gauss-newton")
    start = conditions.start(xs, us, solution.multipliers)
    point, left = polished(conditions, start, tolerance=tolerance)
    # steps that lead nowhere leave the plan that the planner found
    point = where_rows(left <= tolerance, point, start)
    if how.smoothing:
        certificate, factor, at = smoothed(problem, conditions, point, how.smoothing, tolerance=tolerance)
    else:
        certificate, factor, at = certified(conditions, point, tolerance=tolerance)
    return Refined(point, certificate, factor, at)


def with_derivatives(solution: Solution, x0: Tensor, how: Implicit) -> Solution:
    """A solution, refined, whose states, controls and cost are functions of everything its problem depends on.

    Args:
        solution: of any planner; where it is near a local minimum Newton steps lead there.
        x0: the initial states ``(*batch, n)`` that it was solved from, which may require a gradient.
        how: the options.
    """
    problem, xs, us = solution.problem, solution.xs, solution.us
    tolerance = how.tolerance_in(problem, us)
    found = refined(solution, how)
    point, certificate, factor, at = found.point, found.certificate, found.factor, found.at
    if how.invalid == "one-step" and not bool(factor.convex.all()):
        factor = _convexified(factor, at)
    lost = ~(at.costate.isfinite().all(-1).all(-1) & at.point.xs.isfinite().all(-1).all(-1))
    adjoint = _Adjoint(factor, at, certificate, how.invalid, lost)
    # derivatives of a plan that is not finite would be NaN, and times zero still be NaN, in what all plans depend on
    safe = at if not bool(lost.any()) else _without(at, lost)
    x0 = torch.where(lost.unsqueeze(-1), safe.point.xs[..., 0, :], x0)
    dx, du = _ImplicitFunction.apply(adjoint, *_residual(safe, x0))
    xs, us = problem.dynamics.retract(safe.point.xs, dx), at.point.us + du
    with torch.enable_grad():
        cost = problem.trajectory_cost(xs, safe.point.us + du, t0=solution.t0)
    xs = torch.where(lost[..., None, None], at.point.xs, xs)
    if how.invalid == "zero":
        cost = torch.where(certificate.optimal, cost, cost.detach())
    cost = torch.where(solution.usable & ~lost, cost, torch.inf)
    moved = (us.detach() - solution.us).abs().amax((-2, -1)) > 1e3 * tolerance
    converged = solution.usable & certificate.optimal & (how.smoothing == 0)
    with torch.no_grad():
        violations = problem.violations(xs, us, t0=solution.t0)
    return replace(
        solution,
        xs=xs,
        us=us,
        cost=cost,
        status=torch.where(converged, int(Status.CONVERGED), solution.status),
        K=None if solution.K is None else where_batch(moved, factor.K, solution.K),
        P=None
        if solution.P is None
        else where_batch(moved, factor.P / problem.discounts(us)[:, None, None], solution.P),
        violations=violations,
        multipliers=(point.y, point.y_T),
        certificate=certificate,
    )


def _convexified(factor: LQFactor, at: Linearized) -> LQFactor:
    """The factorization with Gauss-Newton Hessians where it is not convex, and no step leads to a minimum."""
    conditions, convex, system = at.conditions, factor.convex, factor.system
    with torch.no_grad():
        H, H_T = convex_hessians(conditions.bare, at.expansion, at.point.xs, at.point.us, conditions.t0)
        H = torch.where(convex[..., None, None, None], system.H, H)
        H_T = torch.where(convex[..., None, None], system.H_T, H_T)
        return replace(system, H=H, H_T=H_T).factorized()


def _without(at: Linearized, lost: Tensor) -> Linearized:
    """The conditions with the first other plan, or zeros, in place of plans ``(*batch,)`` of bool that are not finite."""
    good = (~lost).flatten().nonzero()

    def filled(value: Tensor) -> Tensor:
        rows = value.reshape(lost.numel(), *value.shape[lost.ndim :])
        other = rows[good[0, 0]] if len(good) else torch.zeros_like(rows[0])
        return where_batch(lost, other.expand_as(value), value)

    point = Point(**{name: filled(value) for name, value in vars(at.point).items()})
    expansion = replace(at.expansion, F=filled(at.expansion.F))
    return replace(at, point=point, costate=filled(at.costate), expansion=expansion)


def _residual(at: Linearized, x0: Tensor) -> tuple[Tensor, ...]:
    """The optimality conditions at a fixed point as functions of what the problem depends on.

    Returns:
        Gradients of the Lagrangian by the states ``(*batch, T+1, d)`` and by the controls ``(*batch, T, m)``; the error of the
        initial state and of the dynamics, ``(*batch, T+1, d)``; stage rows, terminal rows; lower and upper limits.
    """
    c, point, costate = at.conditions, at.point, at.costate
    problem, dynamics = c.bare, c.problem.dynamics
    xs, us, T = point.xs, point.us, point.us.shape[-2]
    steps = c.t0 + torch.arange(T, device=us.device)
    with torch.enable_grad():
        dx = us.new_zeros(*us.shape[:-2], T + 1, dynamics.tangent_dim).requires_grad_()
        du = torch.zeros_like(us).requires_grad_()
        moved, u = dynamics.retract(xs, dx), us + du
        x, last = moved[..., :-1, :], moved[..., -1, :]
        if dynamics.derivatives == "autograd":
            x_next = dynamics(x, u, steps)
            error = dynamics.difference(x_next, xs[..., 1:, :])
            chain = (costate[..., 1:, :] * error).sum()
        else:  # without a graph; its derivatives enter as numbers
            x_next = dynamics.retract(xs[..., 1:, :], _linear(at, dx, du))
            error = torch.zeros_like(costate[..., 1:, :])
            chain = (costate[..., 1:, :] * _linear(at, dx, du)).sum()
        weight = problem.discounts(us)
        total = (weight[:-1] * problem.cost.transition(x, u, x_next, steps)).sum()
        final = problem.cost.terminal(last)
        if problem.terminal_value is not None:
            final = final + problem.terminal_value(last)
        total = total + (weight[-1] * final).sum() + chain
        value, value_T = c.stage.value(moved, u), c.terminal.value(moved, u)
        total = total + (point.y * value).sum() + (point.y_T * value_T).sum()
        gradient_x, gradient_u = torch.autograd.grad(total, (dx, du), create_graph=True, materialize_grads=True)
        initial = dynamics.difference(x0, xs[..., 0, :].detach()).unsqueeze(-2)
        error = torch.cat([initial, error], dim=-2)
        lower, upper = (expanded("control_limits", v, tuple(us.shape)) for v in c.problem.limits_like(us))
    return gradient_x, gradient_u, error, value, value_T, lower, upper


def _linear(at: Linearized, dx: Tensor, du: Tensor) -> Tensor:
    """The linearized next states' displacements, ``(*batch, T, d)``."""
    return mv(at.expansion.F, torch.cat([dx[..., :-1, :], du], dim=-1))


@dataclass(frozen=True, eq=False)
class _Adjoint:
    """Solves the adjoint system of a plan; those that are ``lost`` are not finite."""

    factor: LQFactor
    at: Linearized
    certificate: Certificate
    invalid: str
    lost: Tensor

    def __call__(self, r_x: Tensor, r_u: Tensor) -> tuple[Tensor, ...]:
        """Gradients by the parts of the residual from those by states ``(*batch, T+1, d)`` and controls ``(*batch, T, m)``."""
        valid = self.certificate.optimal
        asked = (r_x != 0).any(-1).any(-1) | (r_u != 0).any(-1).any(-1)
        without = {"raise": ~valid | self.lost, "zero": torch.zeros_like(valid), "one-step": self.lost}[self.invalid]
        if bool((asked & without).any()):
            raise InvalidGradientError(self.certificate)
        if self.invalid == "zero":
            keep = valid.to(r_x)[..., None, None]
            r_x, r_u = torch.where(keep > 0, r_x, 0.0), torch.where(keep > 0, r_u, 0.0)
        system = self.factor.system
        right = LQRight(
            q=torch.cat([-r_x[..., :-1, :], -r_u], dim=-1),
            q_T=-r_x[..., -1, :],
            b=torch.zeros_like(self.at.expansion.gap),
            h=torch.zeros_like(self.at.value),
            h_T=torch.zeros_like(self.at.value_T),
        )
        s = self.factor.solve(right)
        d = r_x.shape[-1]
        z = torch.cat([s.dx[..., :-1, :], s.du], dim=-1)
        force = mv(system.H, z) + right.q + mv(system.F.mT, s.nu[..., 1:, :]) + mv(system.C.mT, s.y)
        pinned = torch.where(system.free, 0.0, -force[..., d:])
        c, us = self.at.conditions, self.at.point.us
        below = us - self.at.gradient <= c.lower
        grads = (-s.dx, -s.du, -s.nu, -s.y, -s.y_T, torch.where(below, pinned, 0.0), torch.where(below, 0.0, pinned))
        keep = (valid if self.invalid == "zero" else valid | asked) & ~self.lost
        return tuple(where_batch(keep, g, torch.zeros_like(g)) for g in grads)


class _ImplicitFunction(torch.autograd.Function):
    """Displacements of the plan, zero in value, whose derivatives are those of the solution of the optimality conditions."""

    @staticmethod
    def forward(ctx: Any, adjoint: Callable[..., tuple[Tensor, ...]], *residual: Tensor) -> tuple[Tensor, Tensor]:
        ctx.adjoint = adjoint
        return torch.zeros_like(residual[0]), torch.zeros_like(residual[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.adjoint(*grads))
