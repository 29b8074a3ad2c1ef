r"""What the later generations of guided policy search share: controllers and policy improve in turns.

1. Run the controllers (or the policy) on the plant.
2. Model it, from those samples or as it is known, and expand the problem about the way the controllers go in the model.
3. Linearize the policy there.
4. Improve the controllers, keeping them near the policy: what each generation does in its own way.
5. Fit the policy to the new controllers at the states that were seen.
"""

import abc
import functools
import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynamics import Dynamics
from mbrl.gps.base import GuidedLearner, GuidedPolicySearch
from mbrl.gps.linearized_policy import linearized
from mbrl.gps.rollouts import Choose, Rollouts, controller_actions, controller_state, policy_actions
from mbrl.gps.supervised import Targets, targets
from mbrl.training.algorithm import Assignment
from mbrl.training.checking import check_numbers
from planners import LinearGaussianController, LinearQuadratic, expand_about


@dataclass(frozen=True)
class AlternatingGPS(GuidedPolicySearch, abc.ABC):
    """What the later generations are told.

    Attributes:
        on_policy: run the policy instead of the controllers.
        remembered: iterations whose states the policy is fitted at, with what the controllers of then wanted there.

    Raises:
        ValueError: a number is out of its range.
    """

    shows: ClassVar[str] = (
        "the cost of an episode of the controllers, the loss of the policy's fit to them and how far they are from it"
    )

    _: KW_ONLY
    on_policy: bool = False
    remembered: int = 1

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, counts=("remembered",))

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
    """

    xs: Tensor
    us: Tensor
    lq: LinearQuadratic
    noise: Tensor | None
    cost: Tensor
    policy: LinearGaussianController
    rollouts: Rollouts


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
            with self.timed("plan"):
                situation = self._situation(rollouts)
                self.controllers, weights, improvement = self.improved(situation)
            loss = self.fit(rollouts, weights, keep=True)
            metrics = {**improvement, **metrics}
        return {"rollout/cost": self.mean_cost(rollouts), "train/loss": loss, **metrics}

    def beginning(self) -> tuple[LinearGaussianController, bool]:
        """The first controllers, and whether they are good already, because they were planned."""
        first = self.settings.teacher.first_controller(self.task, self.x0)
        return (self.taught(), True) if first is None else (first, False)

    def noticed(self, rollouts: Rollouts) -> dict[str, float]:
        """What else is learned from rollouts before they improve the controllers, such as the cost; here nothing."""
        return {}

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
        )

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
