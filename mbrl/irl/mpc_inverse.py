r"""Inverse optimal control through the planner: the weights whose plans are the demonstrations.

With the plan :math:`u^*(x_0; w)` of a cost :math:`\ell_0 + \sum_k w_k \phi_k` and demonstrated controls :math:`u_i`,

.. math:: \min_{\theta} \; \frac1N \sum_i \bigl\| S \, (u^*(x_{0, i}; e^\theta) - u_i) \bigr\|^2 ,

S the inverse sizes of the controls, by Levenberg-Marquardt steps on the logarithms of the weights (Nocedal and Wright 2006,
section 10.3). The Jacobian of plans comes from their optimality conditions, :class:`planners.Implicit`, exact with the second
derivatives of the dynamics and with active limits, as in Amos et al. (2018) and Jin et al. (2020), who descend by gradients
instead. All demonstrations, and all rows of the Jacobian, are one batch.

Each search for a plan begins with the demonstrated controls, so that it ends in the minimum that was demonstrated if that is one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from dynamics import Trajectory
from mbrl.irl.cost_learner import CostLearner, Demonstrated, IdentifiableWeights, LearnedCost, of_weights, weighted
from mbrl.tasks import Task
from mbrl.training.checking import check_numbers
from planners import DDP, Cost, Implicit, Planner, Problem, Solution, WeightedCost, solve
from planners.solve import Request

ROWS = 1024  # plans in one batch of the Jacobian


@dataclass(frozen=True, eq=False)
class MPCInverseReport:
    """What plans say beside the weights.

    Attributes:
        loss: mean square of the error of the plans' controls, beside the mean square of each demonstrated control.
        identifiable: which directions of the logarithms of weights show in plans, at the end; the visibility is the root mean
            square change of the controls, relative to their size, for a unit change.
        invalid_plans: number of plans that are no strict minimum at the end, which have no derivatives.
        prediction_error: largest error of the dynamics for one step of the demonstrations, beside the largest state.
    """

    loss: float
    identifiable: IdentifiableWeights
    invalid_plans: int
    prediction_error: float

    def __str__(self) -> str:
        k = len(self.identifiable.visibility)
        return (
            f"imitation loss {self.loss:.2g}, {k - self.identifiable.invisible} of {k} directions of the logarithms of weights "
            f"show in plans, {self.invalid_plans} plans have no derivatives"
        )


@dataclass(frozen=True)
class MPCInverse(CostLearner):
    """Weights of a :class:`planners.WeightedCost` by derivatives of plans.

    Attributes:
        planner: what plans; it has to offer ``Implicit`` derivatives, and decides which constraints there may be.
        curvature: second derivatives of the dynamics, see :class:`planners.Implicit`.
        max_iterations: steps at most.
        tolerance: loss at which demonstrations count as reproduced, and relative fall of the loss in a step at which a search
            that cannot reproduce them ends.
        max_change: largest change of the logarithm of a weight in a step.
        rank_tolerance: visibility of a direction, beside the largest, below which the report counts it as invisible.

    Raises:
        ValueError: a field is out of range.
    """

    planner: Planner = field(default_factory=lambda: DDP(tolerance=1e-8))
    curvature: Literal["exact", "finite-difference"] = "exact"
    max_iterations: int = 50
    tolerance: float = 1e-12
    max_change: float = 1.0
    rank_tolerance: float = 1e-6

    def __post_init__(self):
        check_numbers(self, counts=("max_iterations",), rates=("tolerance", "max_change", "rank_tolerance"))
        Implicit(curvature=self.curvature)  # raises

    def learn(self, problem: Problem | Task, cost: Cost, demonstrations: Sequence[Trajectory]) -> LearnedCost:
        """Learn; see :meth:`CostLearner.learn`.

        ``history`` has the loss at the start and after each step, and the ``report`` is an :class:`MPCInverseReport`.

        Raises:
            TypeError: also where the cost is not linear in weights.
            ValueError: also where weights are not positive.
        """
        start = weighted(cost, "MPCInverse")
        given = Demonstrated.of(
            problem,
            cost,
            demonstrations,
            accepted=self.planner.supports,
            learner=f"MPCInverse with {type(self.planner).__name__}",
            other="choose another planner=",
        )
        if not bool((start.weights > 0).all()):
            raise ValueError(f"MPCInverse learns logarithms: weights must be positive, got {start.weights.tolist()}")
        plans = _Plans(self, given, start)
        theta, converged, losses, J = _minimized(self, plans, start.weights.detach().double().log())
        identifiable = IdentifiableWeights.of(J / J.shape[0] ** 0.5, self.rank_tolerance)
        report = MPCInverseReport(losses[-1], identifiable, plans.invalid, given.prediction_error)
        return LearnedCost(of_weights(start, theta.exp()), converged, {"loss": losses}, report)


class _Plans:
    """Errors of plans as functions of logarithms of weights."""

    def __init__(self, settings: MPCInverse, given: Demonstrated, cost: WeightedCost):
        self.settings, self.given, self.cost = settings, given, cost
        size = given.us.square().mean((0, 1)).sqrt()
        self.size = torch.where(size > 0, size, torch.ones_like(size))
        self.gradient = Implicit(curvature=settings.curvature, invalid="zero", tolerance=1e-9)
        self.invalid = 0
        self.plan: Solution | None = None

    def errors(self, theta: Tensor) -> Tensor:
        """Differences of controls in their sizes, ``(N, T m)``; infinite where there is no plan."""
        given = self.given
        problem = replace(given.problem, cost=self.cost.with_weights(theta.exp()))
        first = Solution.guess(problem, given.xs, given.us)
        with torch.no_grad():
            plan = solve(
                problem, self.settings.planner, given.xs[:, 0], init=first, gradient=self.gradient, throw=False
            ).detach()
        self.plan, self.invalid = plan, int((~_certified(plan)).sum())
        errors = (plan.us - given.us) / self.size
        return errors.masked_fill(~plan.usable[:, None, None], math.inf).flatten(1)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Derivatives of the errors at the last plans, ``(N, T m, k)``: row r of each plan from its own copy of the problem."""
        plan, given = self.plan, self.given
        if plan is None:
            raise RuntimeError("errors come first")
        N, R = given.number, given.us[0].numel()
        index = torch.arange(N * R)
        parts = [self._rows(theta, plan, rows, R) for rows in index.split(ROWS)]
        return torch.cat(parts).view(N, R, -1)

    def _rows(self, theta: Tensor, plan: Solution, rows: Tensor, R: int) -> Tensor:
        which, entry = rows // R, rows % R
        each = theta.expand(len(rows), -1).clone().requires_grad_()
        problem = replace(self.given.problem, cost=self.cost.with_weights(each.exp()))
        multipliers = plan.multipliers
        if multipliers is not None:
            multipliers = multipliers[0][which], multipliers[1][which]
        plans = Solution(
            problem, plan.xs[which], plan.us[which], plan.cost[which], plan.status[which], multipliers=multipliers
        )
        again = self.settings.planner.differentiated(plans, plans.xs[:, 0], self.gradient, Request())
        errors = (again.us / self.size).flatten(1).gather(1, entry.unsqueeze(-1))
        (rows_of_jacobian,) = torch.autograd.grad(errors.sum(), each)
        return rows_of_jacobian


