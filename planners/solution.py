"""What a planner returns."""

import enum
import math
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynamics.base import surely_finite
from planners.problem import Problem
from planners.splines import ControlSpline, KnotGrid

if TYPE_CHECKING:
    from planners.controllers import LinearGaussianController


class Status(enum.IntEnum):
    """How the solve of one problem ended. ``usable`` solutions may be executed; ``remedy`` says what to do about others."""

    CONVERGED = 0
    ITERATION_LIMIT = 1
    STALLED = 2
    TIME_LIMIT = 3
    NO_FINITE_PLAN = 4
    NOT_CONVEX = 5
    NOT_STABILIZABLE = 6
    LIMITS_IN_CONFLICT = 7
    INFEASIBLE = 8
    UNBOUNDED = 9

    @property
    def usable(self) -> bool:
        """Whether the plan may be executed."""
        return self <= Status.TIME_LIMIT

    @property
    def remedy(self) -> str:
        """What the status means and what to do about it."""
        return _REMEDIES[self]


_REMEDIES = {
    Status.CONVERGED: "the planner's own criterion is met",
    Status.ITERATION_LIMIT: "all iterations are used; raise max_iterations for a better plan",
    Status.STALLED: (
        "no step lowers the cost any further, but the criterion is not met: rounding, or a kink or jump of the cost; raise "
        "tolerance, smooth the cost or start elsewhere"
    ),
    Status.TIME_LIMIT: "the time budget ended the solve early; lower the number of samples or the horizon",
    Status.NO_FINITE_PLAN: (
        "every candidate led to a state or cost that is not finite; check x0, shorten the horizon or narrow control_limits"
    ),
    Status.NOT_CONVEX: (
        "the cost is not convex in the controls, and falls without bound; make R (or R + B'PB) positive definite, or give "
        "control_limits"
    ),
    Status.NOT_STABILIZABLE: (
        "no control keeps the infinite-horizon cost finite; check that (A, B) is stabilizable and that the cost sees every "
        "unstable direction, or lower the discount"
    ),
    Status.LIMITS_IN_CONFLICT: (
        "the control before the first step is so far from the limits that the rate limits do not lead there in time; the plan "
        "keeps control_limits and control_values and breaks rate_limits; widen them, or check previous_control"
    ),
    Status.INFEASIBLE: (
        "no plan within the constraints was found; relax the constraints named here, make them soft, lengthen the horizon, raise "
        "max_iterations, or start from a plan that respects them"
    ),
    Status.UNBOUNDED: ("the cost falls without end; bound the controls by control_limits, or make R positive definite"),
}


