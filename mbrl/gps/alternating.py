r"""What the later generations of guided policy search share: controllers and policy improve in turns.

1. Run the controllers (or the policy) on the plant.
2. Model it, from those samples or as it is known, and expand the problem about the way the controllers go in the model.
3. Linearize the policy there.
4. Improve the controllers, keeping them near the policy: what each generation does in its own way.
5. Fit the policy to the new controllers at the states that were seen.

An expansion promises what it likes far from where it was made, and a policy that is near controllers where those went need not go
there. So what is new in 4 and 5 is tried in the model first: a step of the controllers is shortened until it costs no more than
what it set out from, and a policy that costs more than the one before it is not taken.
"""

import abc
import copy
import functools
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynamics import Dynamics
from mbrl.gps.base import GuidedLearner, GuidedPolicySearch
from mbrl.gps.linearized_policy import linearized
from mbrl.gps.rollouts import Choose, Rollouts, controller_actions, controller_state, policy_actions, roll_out
from mbrl.gps.supervised import Targets, targets
from mbrl.training.algorithm import Assignment
from mbrl.training.checking import check_numbers
from planners import (
    KLStep,
    LinearGaussianController,
    LinearQuadratic,
    StateMarginals,
    expand_about,
    expected_kl,
    kl_constrained_step,
)

SHRINK = 0.25
"""Factor of the bound on a step that costs too much in the model: half a step."""
TRIALS = 7
"""Of bounds; controllers for which none is small enough stay what they set out from."""
EQUAL = 1e-6
"""Share of a cost by which two are told apart: steps of what has converged cost the same but for that."""

Objective = Callable[[LinearGaussianController, Rollouts], Tensor]
"""What a controller is to minimize, for each of its rollouts, ``(S, C)``."""


def total_costs(controller: LinearGaussianController, rollouts: Rollouts) -> Tensor:
    """The cost of each rollout, whatever the controller."""
    return rollouts.total_costs


def kl_along(new: LinearGaussianController, old: LinearGaussianController, states: Tensor) -> Tensor:
    """Divergence KL(new || old) of the controls at states ``(S, C, T+1, n)``: ``(S, C, T)`` [nat]."""
    d = new.K.shape[-1]
    still = StateMarginals(states, states.new_zeros(*states.shape[:-1], d), states.new_zeros(*states.shape[:-1], d, d))
    return expected_kl(new, old, still)


@dataclass(frozen=True)
class AlternatingGPS(GuidedPolicySearch, abc.ABC):
    """What the later generations are told.

    Attributes:
        on_policy: run the policy instead of the controllers.
        remembered: iterations whose states the policy is fitted at, with what the controllers of then wanted there.
        checks: rollouts in the model, from each initial state, in which new controllers and a new policy must not cost more than
            those before them; 0 takes all that is new. For :class:`mbrl.ModelTeacher` they are steps of the plant, and
            :class:`mbrl.LocalTeacher` is not asked: its model knows nothing beyond the bound.

    Raises:
        ValueError: a number is out of its range.
    """

    shows: ClassVar[str] = (
        "the cost of an episode of the controllers, the loss of the policy's fit to them and how far they are from it"
    )

    _: KW_ONLY
    on_policy: bool = False
    remembered: int = 1
    checks: int = 1

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, counts=("remembered",), tallies=("checks",))

    @abc.abstractmethod
    def learner(self, assignment: Assignment) -> "AlternatingLearner":
        """A learner at its first step."""


@dataclass(frozen=True, eq=False)
class Situation:
    """Where the controllers of C conditions are to be improved.

    Attributes:
        xs: the way they go in the model, ``(C, T+1, n)``.
        us: their controls ``(C, T, m)``.
        lq: dynamics and costs of displacements from it.
        noise: covariance of the model, ``(C, T, d, d)``; None if it has none.
        cost: of the way itself, ``(C,)``.
        policy: linearized about it.
        rollouts: samples of this iteration.
        model: of the plant, whose expansion ``lq`` is.
    """

    xs: Tensor
    us: Tensor
    lq: LinearQuadratic
    noise: Tensor | None
    cost: Tensor
    policy: LinearGaussianController
    rollouts: Rollouts
    model: Dynamics


