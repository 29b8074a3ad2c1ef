r"""Differential dynamic programming: iLQR and its full second-order form, with limits and constraints."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from planners.constraints.rows import StageRows, TerminalRows
from planners.control_set import expanded
from planners.ddp.iterate import Iterate, started
from planners.ddp.solver import Counts, Solver, run
from planners.problem import Problem
from planners.solution import Solution, Status, finished, shifted
from planners.solve import Planner, Request, Unrolled


@dataclass(frozen=True)
class DDP(Planner):
    supports: ClassVar[frozenset[str]] = frozenset(
        {"control_limits", "constraints", "terminal_constraints", "soft constraints", "discount", "terminal_value"}
    )
    gradients: ClassVar[tuple[type, ...]] = (Unrolled,)

    curvature: Literal["exact", "gauss-newton"] = "exact"
    max_iterations: int = 200
    tolerance: float = 1e-6
    constraint_tolerance: float = 1e-6
    shooting: Literal["single", "multiple"] = "single"
    penalty: float = 10.0
    penalty_factor: float = 10.0

    def tolerance_in(self, us: Tensor) -> float:
        return max(self.tolerance, 1e3 * torch.finfo(us.dtype).eps)

    def plan(self, problem: Problem, x0: Tensor, request: Request) -> Solution:
        xs, us = self._first(problem, x0, request)
        constrained = problem.all_constraints
        stage = StageRows(problem, xs, us, request.t0) if problem.constraints else None
        terminal = TerminalRows(problem, xs, us, request.t0) if problem.terminal_constraints else None
        bare = replace(problem, constraints=(), terminal_constraints=(), control_limits=None)
        limits = None
        if problem.control_limits is not None:
            limits = tuple(expanded("control_limits", l, tuple(us.shape)) for l in problem.limits_like(us))
        solver = Solver(self, bare, stage, terminal, limits, request.t0, self.shooting == "multiple", Counts())
        y = None if stage is None else us.new_zeros(*us.shape[:-1], stage.size)
        y_T = None if terminal is None else us.new_zeros(*us.shape[:-2], terminal.size)
        rho = us.new_full(us.shape[:-2], self.penalty) if constrained else None
        s = started(xs, us, us.new_zeros(us.shape[:-2]), problem.dynamics.tangent_dim, y=y, y_T=y_T, rho=rho)
        s = replace(s, merit=solver.merit(xs.unsqueeze(-3), us.unsqueeze(-3), s).squeeze(-1))
        s = replace(s, status=torch.where(s.merit.isfinite(), s.status, int(Status.NO_FINITE_PLAN)))
        s = run(solver, s, self.max_iterations, request.out_of_time, lambda: True)
        cost = problem.trajectory_cost(s.xs, s.us, t0=request.t0)
        return finished(problem, s.xs, s.us, cost, s.status, t0=request.t0, K=s.K, P=s.P, Quu=s.Quu,
            violations=problem.violations(s.xs, s.us, t0=request.t0),
            stats={"iterations": int(s.iterations.max()), "evaluations": solver.counts.evaluations, "nonfinite": solver.counts.nonfinite,
             "residual": float(s.residual.max())})

    def _first(self, problem, x0, request):
        T, m = int(problem.horizon), problem.dynamics.control_dim
        us = x0.new_zeros(*x0.shape[:-1], T, m)
        lower, upper = problem.limits_like(us)
        us = torch.minimum(torch.maximum(us, lower), upper)
        return problem.dynamics.rollout(x0, us, request.t0), us
