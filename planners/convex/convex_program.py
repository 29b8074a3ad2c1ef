r"""Convex control problems: linear dynamics, a quadratic cost, affine constraints, hard or soft.

.. math::
    \min_{x, u, s} \; \sum_{t=0}^{T-1} \gamma^t \bigl( \ell(x_t, u_t) + \varphi(s_t) \bigr) + \gamma^T \ell_T(x_T)
    \quad \text{s.t.} \quad x_{t+1} = A_t x_t + B_t u_t + b_t, \quad C_t x_t + D_t u_t \le d_t + s_t, \; \dots

One sparse quadratic program for each initial state (Boyd and Vandenberghe 2004, section 4.4; Wright 1997 for its structure), see
:mod:`planners.convex.quadratic_program`.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from dynamics import LinearDynamics
from planners.control_set import ControlSet
from planners.convex.control_program import ProgramBuilder
from planners.convex.linearized import affine_constraints, non_affine
from planners.convex.quadratic_program import ACCURATE, Outcome, ProgramSolution, solve_programs
from planners.expansion import Expansion
from planners.implicit import Implicit, InvalidGradientError
from planners.lqr import linear_quadratic
from planners.problem import Problem
from planners.riccati import LinearQuadratic
from planners.solution import Solution, Status, finished
from planners.solve import Planner, Request


@dataclass(frozen=True, eq=False)
class OptimalityCertificate:
    """What proves that a plan of a convex problem is optimal; there every local minimum is the best plan.

    Attributes:
        costates: derivative of the optimal cost by a displacement of each state, ``(*batch, T+1, n)``; zero where there is no
            solution.
        residual: largest violation of the optimality conditions (stationarity, feasibility, complementarity), relative to the
            terms that should cancel, ``(*batch,)``.
        tolerance: residual below which the conditions count as met.
    """

    costates: Tensor
    residual: Tensor
    tolerance: float = ACCURATE

    @property
    def optimal(self) -> Tensor:
        """Whether the plan is proven to be the best one, ``(*batch,)``."""
        return self.residual <= self.tolerance


@dataclass(frozen=True)
class ConvexProgram(Planner):
    """Exact solution of linear dynamics under a quadratic cost and affine constraints, differentiable.

    Attributes:
        max_iterations: steps of the interior-point method.
        tolerance: at which the interior-point method ends; its solution is then polished to the last digits.
        feasibility_tolerance: by how much a hard constraint may be violated, relative to the largest state and 1.

    The certificate of a solution is an :class:`OptimalityCertificate`. A gradient is exact where the active constraints have
    positive multipliers, and one-sided where one has not. A previous solution is accepted and not
    needed.

    Solving raises ValueError unless the dynamics are LinearDynamics, the cost is quadratic and all constraints are affine.

    Raises:
        ValueError: a field is out of range.
    """

    supports: ClassVar[frozenset[str]] = frozenset(
        {"control_limits", "rate_limits", "constraints", "terminal_constraints", "soft constraints", "discount"}
    )
    gradients: ClassVar[tuple[type, ...]] = (Implicit,)

    max_iterations: int = 200
    tolerance: float = 1e-9
    feasibility_tolerance: float = 1e-6

    def __post_init__(self):
        if not (isinstance(self.max_iterations, int) and self.max_iterations >= 1):
            raise ValueError(f"max_iterations must be an integer of at least 1, got {self.max_iterations!r}")
        for name in ("tolerance", "feasibility_tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def check(self, problem: Problem) -> None:
        """Raise ValueError unless the problem is linear-quadratic with affine constraints."""
        other = "; plan it with SequentialConvex()"
        if not isinstance(problem.dynamics, LinearDynamics):
            raise ValueError(f"ConvexProgram needs LinearDynamics, got {type(problem.dynamics).__name__}{other}")
        if not problem.cost.is_quadratic:
            raise ValueError(f"ConvexProgram needs a quadratic cost, got {type(problem.cost).__name__}{other}")
        curved = non_affine(problem.all_constraints)
        if curved:
            raise ValueError(
                f"ConvexProgram needs constraints that are affine, which {', '.join(curved)} is not declared to be{other}, or "
                "write it as LinearInequality, LinearEquality, StateLimits or TerminalState"
            )

    def plan(self, problem: Problem, x0: Tensor, request: Request) -> Solution:
        """Exact solution; called through ``solve``."""
        return self._solved(problem, x0, request)

    def differentiated(self, solution: Solution, x0: Tensor, gradient: Implicit, request: Request) -> Solution:
        """Solved again as a differentiable layer; a problem without a solution has no derivatives, see ``Implicit.invalid``."""
        if gradient.smoothing:
            return super().differentiated(solution, x0, gradient, request)
        with torch.enable_grad():
            found = self._solved(solution.problem, x0, request, refuse=gradient.invalid == "raise")
        return replace(found, time=solution.time, stats=solution.stats)

    def _solved(self, problem: Problem, x0: Tensor, request: Request, *, refuse: bool = False) -> Solution:
        start = x0.double().cpu()
        batch = tuple(start.shape[:-1])
        model = _expansion(linear_quadratic(problem, start, request.t0), batch)
        controls = ControlSet.of(problem, start, int(problem.horizon), request.previous_control)
        program = ProgramBuilder.of(model)
        program.add_cost(model)
        program.add_start(start.reshape(-1, start.shape[-1]))
        program.add_dynamics(model)
        program.add_control_limits(_flat_controls(controls, batch))
        for rows in affine_constraints(problem, start, request.t0):
            program.add_rows(rows, problem.discount ** rows.steps().to(start))
        found = solve_programs(program.build(), tolerance=self.tolerance, max_iterations=self.max_iterations)
        us = program.read(found)[1].reshape(controls.lower.shape)
        us = controls.admissible(us)  # rounding aside, they are
        if refuse and us.requires_grad:
            us.register_hook(partial(_refuse, self._certificate(found, start, us)))
        status = self._status(model, found, controls).reshape(batch)
        return self._finish(problem, x0, start, us, status, found, request.t0)

    def _status(self, model: Expansion, found: ProgramSolution, controls: ControlSet) -> Tensor:
        """The status of each program, ``(B,)``."""
        status = torch.tensor([int(_STATUS[Outcome(code)]) for code in found.outcome.tolist()], dtype=torch.long)
        status[~_is_convex(model)] = int(Status.NOT_CONVEX)
        if controls.previous is not None and controls.fall is not None and controls.rise is not None:
            previous, slack = controls.previous, 1e-6 * (1.0 + controls.previous.abs())
            first = controls.first()
            missed = (previous + controls.fall[..., 0, :] > first.upper[..., 0, :] + slack) | (
                previous + controls.rise[..., 0, :] < first.lower[..., 0, :] - slack
            )
            status[missed.any(-1).reshape(-1)] = int(Status.LIMITS_IN_CONFLICT)
        return status

    def _finish(
        self,
        problem: Problem,
        x0: Tensor,
        start: Tensor,
        us: Tensor,
        status: Tensor,
        found: ProgramSolution,
        t0: int,
    ) -> Solution:
        """The plan of controls in double precision, in the dtype of x0."""
        with torch.no_grad():
            exact = problem.dynamics.rollout(start, us, t0)
            violated = problem.hard_violation(exact, us, t0=t0) > self.feasibility_tolerance * scale_of(exact)
        status = torch.where(violated & (status <= int(Status.TIME_LIMIT)), int(Status.INFEASIBLE), status).to(
            x0.device
        )
        us = us.to(x0)
        xs = problem.dynamics.rollout(x0, us, t0)
        with torch.no_grad():
            violations = problem.violations(xs, us, t0=t0)
        iterations = int(found.iterations.max()) if found.iterations.numel() else 0
        return finished(
            problem,
            xs,
            us,
            problem.trajectory_cost(xs, us, t0=t0),
            status,
            t0=t0,
            violations=violations,
            certificate=self._certificate(found, x0, us),
            stats={"iterations": iterations},
        )

    def _certificate(self, found: ProgramSolution, x0: Tensor, us: Tensor) -> OptimalityCertificate:
        """The certificate of a batch ``x0 (*batch, n)`` of plans."""
        batch, T, n = x0.shape[:-1], us.shape[-2], x0.shape[-1]
        costates = -found.y[:, : (T + 1) * n].detach().reshape(*batch, T + 1, n)
        return OptimalityCertificate(costates.to(x0), found.residual.reshape(batch).to(x0))


_STATUS = {
    Outcome.SOLVED: Status.CONVERGED,
    Outcome.ITERATION_LIMIT: Status.ITERATION_LIMIT,
    Outcome.INACCURATE: Status.STALLED,
    Outcome.INFEASIBLE: Status.INFEASIBLE,
    Outcome.UNBOUNDED: Status.UNBOUNDED,
    Outcome.FAILED: Status.NO_FINITE_PLAN,
}


def _refuse(certificate: OptimalityCertificate, gradient: Tensor) -> None:
    """Raise InvalidGradientError if a gradient is asked for where there is no solution."""
    if bool(((gradient != 0).any(-1).any(-1) & ~certificate.optimal).any()):
        raise InvalidGradientError(certificate)


def scale_of(xs: Tensor) -> Tensor:
    """One, or the largest number in states ``(*batch, T+1, n)`` where that is larger, ``(*batch,)``."""
    return xs.abs().amax((-2, -1)).clamp_min(1.0)


def _is_convex(model: Expansion) -> Tensor:
    """Whether the costs of all steps are convex in (x, u), ``(B,)``."""
    with torch.no_grad():
        return _is_semidefinite(model.H).all(-1) & _is_semidefinite(model.P_T)


def _is_semidefinite(matrix: Tensor) -> Tensor:
    values = torch.linalg.eigvalsh(matrix)
    return values[..., 0] >= -1e-10 * values.abs().amax(-1).clamp_min(torch.finfo(values.dtype).tiny)


def _expansion(lq: LinearQuadratic, batch: tuple[int, ...]) -> Expansion:
    """The same problem for each element of a batch, its axes in one, with discounted costs."""
    T = lq.A.shape[-3]
    weight = lq.discount ** torch.arange(T + 1, dtype=lq.q.dtype)

    def flat(value: Tensor, core: int) -> Tensor:
        shape = value.shape[value.ndim - core :]
        return value.expand(*batch, *shape).reshape(math.prod(batch), *shape)

    H = torch.cat([torch.cat([lq.Q, lq.N], dim=-1), torch.cat([lq.N.mT, lq.R], dim=-1)], dim=-2)
    return Expansion(
        F=torch.cat([flat(lq.A, 3), flat(lq.B, 3)], dim=-1),
        gap=flat(lq.b, 2),
        g=flat(weight[:-1, None] * torch.cat([lq.q, lq.r], dim=-1), 2),
        H=flat(weight[:-1, None, None] * H, 3),
        p_T=flat(weight[-1] * lq.p_T, 1),
        P_T=flat(weight[-1] * lq.P_T, 2),
    )


def _flat_controls(controls: ControlSet, batch: tuple[int, ...]) -> ControlSet:
    """Limits with their batch axes in one, for the solver on the processor."""
    count = math.prod(batch)
    values = {}
    for name, core in (("lower", 2), ("upper", 2), ("fall", 2), ("rise", 2), ("previous", 1)):
        value = getattr(controls, name)
        values[name] = None if value is None else value.reshape(count, *value.shape[value.ndim - core :]).cpu()
    return replace(controls, **values)
