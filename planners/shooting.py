r"""Single shooting: descent on the controls, or on the knots of a control signal, with the states eliminated by the rollout.

.. math:: \min_{\theta} J(x_0, u(\theta)), \qquad \underline\theta \le \theta \le \overline\theta, \qquad
    \frac{\partial J}{\partial u_t} = \ell_u + f_u^\top \lambda_{t+1}, \quad
    \lambda_t = \ell_x + f_x^\top \lambda_{t+1}, \quad \lambda_T = \ell_{T,x}

Where the dynamics have derivatives by autograd, the gradient is that of the rollout. Where theirs are finite differences, it is
the recursion above (Bryson and Ho 1975, section 2.2), with the Jacobians of all steps from one batched call.

The methods are :mod:`planners.lbfgs` and Adam of :mod:`planners.descent`. Both keep control limits by projection.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from planners.descent import Box, Point, Progress, Rules, adam
from planners.lbfgs import lbfgs
from planners.problem import Problem
from planners.riccati import mv
from planners.sampling.base import is_count
from planners.sampling.noise import KnotNoise, WhiteNoise
from planners.sampling.space import SearchSpace
from planners.solution import Solution, finished
from planners.solve import Planner, Request, Unrolled
from planners.splines import Degree

COARSE = {"autograd": 1e3, "finite-difference": 1e10}
"""Gradients are no better than this multiple of the rounding of their numbers (in double precision 2e-13 and 2e-6)."""


@dataclass(frozen=True)
class GradientShooting(Planner):
    """Gradient descent on the controls of a plan, or on the knots of a spline through them.

    Finds a stationary point of the cost near the plan that it starts from: a previous solution, or zero controls (the nearest
    ones within the limits). Control limits are kept by projection, and the criterion is the projected gradient. Each problem of
    a batch has its own curvature, step lengths and end.

    ``termination`` is honored in the cost, and L-BFGS takes a step only if it lowers the cost, but gradients do not see that the
    episode could end a step earlier or later; a rollout that breaks after its end has no gradient and counts as not finite.
    Stochastic dynamics are planned on by their mean. A spline that leaves the limits between its knots is clamped, which gives
    the cost kinks: the solve may then end as stalled.

    Attributes:
        max_iterations: steps at most; Adam needs many more than L-BFGS.
        tolerance: largest component of the projected gradient by the controls (or knots) at which a problem counts as solved, in
            units of ``max(1, |J|)``; no smaller than the precision of the gradients, which is 2e-6 for finite differences and
            1e-4 in single precision.
        optimizer: ``"lbfgs"`` or ``"adam"``, for gradients that are noisy or jump.
        learning_rate: of Adam, the size of its steps in the unit of the controls.
        memory: of L-BFGS, the number of past steps from which it knows the curvature.
        knots: number of intervals between knots over one horizon, at fixed points of absolute time; None for the controls of
            the steps themselves.
        degree: of the spline through the knots: 0 (held until the next knot), 1 (straight lines) or 3 (cubic, Catmull-Rom).

    Raises:
        ValueError: a field is out of range.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"control_limits", "discount", "termination", "terminal_value"})
    gradients: ClassVar[tuple[type, ...]] = (Unrolled,)

    max_iterations: int = 100
    tolerance: float = 1e-8
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    learning_rate: float = 0.1
    memory: int = 10
    knots: int | None = None
    degree: Degree = 1

    def __post_init__(self):
        for name in ("max_iterations", "memory", "knots"):
            value = getattr(self, name)
            if not ((is_count(value) and value >= 1) or (name == "knots" and value is None)):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        for name in ("tolerance", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.optimizer not in ("lbfgs", "adam"):
            raise ValueError(f"optimizer must be 'lbfgs' or 'adam', got {self.optimizer!r}")
        KnotNoise(1, self.degree)  # checks the degree

    def check(self, problem: Problem) -> None:
        """Raise ValueError unless there is something to choose."""
        if problem.dynamics.control_dim == 0:
            raise ValueError("GradientShooting needs dynamics with at least one control; roll these out instead")

    def plan(self, problem: Problem, x0: Tensor, request: Request) -> Solution:
        """Descend; called through ``solve``."""
        kind = problem.dynamics.derivatives
        if torch.is_grad_enabled() and kind != "autograd":
            raise ValueError(
                f"Unrolled() needs second derivatives of the dynamics, and those of {type(problem.dynamics).__name__} are by "
                "finite differences; use gradient=None, or the same system written in torch"
            )
        noise = WhiteNoise() if self.knots is None else KnotNoise(self.knots, self.degree)
        space = SearchSpace.of(problem, x0, request, noise, request.generator or torch.Generator(x0.device))
        objective = _Objective(problem, x0, space, request.t0)
        start = self._start(objective, space, request)
        epsilon = _precision(problem, x0)
        tolerance = max(self.tolerance, COARSE[kind] * epsilon)
        rules = Rules(self.max_iterations, tolerance, epsilon, request.out_of_time)
        box = Box(space.lower, space.upper)
        if self.optimizer == "adam":
            progress = adam(objective, start, box, rules, learning_rate=self.learning_rate)
        else:
            progress = lbfgs(objective, start, box, rules, memory=self.memory)
        return _finish(problem, x0, progress, objective, request)

    def _start(self, objective: "_Objective", space: SearchSpace, request: Request) -> Point:
        """Zero controls, or the previous plan where it leads to finite costs."""
        everything = torch.ones(space.lower.shape[:-2], dtype=torch.bool, device=space.lower.device)
        zero = space.clamp(torch.zeros_like(space.lower))
        if request.init is None:
            return objective(zero, everything)
        plan = space.previous_plan(request.init)
        start = objective(plan, everything)
        if bool(start.finite.all()):
            return start
        return objective(torch.where(start.finite[..., None, None], plan, zero), ~start.finite)


@dataclass(eq=False)
class _Objective:
    """The cost as a function of knots; counts what it evaluates."""

    problem: Problem
    x0: Tensor
    space: SearchSpace
    t0: int
    stats: dict[str, int] = field(default_factory=lambda: {"evaluations": 0, "nonfinite": 0})

    def __call__(self, knots: Tensor, active: Tensor) -> Point:
        """Cost and gradient at knots ``(*batch, K, m)``."""
        if self.space.weights is None:  # they are the controls of the steps
            point = Point.of(knots, *control_gradient(self.problem, self.x0, knots, self.t0))
        else:
            point = Point.of(knots, *self._through_spline(knots))
        self.stats["evaluations"] += int(active.sum())
        self.stats["nonfinite"] += int((active & ~point.finite).sum())
        return point

    def _through_spline(self, knots: Tensor) -> tuple[Tensor, Tensor]:
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            displacement = torch.zeros_like(knots).requires_grad_()
            us = self.space.allowed(knots + displacement)[1]
        cost, by_us = control_gradient(self.problem, self.x0, us if differentiable else us.detach(), self.t0)
        (gradient,) = torch.autograd.grad(us, displacement, by_us, create_graph=differentiable)
        return cost, gradient


def control_gradient(problem: Problem, x0: Tensor, us: Tensor, t0: int = 0) -> tuple[Tensor, Tensor]:
    """The cost of controls and its gradient by them.

    Args:
        problem: what is solved.
        x0: initial states ``(*batch, n)``.
        us: controls ``(*batch, T, m)``.
        t0: step of the first control.

    Returns:
        Cost ``(*batch,)`` and gradient ``(*batch, T, m)``, not finite where the rollout is not; differentiable when gradients are
        enabled on entry and the dynamics' derivatives are by autograd.
    """
    if torch.is_inference_mode_enabled():  # no graph is recorded there, and every derivative would be zero
        raise RuntimeError("gradients do not exist under torch.inference_mode(); use torch.no_grad()")
    if problem.dynamics.derivatives != "autograd":
        return _adjoint_gradient(problem, x0.detach(), us.detach(), t0)
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        displacement = torch.zeros_like(us).requires_grad_()
        moved = us + displacement
        cost = problem.trajectory_cost(problem.dynamics.rollout(x0, moved, t0), moved, t0=t0).to(us)
        (gradient,) = _gradients(cost, [displacement], create_graph=differentiable)
    return (cost, gradient) if differentiable else (cost.detach(), gradient)


def _adjoint_gradient(problem: Problem, x0: Tensor, us: Tensor, t0: int) -> tuple[Tensor, Tensor]:
    """Cost and gradient by the adjoint recursion, in the tangent space of the states; without a graph."""
    dynamics, T = problem.dynamics, us.shape[-2]
    with torch.no_grad():
        xs = dynamics.rollout(x0, us, t0)
        linear = dynamics.linearize(xs[..., :-1, :], us, t0 + torch.arange(T, device=us.device))
    with torch.enable_grad():
        dx = xs.new_zeros(*xs.shape[:-1], dynamics.tangent_dim).requires_grad_()
        du = torch.zeros_like(us).requires_grad_()
        cost = problem.trajectory_cost(dynamics.retract(xs, dx), us + du, t0=t0).to(us)
        by_x, by_u = _gradients(cost, [dx, du])
    costate, rows = by_x[..., -1, :], []
    for t in reversed(range(T)):
        rows.append(by_u[..., t, :] + mv(linear.fu[..., t, :, :].mT, costate))
        costate = by_x[..., t, :] + mv(linear.fx[..., t, :, :].mT, costate)
    return cost.detach(), torch.stack(rows[::-1], dim=-2)


def _gradients(cost: Tensor, variables: list[Tensor], *, create_graph: bool = False) -> tuple[Tensor, ...]:
    """Gradients of the sum of costs; zero by what they do not depend on."""
    if not cost.requires_grad:
        return tuple(torch.zeros_like(v) for v in variables)
    return torch.autograd.grad(cost.sum(), variables, create_graph=create_graph, materialize_grads=True)


def _precision(problem: Problem, x0: Tensor) -> float:
    """The relative rounding of the coarsest numbers in a rollout: those of x0, or of a learned model's weights."""
    dtypes = {x0.dtype, *(p.dtype for p in problem.dynamics.parameters() if p.is_floating_point())}
    return max(torch.finfo(dtype).eps for dtype in dtypes)


def _finish(problem: Problem, x0: Tensor, progress: Progress, objective: _Objective, request: Request) -> Solution:
    knots, us = objective.space.allowed(progress.best.z)
    xs = problem.dynamics.rollout(x0, us, request.t0)
    residual, found = progress.residual, progress.best.finite
    stats = {
        "iterations": int(progress.iterations.max()) if progress.iterations.numel() else 0,
        **objective.stats,
        "residual": float(residual[found].max()) if bool(found.any()) else math.inf,
    }
    return finished(
        problem,
        xs,
        us,
        problem.trajectory_cost(xs, us, t0=request.t0).to(us),
        progress.status,
        t0=request.t0,
        spline=objective.space.signal(knots),
        stats=stats,
    )
