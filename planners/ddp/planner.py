r"""Differential dynamic programming: iLQR and its full second-order form, with limits and constraints.

.. math::
    \min_u J(x, u) \quad \text{s.t.} \quad x_{t+1} = f(x_t, u_t, t), \; \underline u \le u \le \overline u, \;
    c(x_t, u_t, t) \le 0 \text{ or } = 0, \; c_T(x_T) \le 0 \text{ or } = 0

Backward passes with box-constrained controls (Tassa, Mansard and Todorov 2014), line searches over several step lengths at once,
exact second derivatives wherever they are convex along the plan and Gauss-Newton ones elsewhere. Constraints enter by an
augmented Lagrangian, as in ALTRO (Howell, Jackson and Manchester 2019), and are met exactly by Newton steps on the optimality
conditions (:mod:`planners.kkt`). In multiple shooting the states of the first plan need not obey the dynamics (Mastalli et al.
2020).
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from planners.batches import mapped, where_rows
from planners.constraints.rows import StageRows, TerminalRows
from planners.control_set import expanded
from planners.ddp.divisible import divides
from planners.ddp.iterate import Iterate, started
from planners.ddp.solver import Counts, Solver, run
from planners.expansion import cost_scale, expand_problem
from planners.implicit import Implicit
from planners.kkt import Conditions, certified, polished
from planners.problem import Problem
from planners.solution import Solution, Status, finished, shifted
from planners.solve import Planner, Request, Unrolled

PROJECTION = 1e-9
"""Residual of the optimality conditions to which constrained plans are refined."""


@dataclass(frozen=True)
class DDP(Planner):
    """Trajectory optimization by differential dynamic programming.

    Every problem of a batch has its own regularization, step length, multipliers and status; those that have finished are taken
    out of the batch. The merit, with constraints the augmented Lagrangian of the present multipliers, never rises, so that the
    last iterate is the best one.

    Attributes:
        curvature: ``"exact"`` uses second derivatives of dynamics and constraints (full DDP), where the backward pass is convex
            with them, and falls back to Gauss-Newton elsewhere; ``"gauss-newton"`` (iLQR) never does. Dynamics that autograd
            does not pass through, such as MuJoCo's, are solved with Gauss-Newton in either case.
        max_iterations: backward passes at most.
        tolerance: largest projected gradient, relative to the terms that cancel in it, at which a plan counts as converged.
        constraint_tolerance: largest violation of a hard constraint of a usable plan.
        shooting: ``"single"`` starts from the rollout of the first controls; ``"multiple"`` from the states of ``init`` as they
            are, whose gaps it closes.
        penalty: first penalty of the augmented Lagrangian, relative to the largest second derivative of the costs.
        penalty_factor: by which it grows.
        certify: whether solutions carry a certificate, which costs about as much as an iteration.

    Raises:
        ValueError: a field is out of range.
    """

    supports: ClassVar[frozenset[str]] = frozenset(
        {"control_limits", "constraints", "terminal_constraints", "soft constraints", "discount", "terminal_value"}
    )
    gradients: ClassVar[tuple[type, ...]] = (Implicit, Unrolled)

    curvature: Literal["exact", "gauss-newton"] = "exact"
    max_iterations: int = 200
    tolerance: float = 1e-6
    constraint_tolerance: float = 1e-6
    shooting: Literal["single", "multiple"] = "single"
    penalty: float = 10.0
    penalty_factor: float = 10.0
    certify: bool = True

    def __post_init__(self):
        if self.curvature not in ("exact", "gauss-newton"):
            raise ValueError(f"curvature must be 'exact' or 'gauss-newton', got {self.curvature!r}")
        if self.shooting not in ("single", "multiple"):
            raise ValueError(f"shooting must be 'single' or 'multiple', got {self.shooting!r}")
        if not (isinstance(self.max_iterations, int) and self.max_iterations >= 1):
            raise ValueError(f"max_iterations must be an integer of at least 1, got {self.max_iterations!r}")
        for name in ("tolerance", "constraint_tolerance", "penalty"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 1 < self.penalty_factor < math.inf:
            raise ValueError(f"penalty_factor must be more than 1, got {self.penalty_factor}")

    def tolerance_in(self, problem: Problem, us: Tensor) -> float:
        """The tolerance, not below what the arithmetic resolves."""
        return max(self.tolerance, 1e3 * problem.precision(us))

    def plan(self, problem: Problem, x0: Tensor, request: Request) -> Solution:
        """Solve; called through ``solve``."""
        batch = x0.shape[:-1]
        xs, us = self._first_plan(problem, x0, request)
        divisible = False
        if not torch.is_grad_enabled():
            divisible = divides(problem, xs, us, request.t0)
        if divisible:
            xs, us = (v.reshape(math.prod(batch), *v.shape[len(batch) :]) for v in (xs, us))
        s, solver = self._started(problem, xs, us, request, batch if divisible else None)
        s = run(solver, s, self.max_iterations, request.out_of_time)
        if divisible:
            s = mapped(s, lambda v: v.reshape(*batch, *v.shape[1:]))
        if solver.constrained:
            s = self._projected(problem, s, request.t0)
        return self._solution(problem, s, solver, request)

    def _first_plan(self, problem: Problem, x0: Tensor, request: Request) -> tuple[Tensor, Tensor]:
        """States and controls of the previous plan from now on, or those of no control; within the limits."""
        T, m, init = int(problem.horizon), problem.dynamics.control_dim, request.init
        shape = (*x0.shape[:-1], T, m)
        if init is None:
            us = x0.new_zeros(shape)
        else:
            if init.us.shape[-1] != m or init.xs.shape[-1] != x0.shape[-1]:  # one control would broadcast to all
                raise ValueError(
                    f"init has {init.xs.shape[-1]} states and {init.us.shape[-1]} controls, the problem {x0.shape[-1]} and {m}"
                )
            late = round((request.time - init.time) / problem.dynamics.dt)
            us = expanded("the controls of init", shifted(init.us.detach().to(x0), late, T), shape)
            us = torch.where(us.isfinite(), us, 0.0)
        lower, upper = (expanded("control_limits", v, shape) for v in problem.limits_like(us))
        us = torch.minimum(torch.maximum(us, lower), upper)
        if init is not None and self.shooting == "multiple":
            xs = shifted(init.xs.detach().to(x0), late, T + 1).expand(*shape[:-2], T + 1, x0.shape[-1])
            xs = torch.cat([x0.unsqueeze(-2), xs[..., 1:, :]], dim=-2)
            lost = ~xs.isfinite().all(-1).all(-1)
            if bool(lost.any()):
                xs = torch.where(lost[..., None, None], problem.dynamics.rollout(x0, us, request.t0), xs)
            return xs, us
        xs = problem.dynamics.rollout(x0, us, request.t0)
        lost = ~problem.finite_states(xs)
        if init is not None and bool(lost.any()):  # the previous plan leads nowhere from here
            us = torch.where(
                lost[..., None, None], torch.minimum(torch.maximum(torch.zeros_like(us), lower), upper), us
            )
            xs = problem.dynamics.rollout(x0, us, request.t0)
        return xs, us

    def _started(
        self, problem: Problem, xs: Tensor, us: Tensor, request: Request, flattened: torch.Size | None
    ) -> tuple[Iterate, Solver]:
        t0, init = request.t0, request.init
        stage = StageRows(problem, xs, us, t0) if problem.constraints else None
        terminal = TerminalRows(problem, xs, us, t0) if problem.terminal_constraints else None
        limits = None
        if problem.control_limits is not None:
            shape = tuple(us.shape) if flattened is None else (*flattened, *us.shape[-2:])
            lower, upper = (expanded("control_limits", v, shape).reshape(us.shape) for v in problem.limits_like(us))
            limits = lower, upper
        bare = replace(problem, constraints=(), terminal_constraints=(), control_limits=None)
        config = self if problem.dynamics.derivatives == "autograd" else replace(self, curvature="gauss-newton")
        multiple = self.shooting == "multiple" and init is not None
        divisible = flattened is not None
        solver = Solver(config, bare, stage, terminal, limits, t0, multiple, divisible, Counts())
        y = None if stage is None else us.new_zeros(*us.shape[:-1], stage.size)
        y_T = None if terminal is None else us.new_zeros(*us.shape[:-2], terminal.size)
        penalty = us.new_full(us.shape[:-2], self.penalty)
        if solver.constrained:
            penalty = penalty * cost_scale(expand_problem(bare, xs, us, t0)).nan_to_num(1.0)
        s = started(xs, us, problem.dynamics.tangent_dim, y=y, y_T=y_T, penalty=penalty)
        s = replace(s, merit=solver.merit(xs.unsqueeze(-3), us.unsqueeze(-3), s).squeeze(-1))
        return replace(s, status=torch.where(s.merit.isfinite(), s.status, int(Status.NO_FINITE_PLAN))), solver

    def _projected(self, problem: Problem, s: Iterate, t0: int) -> Iterate:
        """Newton steps on the optimality conditions, kept where they leave less over."""
        conditions = Conditions(problem, s.xs, s.us, t0, exact=problem.dynamics.derivatives == "autograd")
        start = conditions.start(s.xs, s.us)
        start = replace(start, y=start.y if s.y is None else s.y, y_T=start.y_T if s.y_T is None else s.y_T)
        point, residual = polished(conditions, start, tolerance=PROJECTION)
        met = residual <= self.tolerance_in(problem, s.us)
        failed = s.status == int(Status.NO_FINITE_PLAN)
        new = replace(
            s,
            xs=point.xs,
            us=point.us,
            y=None if s.y is None else point.y,
            y_T=None if s.y_T is None else point.y_T,
            residual=residual,
            status=torch.where(met, int(Status.CONVERGED), s.status),
        )
        return where_rows(met & ~failed, new, s)

    def _solution(self, problem: Problem, s: Iterate, solver: Solver, request: Request) -> Solution:
        t0, status = request.t0, s.status
        if solver.multiple:  # the plan is what its controls do
            s = replace(s, xs=problem.dynamics.rollout(s.xs[..., 0, :], s.us, t0))
        cost, violations = problem.trajectory_cost(s.xs, s.us, t0=t0), problem.violations(s.xs, s.us, t0=t0)
        broken = ~(problem.hard_violation(s.xs, s.us, t0=t0) <= self.constraint_tolerance)
        status = torch.where(broken & (status <= int(Status.TIME_LIMIT)), int(Status.INFEASIBLE), status)
        discount = problem.discounts(s.us)
        solution = finished(
            problem,
            s.xs,
            s.us,
            cost,
            status,
            t0=t0,
            K=s.K,
            P=s.P / discount[:, None, None],
            Quu=s.Quu / discount[:-1, None, None],
            violations=violations,
            stats={
                "iterations": int(s.iterations.max()) if s.iterations.numel() else 0,
                "evaluations": solver.counts.evaluations,
                "nonfinite": solver.counts.nonfinite,
                "residual": float(s.residual.detach().nan_to_num(nan=math.inf).max()) if s.residual.numel() else 0.0,
            },
        )
        multipliers = None
        if solver.constrained:
            batch = s.us.shape[:-2]
            empty = s.us.new_zeros(*s.us.shape[:-1], 0), s.us.new_zeros(*batch, 0)
            multipliers = (empty[0] if s.y is None else s.y, empty[1] if s.y_T is None else s.y_T)
        certificate = None
        if self.certify and not torch.is_grad_enabled() and not request.out_of_time():
            exact = self.curvature == "exact" and problem.dynamics.derivatives == "autograd"
            conditions = Conditions(problem, s.xs, s.us, t0, exact=exact)
            point = conditions.start(s.xs, s.us, multipliers)
            certificate, _, _ = certified(conditions, point, tolerance=self.tolerance_in(problem, s.us))
        return replace(solution, multipliers=multipliers, certificate=certificate)
