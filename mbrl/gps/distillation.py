"""Distillation: a policy that does what a trajectory optimizer does from single states.

The teacher plans from initial states, its controllers run with the noise they explore with, and the policy is fitted to them
where they went. Each iteration takes new initial states and keeps what it learned from the old ones; plans from them begin with
the way that the policy goes in the teacher's model.
"""

import functools
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from mbrl.gps.base import GuidedLearner, GuidedPolicySearch
from mbrl.gps.rollouts import controller_actions
from mbrl.gps.supervised import SupervisedStep, Targets, targets
from mbrl.training.algorithm import Assignment
from mbrl.training.checking import check_numbers


@dataclass(frozen=True)
class Distillation(GuidedPolicySearch):
    """Guided policy search without guidance: the teacher does not know what the policy does.

    Attributes:
        iterations: batches of initial states.
        remembered: the latest iterations whose controllers the policy is fitted to; None for all. A teacher that learns the plant
            on the way is better in the end than at first.

    Raises:
        ValueError: a number is out of its range.
    """

    shows: ClassVar[str] = "the cost of an episode of the teacher and the loss of the policy's fit to it"

    _: KW_ONLY
    supervised: SupervisedStep = field(default_factory=lambda: SupervisedStep(steps=3000))
    iterations: int = 3
    remembered: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.remembered is not None:
            check_numbers(self, counts=("remembered",))

    def learner(self, assignment: Assignment) -> "DistillationLearner":
        """A learner at its first step."""
        return DistillationLearner(self, assignment)


class DistillationLearner(GuidedLearner):
    """The state of distillation."""

    settings: Distillation

    def __init__(self, algorithm: Distillation, assignment: Assignment):
        super().__init__(algorithm, assignment)
        self._targets: list[Targets] = []

    def advance(self) -> dict[str, float]:
        """Plans from new initial states, samples of them, and the policy that is nearest to all of them."""
        if self.iterations:
            self.x0 = self.task.initial_state(self.settings.conditions, self.generator)
            self.plans = None
        controller = self.taught(ahead=self.policy if self.iterations else None)
        rollouts = self.rolled_out(controller_actions(controller, self.space, self.generator))
        self._targets.append(targets(self.task, self.space, controller, rollouts))
        if self.settings.remembered is not None:
            self._targets = self._targets[-self.settings.remembered :]
        wanted = functools.reduce(Targets.joined, self._targets)
        with self.timed("fit"):
            loss = self.settings.supervised.fit(self.policy, wanted, self.generator, self.processes)
        return {"rollout/cost": self.mean_cost(rollouts), "train/loss": loss}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {**super().state_dict(), "x0": self.x0, "targets": [one.state_dict() for one in self._targets]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        self.x0 = state["x0"]
        self._targets = [Targets(**one) for one in state["targets"]]
