r"""Inverse optimal control through the planner: the weights whose plans are the demonstrations.

With the plan :math:`u^*(x_0; w)` of a cost :math:`\ell_0 + \sum_k w_k \phi_k` and demonstrated controls :math:`u_i`,

.. math:: \min_{\theta} \; \frac1N \sum_i \bigl\| S \, (u^*(x_{0, i}; e^\theta) - u_i) \bigr\|^2 ,

S the inverse sizes of the controls, by Levenberg-Marquardt steps on the logarithms of the weights (Nocedal and Wright 2006,
section 10.3). The Jacobian of plans comes from their optimality conditions, :class:`planners.Implicit`, exact with the second
derivatives of the dynamics and with active limits, as in Amos et al. (2018) and Jin et al. (2020), who descend by gradients
instead. With M the matrix of the conditions of a plan z, one factorization gives the answer to each weight:

.. math:: \frac{\partial z}{\partial w_k} = - M^{-1} \, \nabla_z \Phi_k , \qquad \Phi_k = \sum_t \gamma^t \phi_k .

All demonstrations, and all weights, are one batch.

Each search for a plan begins with the demonstrated controls, so that it ends in the minimum that was demonstrated if that is one.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from dynamics import Trajectory
from mbrl.irl.cost_learner import (
    CostLearner,
    Demonstrated,
    IdentifiableWeights,
    LearnedCost,
    in_receding_horizon,
    of_weights,
    weighted,
)
from mbrl.irl.kkt_inverse import ACCEPTED as KKT_ACCEPTED
from mbrl.irl.kkt_inverse import KKTInverse, feature_gradients
from mbrl.irl.searching import Search, searched
from mbrl.tasks import Task
from mbrl.tasks.task_cost import TaskCost
from mbrl.training.checking import check_numbers
from planners import DDP, Cost, Implicit, Planner, Problem, Solution, WeightedCost, solve
from planners.implicit import Refined, refined
from planners.kkt import UNKNOWN_FEATURES

SMALLEST = 1e-4  # weight to begin with, in equal shares
LEAST_DAMPING = 1e-10  # beside the mean diagonal of J'J, which may have directions that do not show


@dataclass(frozen=True, eq=False)
class MPCInverseReport:
    """What plans say beside the weights.

    Attributes:
        loss: mean square of the error of the plans' controls, beside the mean square of each demonstrated control.
        identifiable: which directions of the logarithms of weights show in plans, at the end; the visibility is the root mean
            square change of the controls, relative to their size, for a unit change.
        invalid_plans: number of plans that have no derivatives at the end: those that are no strict minimum, and with
            ``curvature="gauss-newton"`` those whose model of the cost is not convex.
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
        planner: what plans, and decides which constraints there may be; Newton steps refine its plans.
        curvature: second derivatives of the dynamics, see :class:`planners.Implicit`. ``"gauss-newton"`` has none, and takes the
            derivatives of plans that are not converged for good ones: for plants such as legged robots, whose contacts leave
            nothing better. The Jacobian is then wrong by as much as plans and demonstrations differ, but steps are taken only
            where the loss falls, and where none is found the search has ended without having converged.
        imitated: controls of each plan, from its first, that are compared with the demonstration's; all by default. In receding
            horizon a demonstrator may do something else than the end of a plan says, and still the same at first.
        start: of a training: ``"stationary"``, the weights of :class:`mbrl.KKTInverse` where it takes account of the task,
            because a search from elsewhere may end in another minimum, or ``"equal"``, by which all terms cost the same: also
            where no weight shows in plans of the others.
        max_iterations: steps at most.
        tolerance: loss at which demonstrations count as reproduced, and relative fall of the loss in a step at which a search
            that cannot reproduce them ends.
        max_change: largest change of the logarithm of a weight in a step.
        rank_tolerance: visibility of a direction, beside the largest, below which the report counts it as invisible.

    Raises:
        ValueError: a field is out of range.
    """

    word: ClassVar[str] = "mpc-irl"
    shows: ClassVar[str] = (
        "the imitation loss, the mean square of the errors of plans beside that of demonstrated controls"
    )

    _: KW_ONLY
    planner: Planner = field(default_factory=lambda: DDP(tolerance=1e-8))
    curvature: Literal["exact", "finite-difference", "gauss-newton"] = "exact"
    imitated: int | None = None
    start: Literal["stationary", "equal"] = "stationary"
    max_iterations: int = 50
    tolerance: float = 1e-12
    max_change: float = 1.0
    rank_tolerance: float = 1e-6

    def __post_init__(self):
        super().__post_init__()
        counts = ("max_iterations",) if self.imitated is None else ("max_iterations", "imitated")
        check_numbers(self, counts=counts, rates=("tolerance", "max_change", "rank_tolerance"))
        Implicit(curvature=self.curvature)  # raises
        if self.start not in ("stationary", "equal"):
            raise ValueError(f"start must be 'stationary' or 'equal', got {self.start!r}")

    def first_guess(self, task: Task, cost: TaskCost, demonstrations: Sequence[Trajectory]) -> TaskCost:
        """Weights for which the demonstrations are stationary, none much smaller than its equal share."""
        if self.start == "equal" or task.problem().features() - KKT_ACCEPTED:
            return cost
        found = KKTInverse(horizon=self.horizon, stride=self.stride).learn(task, cost, demonstrations).weights
        equal = cost.weights.detach()
        guess = TaskCost(task, torch.maximum(found, SMALLEST * equal), terms=cost.terms)  # type: ignore[type-var]
        # plans at their limits everywhere do not change with any weight, and lead nowhere
        return guess if bool(self.search(task, guess, demonstrations).jacobian.any()) else cost

    @property
    def acting(self) -> Planner:
        """The planner, in receding horizon with few iterations, because each plan begins with the last one."""
        return in_receding_horizon(self.planner)

    @property
    def ends_after(self) -> int | None:
        """The weights to begin with, and steps at most."""
        return self.max_iterations + 1

    def learn(self, problem: Problem | Task, cost: Cost, demonstrations: Sequence[Trajectory]) -> LearnedCost:
        """Learn; see :meth:`CostLearner.learn`.

        ``history`` has the loss at the start and after each step, and the ``report`` is an :class:`MPCInverseReport`.

        Raises:
            TypeError: also where the cost is not linear in weights.
            ValueError: also where weights are not positive.
        """
        return searched(self.search(problem, cost, demonstrations))

    def search(
        self, problem: Problem | Task, cost: Cost, demonstrations: Sequence[Trajectory], *, seed: int = 0
    ) -> "MPCInverseSearch":
        """A search at its start; its first iteration is the loss of the weights to begin with, and nothing is drawn."""
        start = weighted(cost, "MPCInverse")
        given = Demonstrated.of(
            problem,
            cost,
            demonstrations,
            accepted=self.planner.supports - UNKNOWN_FEATURES,
            learner=f"MPCInverse with {type(self.planner).__name__}",
            other="choose another planner=",
            pieces=(self.horizon, self.stride),
        )
        Implicit(curvature=self.curvature).check(given.problem)
        if self.imitated is not None and self.imitated > given.us.shape[-2]:
            raise ValueError(
                f"plans have {given.us.shape[-2]} steps, of which imitated={self.imitated} cannot be compared"
            )
        if not bool((start.weights > 0).all()):
            raise ValueError(f"MPCInverse learns logarithms: weights must be positive, got {start.weights.tolist()}")
        return MPCInverseSearch(self, given, start)


class MPCInverseSearch(Search[LearnedCost]):
    """The state of Levenberg-Marquardt steps.

    Attributes:
        theta: logarithms of the weights ``(k,)``.
    """

    def __init__(self, settings: MPCInverse, given: Demonstrated, start: WeightedCost):
        super().__init__()
        self.settings, self.given, self.start = settings, given, start
        self.plans = _Plans(settings, given, start)
        self.theta, self.mu, self.converged = start.weights.detach().double().log(), 1e-3, False
        self.history["loss"] = []
        self._errors: Tensor | None = None
        self._jacobian: Tensor | None = None

    @property
    def errors(self) -> Tensor:
        """Errors of the plans of the present weights ``(N, K m)``, of the K steps that are imitated."""
        if self._errors is None:
            self._errors = self.plans.errors(self.theta)
        return self._errors

    @property
    def jacobian(self) -> Tensor:
        """Their derivatives ``(rows, k)``."""
        if self._jacobian is None:
            self._jacobian = self.plans.jacobian(self.theta).flatten(0, 1)
        return self._jacobian

    def advance(self) -> None:
        """Take a step that lowers the loss; at first, look at it."""
        losses, tolerance = self.history["loss"], self.settings.tolerance
        if not losses:
            losses.append(float(self.errors.square().mean()))
            if not math.isfinite(losses[0]):
                raise ValueError(
                    "there is no plan for some demonstration with the weights that the search begins with; look at "
                    "solve(problem, planner, x0)"
                )
        elif self._step():
            if 1.0 - losses[-1] / losses[-2] < tolerance:
                self.finished = self.converged = True
        else:
            # along approximate derivatives the loss may not fall although it is at no minimum
            self.finished, self.converged = True, not self.plans.gauss_newton
        self.iterations += 1
        if losses[-1] <= tolerance:
            self.finished = self.converged = True
        elif self._is_flat():
            self.finished = True
            # without the derivatives of a single plan it only looks flat
            self.converged = bool(self.jacobian.any()) or self.plans.invalid(self.theta) < self.given.number
        if self.iterations > self.settings.max_iterations:
            self.finished = True

    def _is_flat(self) -> bool:
        J, r = self.jacobian, self.errors
        size = float(J.square().sum(0).mean())
        return float((J.mT @ r.flatten()).abs().max()) <= 1e-14 * max(size, 1e-300)

    def _step(self) -> bool:
        """Whether a step lowers the loss; it is taken then."""
        J, r, losses = self.jacobian, self.errors, self.history["loss"]
        A, b = J.mT @ J, J.mT @ r.flatten()
        size = float(A.diagonal().mean())
        while self.mu < 1e8:
            step = -torch.linalg.solve(A + self.mu * size * torch.eye(len(b), dtype=b.dtype), b)
            if not float(step.abs().max()) <= self.settings.max_change:
                self.mu *= 2.0  # a shorter step as a whole would hardly move what shows, for the sake of what does not
                continue
            tried = self.plans.errors(self.theta + step)
            loss = float(tried.square().mean())
            if loss < losses[-1]:
                self.theta, self.mu = self.theta + step, max(0.1 * self.mu, LEAST_DAMPING)
                self._errors, self._jacobian = tried, None
                losses.append(loss)
                return True
            self.mu *= 5.0
        return False

    def learned(self) -> LearnedCost:
        """What there is now."""
        losses = self.history["loss"]
        J = self.jacobian
        identifiable = IdentifiableWeights.of(J / J.shape[0] ** 0.5, self.settings.rank_tolerance)
        loss = losses[-1] if losses else float(self.errors.square().mean())
        report = MPCInverseReport(loss, identifiable, self.plans.invalid(self.theta), self.given.prediction_error)
        return LearnedCost(of_weights(self.start, self.theta.exp()), self.converged, self.history, report)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes; plans are made anew from the weights."""
        return {
            "theta": self.theta,
            "mu": self.mu,
            "losses": list(self.history["loss"]),
            "iterations": self.iterations,
            "finished": self.finished,
            "converged": self.converged,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self.theta, self.mu = state["theta"].clone(), state["mu"]
        self.history["loss"] = list(state["losses"])
        self.iterations, self.finished, self.converged = state["iterations"], state["finished"], state["converged"]
        self._errors = self._jacobian = None


class _Plans:
    """Errors of plans as functions of logarithms of weights."""

    def __init__(self, settings: MPCInverse, given: Demonstrated, cost: WeightedCost):
        self.settings, self.given, self.cost = settings, given, cost
        self.shown = given.us[:, : settings.imitated]
        size = given.us.square().mean((0, 1)).sqrt()
        self.size = torch.where(size > 0, size, torch.ones_like(size))
        self.how = Implicit(curvature=settings.curvature, tolerance=1e-9)
        self.gauss_newton = settings.curvature == "gauss-newton"
        self.theta: Tensor | None = None
        self.plans: Refined | None = None
        self.ready = False  # whether the factorization of plans is that of the Jacobian

    def of(self, theta: Tensor) -> Refined:
        """The plans of these logarithms of weights, and what they are differentiated by."""
        if self.plans is None or self.theta is None or not torch.equal(self.theta, theta):
            self.errors(theta)
        plans = cast(Refined, self.plans)
        if self.gauss_newton and not self.ready:
            # at plans that are not converged, gradients say nothing of limits
            c, us = plans.at.conditions, plans.point.us
            inside = (us > c.lower) & (us < c.upper)
            plans = replace(plans, factor=replace(plans.factor.system, free=inside).factorized())
            self.plans, self.ready = plans, True
        return plans

    @torch.no_grad()
    def errors(self, theta: Tensor) -> Tensor:
        """Differences of controls in their sizes, ``(N, K m)`` of K steps; infinite where there is no plan."""
        given = self.given
        problem = replace(given.problem, cost=self.cost.with_weights(theta.exp()))
        first = Solution.guess(problem, given.xs, given.us)
        plan = solve(problem, self.settings.planner, given.xs[:, 0], init=first, throw=False)
        self.theta, self.plans, self.ready = theta, refined(plan, self.how), False
        errors = (self.plans.point.us[:, : self.shown.shape[1]] - self.shown) / self.size
        return errors.masked_fill(~plan.usable[:, None, None], math.inf).flatten(1)

    @torch.no_grad()
    def valid(self, theta: Tensor) -> Tensor:
        """Which plans have derivatives, ``(N,)`` of bool."""
        plans = self.of(theta)
        return plans.factor.convex if self.gauss_newton else plans.certificate.optimal

    def invalid(self, theta: Tensor) -> int:
        """How many plans have none."""
        return int((~self.valid(theta)).sum())

    @torch.no_grad()
    def jacobian(self, theta: Tensor) -> Tensor:
        """Derivatives of the errors, ``(N, K m, k)``; zero for plans that have none."""
        plans, d = self.of(theta), self.given.problem.dynamics.tangent_dim
        of_stage, of_last = feature_gradients(self.given.problem, self.cost, plans.point.xs, plans.point.us)
        by_term, last = of_stage.movedim(-2, 0), of_last.movedim(-2, 0)  # (k, N, T, d+m), (k, N, d)
        gradient_x = torch.cat([by_term[..., :d], last.unsqueeze(-2)], dim=-2)
        response = plans.response(gradient_x, by_term[..., d:])[..., : self.shown.shape[1], :]
        per_weight = (response / self.size).flatten(2).movedim(0, -1)
        return torch.where(self.valid(theta)[:, None, None], per_weight * theta.exp(), 0.0)
