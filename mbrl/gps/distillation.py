"""Distillation: a policy that does what a trajectory optimizer does from single states.

The teacher plans from initial states, its controllers run with the noise they explore with, and the policy is fitted to them
where they went. Each iteration takes new initial states and keeps what it learned from the old ones; plans from them begin with
the way that the policy goes in the teacher's model.
"""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from mbrl.gps.base import GuidedLearner, GuidedPolicySearch
from mbrl.gps.rollouts import controller_actions
from mbrl.gps.supervised import SupervisedStep, Targets, targets
from mbrl.training.algorithm import Assignment


@dataclass(frozen=True)
class Distillation(GuidedPolicySearch):
    """Guided policy search without guidance: the teacher does not know what the policy does.

    Attributes:
        iterations: batches of initial states.
    """

    shows: ClassVar[str] = "the cost of an episode of the teacher and the loss of the policy's fit to it"

    _: KW_ONLY
    supervised: SupervisedStep = field(default_factory=lambda: SupervisedStep(steps=3000))
    iterations: int = 3

    def learner(self, assignment: Assignment) -> "DistillationLearner":
        """A learner at its first step."""
        return DistillationLearner(self, assignment)


class DistillationLearner(GuidedLearner):
    """The state of distillation."""

    settings: Distillation

    def __init__(self, algorithm: Distillation, assignment: Assignment):
        super().__init__(algorithm, assignment)
        self._targets: Targets | None = None

    def advance(self) -> dict[str, float]:
        """Plans from new initial states, samples of them, and the policy that is nearest to all of them."""
        if self.iterations:
            self.x0 = self.task.initial_state(self.settings.conditions, self.generator)
            self.plans = None
        controller = self.taught(ahead=self.policy if self.iterations else None)
        rollouts = self.rolled_out(controller_actions(controller, self.space, self.generator))
        found = targets(self.task, self.space, controller, rollouts)
        self._targets = found if self._targets is None else self._targets.joined(found)
        with self.timed("fit"):
            loss = self.settings.supervised.fit(self.policy, self._targets, self.generator, self.processes)
        return {"rollout/cost": self.mean_cost(rollouts), "train/loss": loss}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        wanted = None if self._targets is None else self._targets.state_dict()
        return {**super().state_dict(), "x0": self.x0, "targets": wanted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        self.x0 = state["x0"]
        self._targets = None if state["targets"] is None else Targets(**state["targets"])