@dataclass(frozen=True, eq=False)
class Solution:
    """A plan for each problem of a batch.

    Attributes:
        problem: what was solved.
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.
        cost: ``(*batch,)``; infinite where the status is not usable.
        status: codes of :class:`Status`, ``(*batch,)``.
        stats: counts and times of the solve: ``iterations``, ``evaluations`` (rollouts), ``nonfinite`` (rollouts excluded
            because a state or cost was not finite), ``seconds``, and what else the planner reports.
        t0: step of the first control.
        time: absolute time of the first state [s].
        spline: the signal through knots that the planner found, before limits, rates and allowed values shape it into the
            controls; None where the controls of the steps are all that there is.
        K: feedback gains ``(*batch, T, m, d)``, or ``(*batch, m, d)`` for an infinite horizon, in the tangent space of dimension
            d (n unless the state lies on a manifold); None without.
        P: Hessian of the value function, ``(*batch, T+1, d, d)`` or ``(*batch, d, d)``; None without.
        Quu: control Hessian of the state-action value, ``(*batch, T, m, m)`` or ``(*batch, m, m)``; None without.
        violations: by how much the plan violates each constraint at most, by name, ``(*batch,)`` each; empty without
            constraints.
        multipliers: of the rows of the stage constraints ``(*batch, T, r)`` and of the terminal ones ``(*batch, r_T)``; None
            where the planner has none.
        certificate: what the optimality conditions say about the solution, a :class:`planners.Certificate` or, for convex
            programs, a :class:`planners.OptimalityCertificate`; None where the planner does not evaluate them.
        warm_start: what the planner keeps for its next solve beside the controls.
    """

    problem: Problem
    xs: Tensor
    us: Tensor
    cost: Tensor
    status: Tensor
    stats: dict[str, Any] = field(default_factory=dict)
    t0: int = 0
    time: float = 0.0
    spline: ControlSpline | None = None
    K: Tensor | None = None
    P: Tensor | None = None
    Quu: Tensor | None = None
    violations: dict[str, Tensor] = field(default_factory=dict)
    multipliers: tuple[Tensor, Tensor] | None = None
    certificate: Any = None
    warm_start: Any = None

    @property
    def usable(self) -> Tensor:
        """Which plans may be executed, ``(*batch,)`` of bool."""
        return self.status <= int(Status.TIME_LIMIT)

    def controls_at(self, times: Tensor) -> Tensor:
        """The plan as a function of absolute time, within the control limits, its ends held.

        Args:
            times: absolute times ``(L,)`` [s]; the first state of the plan is at :attr:`time`. Rate limits and discrete controls
                hold at steps, so that such plans are held between them.

        Returns:
            Controls ``(*batch, L, m)``.

        Raises:
            ValueError: times is no tensor of one axis, or too coarse a number for times this large.
        """
        if not isinstance(times, Tensor) or times.ndim != 1:
            came = tuple(times.shape) if isinstance(times, Tensor) else type(times).__name__
            raise ValueError(f"times must be a tensor of shape (L,) [s], got {came}")
        steps = KnotGrid(self.time, self.problem.dynamics.dt, self.us.shape[-2]).held(times).to(self.us.device)
        problem = self.problem
        if self.spline is None or problem.rate_limits is not None or problem.control_values is not None:
            return self.us.index_select(-2, steps)
        lower, upper = (
            limit.expand(self.us.shape).index_select(-2, steps) for limit in self.problem.limits_like(self.us)
        )
        return self.spline(times).clamp(lower, upper)

    def controller(self, *, temperature: float = 1.0) -> "LinearGaussianController":
        """A time-varying linear-Gaussian controller about the plan.

        Uses the planner's gains; without them, one LQR backward pass about the plan gives them.

        Args:
            temperature: scale of the covariance ``temperature * Quu^-1``.
        """
        from planners.controllers import linear_gaussian_controller

        return linear_gaussian_controller(self, temperature=temperature)

    @classmethod
    def guess(cls, problem: Problem, xs: Tensor, us: Tensor, *, t0: int = 0, time: float = 0.0) -> "Solution":
        """States and controls that no planner found, for ``init=``.

        Args:
            problem: what they are a guess for.
            xs: states ``(*batch, T+1, n)``; those that do not obey the dynamics are for multiple shooting.
            us: controls ``(*batch, T, m)``.
            t0: step of the first control.
            time: absolute time of the first state [s].
        """
        batch = us.shape[:-2]
        unknown = us.new_full(batch, torch.inf)
        status = torch.full(batch, int(Status.ITERATION_LIMIT), device=us.device)
        return cls(problem, xs, us, unknown, status, t0=t0, time=time)

    def detach(self) -> "Solution":
        """The solution without the graph of its derivatives: a warm start to keep that does not keep them alive."""
        return replace(self, **{f.name: _detached(getattr(self, f.name)) for f in fields(self) if f.name != "problem"})

    def summary(self) -> str:
        """Counts of each status with its remedy, one line each."""
        codes, counts = self.status.flatten().unique(return_counts=True)
        lines = [
            f"{Status(int(code)).name.lower()} x {int(count)}: {Status(int(code)).remedy}"
            for code, count in zip(codes, counts, strict=True)
        ]
        infeasible = self.status == int(Status.INFEASIBLE)
        if bool(infeasible.any()):
            hard = {constraint.name for constraint in self.problem.all_constraints if constraint.soft is None}
            lines += [
                f"constraint {name!r} is violated by up to {float(violation[infeasible].max()):.3g}"
                for name, violation in self.violations.items()
                if name in hard and bool((violation[infeasible] > 0).any())
            ]
        return "\n".join(lines)

    def __str__(self) -> str:
        batch, usable = tuple(self.cost.shape), self.cost.detach().double()[self.usable]
        cost = f"{float(usable.mean()):.6g}" if usable.numel() else "inf"
        if batch:
            cost += f" (mean of {usable.numel()} usable)"
        horizon = "infinite horizon" if self.problem.horizon == math.inf else f"{self.us.shape[-2]} steps"
        codes = ", ".join(Status(int(code)).name.lower() for code in self.status.flatten().unique()) or "empty"
        stats = "".join(f", {k} {v:.3g}" if isinstance(v, float) else f", {k} {v}" for k, v in self.stats.items())
        return f"Solution(batch {batch}, {horizon}, cost {cost}, {codes}{stats})"

    __repr__ = __str__


def _detached(value: Any) -> Any:
    """A value with all tensors in it detached."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_detached(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _detached(getattr(value, f.name)) for f in fields(value) if f.init})
    return value


class SolveError(RuntimeError):
    """Some problems have no usable plan. ``solution`` holds everything that was found."""

    def __init__(self, solution: Solution):
        self.solution = solution
        bad = int((~solution.usable).sum())
        super().__init__(
            f"{bad} of {solution.cost.numel()} problems have no usable plan (solve(..., throw=False) returns them too):\n"
            f"{solution.summary()}"
        )


def finished(problem: Problem, xs: Tensor, us: Tensor, cost: Tensor, status: Tensor, **fields: Any) -> Solution:
    """A solution in which plans that are not finite are marked and cost infinity; states after termination do not count."""
    if (
        surely_finite(xs)
        and surely_finite(us)
        and surely_finite(cost)
        and bool((status <= int(Status.TIME_LIMIT)).all())
    ):
        return Solution(problem, xs, us, cost, status, **fields)
    finite = problem.finite_states(xs) & us.isfinite().all(-1).all(-1) & cost.isfinite()
    unfit = torch.full_like(status, int(Status.NO_FINITE_PLAN))
    status = torch.where(finite | (status > int(Status.TIME_LIMIT)), status, unfit)
    cost = torch.where(status <= int(Status.TIME_LIMIT), cost, torch.full_like(cost, float("inf")))
    us = torch.where(us.isfinite(), us, torch.zeros_like(us))
    return Solution(problem, xs, us, cost, status, **fields)


def shifted(sequence: Tensor, steps: int, length: int, *, dim: int = -2) -> Tensor:
    """A sequence from ``steps`` later on, ``length`` long along its time axis ``dim``, the ends held."""
    index = (torch.arange(length, device=sequence.device) + steps).clamp(0, sequence.shape[dim] - 1)
    return sequence.index_select(dim, index)