def _certified(plan: Solution) -> Tensor:
    """Which plans have valid derivatives, ``(N,)`` of bool."""
    return plan.usable if plan.certificate is None else plan.certificate.optimal


def _minimized(settings: MPCInverse, plans: _Plans, theta: Tensor) -> tuple[Tensor, bool, list[float], Tensor]:
    """Logarithms of weights, whether they are a minimum, losses, and the Jacobian there ``(rows, k)``."""
    r = plans.errors(theta)
    losses = [float(r.square().mean())]
    if not math.isfinite(losses[0]):
        raise ValueError(
            "there is no plan for some demonstration with the weights that the search begins with; look at "
            "solve(problem, planner, x0)"
        )
    J, mu, converged = plans.jacobian(theta).flatten(0, 1), 1e-3, False
    for _ in range(settings.max_iterations):
        A, b = J.mT @ J, J.mT @ r.flatten()
        size = float(A.diagonal().mean())
        if losses[-1] <= settings.tolerance or float(b.abs().max()) <= 1e-14 * max(size, 1e-300):
            converged = True
            break
        while mu < 1e8:
            step = -torch.linalg.solve(A + mu * size * torch.eye(len(b), dtype=b.dtype), b)
            step = step * (settings.max_change / step.abs().max()).clamp_max(1.0)
            tried = plans.errors(theta + step)
            loss = float(tried.square().mean())
            if loss < losses[-1]:
                break
            mu *= 5.0
        else:  # no step lowers the loss any further
            plans.errors(theta)
            converged = True
            break
        fall = 1.0 - loss / losses[-1]
        theta, r, mu = theta + step, tried, 0.1 * mu
        losses.append(loss)
        J = plans.jacobian(theta).flatten(0, 1)
        if fall < settings.tolerance:
            converged = True
            break
    return theta, converged or losses[-1] <= settings.tolerance, losses, J
