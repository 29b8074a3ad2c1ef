r"""What the later generations of guided policy search share: controllers and policy improve in turns.

1. Run the controllers (or the policy) on the plant.
2. Model it, from those samples or as it is known, and expand the problem about the way the controllers go in the model.
3. Linearize the policy there.
4. Improve the controllers, keeping them near the policy: what each generation does in its own way.
5. Fit the policy to the new controllers at the states that were seen.
"""

import abc
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dynamics import Dynamics
from mbrl.gps.base import GuidedLearner, GuidedPolicySearch
from mbrl.gps.linearized_policy import linearized
from mbrl.gps.rollouts import Rollouts, controller_actions
from mbrl.gps.supervised import SupervisedStep, Targets, targets
from mbrl.training.algorithm import Assignment
from planners import LinearGaussianController
from planners.controllers import expand_about
from planners.riccati import LinearQuadratic


@dataclass(frozen=True)
class AlternatingGPS(GuidedPolicySearch, abc.ABC):
    """What the later generations are told.

    Attributes:
        supervised: how the policy is fitted to the controllers.
        on_policy: run the policy instead of the controllers.
        remembered: iterations whose states the policy is fitted at, with what the controllers of then wanted there.

    Raises:
        ValueError: a number is out of its range.
    """

    _: KW_ONLY
    supervised: SupervisedStep = field(default_factory=SupervisedStep)
    on_policy: bool = False
    remembered: int = 1

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
        self._targets: list[Targets] = []

    @abc.abstractmethod
    def improved(self, situation: Situation) -> tuple[LinearGaussianController, Tensor | None, dict[str, float]]:
        """Better controllers, weights ``(C, T)`` of the policy's fit to them, and how it went."""

    def advance(self) -> dict[str, float]:
        """First what the teacher shows; from then on controllers and policy in turns."""
        if self.controllers is None:
            first = self.settings.teacher.first_controller(self.task, self.x0)
            self.controllers = self.taught() if first is None else first
            rollouts = self._run()
            loss = self._fit(rollouts, None)
            return {"rollout/cost": self.mean_cost(rollouts), "train/loss": loss}
        rollouts = self._run()
        situation = self._situation(rollouts)
        self.controllers, weights, metrics = self.improved(situation)
        loss = self._fit(rollouts, weights)
        return {"rollout/cost": self.mean_cost(rollouts), "train/loss": loss, **metrics}

    def _run(self) -> Rollouts:
        if self.controllers is None:
            raise RuntimeError("there are no controllers yet")
        if self.settings.on_policy and self.iterations:
            return self.policy_rollouts()
        return self.rolled_out(controller_actions(self.controllers, self.space, self.generator))

    def _situation(self, rollouts: Rollouts) -> Situation:
        """The expansion about the way that the controllers go."""
        if self.controllers is None:
            raise RuntimeError("there are no controllers yet")
        model = self.settings.teacher.model(self.task, self.plant, self.seen, rollouts, self.generator)
        xs, us = self.way(self.controllers, model)
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
    def way(self, controllers: LinearGaussianController, model: Dynamics) -> tuple[Tensor, Tensor]:
        """States ``(C, T+1, n)`` and controls ``(C, T, m)`` of controllers in a model, without noise, within the limits."""
        x, xs, us = self.x0, [self.x0], []
        memory = controllers.init()
        for t in range(self.task.episode_steps):
            u, memory = controllers.act(x, memory)
            u = self.task.admissible(u)
            x = model(x, u, t)
            xs.append(x)
            us.append(u)
        return torch.stack(xs, -2), torch.stack(us, -2)

    def _fit(self, rollouts: Rollouts, weights: Tensor | None) -> float:
        """Fit the policy to the controllers at the states of rollouts, and of those that are remembered."""
        if self.controllers is None:
            raise RuntimeError("there are no controllers yet")
        found = targets(self.task, self.space, self.controllers, rollouts, weights)
        self._targets = [*self._targets, found][-self.settings.remembered :]
        wanted = self._targets[0]
        for more in self._targets[1:]:
            wanted = wanted.joined(more)
        return self.settings.supervised.fit(self.policy, wanted, self.generator, self.processes)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        c = self.controllers
        return {
            **super().state_dict(),
            "controllers": None if c is None else {"xs": c.xs, "us": c.us, "K": c.K, "covariance": c.covariance},
            "targets": [one.state_dict() for one in self._targets],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        if state["controllers"] is not None:
            self.controllers = LinearGaussianController(self.task.dynamics, **state["controllers"])
        self._targets = [Targets(**one) for one in state["targets"]]