class AlternatingLearner(GuidedLearner, abc.ABC):
    """The state that the later generations have.

    Attributes:
        controllers: of the C initial states.
    """

    settings: AlternatingGPS

    def __init__(self, algorithm: AlternatingGPS, assignment: Assignment):
        super().__init__(algorithm, assignment)
        self.controllers: LinearGaussianController | None = None
        self.shift: Tensor | None = None  # of what the policy is fitted to, from the controllers' means
        self._targets: list[Targets] = []

    @abc.abstractmethod
    def improved(self, situation: Situation) -> tuple[LinearGaussianController, Tensor | None, dict[str, float]]:
        """Better controllers, weights ``(C, T)`` of the policy's fit to them, and how it went."""

    @property
    def previous(self) -> LinearGaussianController:
        """The controllers before an iteration."""
        if self.controllers is None:
            raise RuntimeError("there are no controllers yet; call iterate() first")
        return self.controllers

    @property
    def least_variance(self) -> float:
        """Least variance of controllers in any direction, so that they can always learn [squared unit of the controls]."""
        _, half = self.space.scale(self.x0)
        return float(self.settings.teacher.min_std * half.min()) ** 2

    def advance(self) -> dict[str, float]:
        """Controllers and policy in turns; the first time the policy is fitted to what the teacher shows.

        If that was planned, it is good already. If not, the same rollouts tell how to improve it.
        """
        first_time, planned = self.controllers is None, False
        if self.controllers is None:
            self.controllers, planned = self.beginning()
        rollouts = self._run()
        metrics = self.noticed(rollouts)
        loss = self.fit(rollouts, None, keep=planned) if first_time else math.nan
        if not planned:
            loss, improvement = self._improve(rollouts)
            metrics = {**improvement, **metrics}
        return {"rollout/cost": self.mean_cost(rollouts), "train/loss": loss, **metrics}

    def _improve(self, rollouts: Rollouts) -> tuple[float, dict[str, float]]:
        """Better controllers and the policy's fit to them, where they are better; the loss of the fit, and how it went."""
        with self.timed("plan"):
            situation = self._situation(rollouts)
        worth = self._policy_worth(situation) if self._checking else None
        cost, before = worth() if worth else torch.inf, copy.deepcopy(self.policy.state_dict())
        with self.timed("plan"):
            self.controllers, weights, metrics = self.improved(situation)
        loss = self.fit(rollouts, weights, keep=True)
        if worth:
            taken = worth() <= cost
            metrics["train/taken"] = float(taken)
            if not taken:
                self.policy.load_state_dict(before)
        return loss, metrics

    def beginning(self) -> tuple[LinearGaussianController, bool]:
        """The first controllers, and whether they are good already, because they were planned."""
        first = self.settings.teacher.first_controller(self.task, self.x0)
        return (self.taught(), True) if first is None else (first, False)

    def noticed(self, rollouts: Rollouts) -> dict[str, float]:
        """What else is learned from rollouts before they improve the controllers, such as the cost; here nothing."""
        return {}

    @property
    def _checking(self) -> bool:
        return bool(self.settings.checks) and self.settings.teacher.knows_all

    @property
    def _policy_runs(self) -> bool:
        return self.settings.on_policy and self.iterations > 0

    def _run(self) -> Rollouts:
        if self._policy_runs:
            return self.policy_rollouts()
        return self.rolled_out(controller_actions(self.previous, self.space, self.generator))

    def _situation(self, rollouts: Rollouts) -> Situation:
        """The expansion about the way that goes what ran: models that were fitted to its rollouts hold there."""
        model = self.settings.teacher.model(self.evidence(rollouts))
        if self._policy_runs:
            choose = policy_actions(self.policy, self.task, deterministic=True)
        else:
            choose = controller_actions(self.previous, self.space, self.generator, deterministic=True)
        xs, us = self.way(choose, model)
        problem = replace(self.task.problem(model, self.task.episode_steps), control_limits=None)
        noise = getattr(model, "covariance", None)
        return Situation(
            xs,
            us,
            expand_about(problem, xs, us),
            noise,
            problem.trajectory_cost(xs, us),
            linearized(self.policy, self.task, self.space, self.task.dynamics, xs),
            rollouts,
            model,
        )

    def checked(
        self,
        situation: Situation,
        step: Callable[[Tensor], KLStep],
        bound: Tensor,
        start: LinearGaussianController,
        objective: Objective = total_costs,
    ) -> tuple[KLStep, Tensor]:
        """The longest step of shrinking bounds that is no worse in the model than what it set out from.

        Args:
            situation: where.
            step: of bounds ``(C,)`` on its divergence.
            bound: of the longest step, ``(C,)`` [nat].
            start: what the step sets out from.
            objective: what it minimizes.

        Returns:
            The step, and the bounds that it has.
        """
        if not self._checking:
            return step(bound), bound
        tried = self._trials(situation.model, self.x0)

        def worth(controller: LinearGaussianController) -> Tensor:
            return tried(
                lambda noise: controller_actions(controller, self.space, noise),
                functools.partial(objective, controller),
            )

        limit = worth(start)
        limit = limit + EQUAL * limit.abs()
        for _ in range(TRIALS):
            found = step(bound)
            good = worth(found.controller) <= limit
            if bool(good.all()):
                return found, bound
            bound = torch.where(good, bound, SHRINK * bound)
        bound = torch.where(good, bound, 0.0)
        return step(bound), bound

    def step_from(
        self,
        before: LinearGaussianController,
        situation: Situation,
        lq: LinearQuadratic,
        entropy_weight: float | Tensor,
        kl_limit: float,
        objective: Objective,
    ) -> KLStep:
        """The checked step of least cost and most entropy within a divergence from controllers, about which the model holds.

        Args:
            before: the controllers.
            situation: where.
            lq: the problem.
            entropy_weight: what a nat of entropy is worth, a number or ``(C, T)`` [cost per nat].
            kl_limit: bound on the divergence per step of the plan, on average [nat].
            objective: what the step minimizes, in rollouts.
        """

        def within(bound: Tensor) -> KLStep:
            return kl_constrained_step(
                lq,
                before,
                kl_limit=bound,
                about=(situation.xs, situation.us),
                noise=situation.noise,
                entropy_weight=entropy_weight,
                covariance_floor=self.least_variance,
            )

        bound = situation.cost.new_full(situation.cost.shape, kl_limit * self.task.episode_steps)
        return self.checked(situation, within, bound, before, objective)[0]

    def _trials(self, model: Dynamics, x0: Tensor) -> Callable[..., Tensor]:
        """Mean objectives ``(C,)`` of what chooses actions, in rollouts in a model, all with the same noise."""
        seed = int(torch.randint(2**31, (), generator=self.generator))

        def tried(choose: Callable[[torch.Generator], Choose], objective: Callable[[Rollouts], Tensor]) -> Tensor:
            noises = (torch.Generator().manual_seed(seed + i) for i in range(self.settings.checks))
            found = [roll_out(self.task, choose(noise), x0, plant=model)[None] for noise in noises]
            rollouts = functools.reduce(Rollouts.joined, found)
            mean = objective(rollouts).mean(0)
            return torch.where(rollouts.valid.all(0) & mean.isfinite(), mean, torch.inf)

        return tried

    def _policy_worth(self, situation: Situation) -> Callable[[], float]:
        """Says what the policy costs in the model as it is, from initial states that it has not learned from."""
        tried = self._trials(situation.model, self.task.initial_state(len(self.x0), self.generator))

        def worth() -> float:
            with self.timed("plan"):
                costs = tried(lambda noise: policy_actions(self.policy, self.task, noise), lambda r: r.total_costs)
            return float(self.processes.mean(costs.mean()))

        return worth

    @torch.no_grad()
    def way(self, choose: Choose, model: Dynamics) -> tuple[Tensor, Tensor]:
        """States ``(C, T+1, n)`` and controls ``(C, T, m)`` of what chooses actions in a model, within the limits."""
        x, xs, us = self.x0, [self.x0], []
        for t in range(self.task.episode_steps):
            u = self.space.controls(choose(x, t)).to(x)
            x = model(x, u, t)
            xs.append(x)
            us.append(u)
        return torch.stack(xs, -2), torch.stack(us, -2)

    def fit(self, rollouts: Rollouts, weights: Tensor | None, *, keep: bool = False) -> float:
        """Fit the policy to the controllers at the states of rollouts, and of those that are remembered.

        Args:
            rollouts: where.
            weights: of each step, ``(C, T)``; 1 by default.
            keep: remember these for later iterations.
        """
        controllers = self.previous
        if self.shift is not None:
            controllers = replace(controllers, us=controllers.us + self.shift)
        found = [*self._targets, targets(self.task, self.space, controllers, rollouts, weights)]
        found = found[-self.settings.remembered :]
        if keep:
            self._targets = found
        wanted = functools.reduce(Targets.joined, found)
        with self.timed("fit"):
            return self.settings.supervised.fit(self.policy, wanted, self.generator, self.processes)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {
            **super().state_dict(),
            "controllers": None if self.controllers is None else controller_state(self.controllers),
            "shift": self.shift,
            "targets": [one.state_dict() for one in self._targets],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        if state["controllers"] is not None:
            self.controllers = LinearGaussianController(self.task.dynamics, **state["controllers"])
        self.shift = state["shift"]
        self._targets = [Targets(**one) for one in state["targets"]]
