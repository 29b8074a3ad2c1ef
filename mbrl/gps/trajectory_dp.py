r"""Trajectory-based dynamic programming (Atkeson and Morimoto 2003; Atkeson and Stephens 2008): the policy is a library of plans.

.. math:: u(x) = \hat u_i + K_i (x \ominus \hat x_i), \qquad i = \arg\min_i \bigl\| S^{-1} (x \ominus \hat x_i) \bigr\|

A differential dynamic program leaves a locally optimal trajectory and local linear feedback about it. Each iteration plans from
more states and adds the points of the plans to the library, whose nearest point acts: the baseline of Levine and Koltun 2013.
Nothing is fitted, so that nothing is lost between the plans and the policy; in return the library must cover the states.

Half of the plans begin where it does not. Of its own rollouts from new initial states, those that cost most are taken, and of
each the state that was farthest from all points. The papers instead plan from random states whose value the library's local
models mispredict, and improve stored trajectories from what their neighbors do.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mbrl.gps.base import TaughtAlgorithm, TaughtLearner
from mbrl.gps.rollouts import Rollouts
from mbrl.policies.trajectory_library import TrajectoryLibrary, controller_points
from mbrl.training.algorithm import Assignment
from mbrl.training.checking import check_numbers
from planners import LinearGaussianController


@dataclass(frozen=True)
class TrajectoryDP(TaughtAlgorithm):
    """Trajectory-based dynamic programming: a library of plans, of which the nearest one acts.

    Attributes:
        samples: rollouts of the library from each initial state; they differ by ``control_noise`` alone.
        iterations: batches of plans.
        revisited: share of the plans that begin where rollouts of the library went wrong; the others begin at initial states.
            They are plans for a whole episode from there, so that the cost of a step must not depend on its number.
        window: the library acts by points at most so many steps ahead or behind; None for all points.
        scale: of each state in the metric; by default their spread over the library.

    Raises:
        ValueError: a number is out of its range.
    """

    shows: ClassVar[str] = "how the library grew"

    _: KW_ONLY
    samples: int = 1
    iterations: int = 10
    revisited: float = 0.5
    window: int | None = None
    scale: tuple[float, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, shares=("revisited",), tallies=() if self.window is None else ("window",))
        scale = self.scale
        if scale is not None and not all(0 < s < torch.inf for s in scale):
            raise ValueError(f"scale must be positive numbers, one for each state, got {scale}")

    def learner(self, assignment: Assignment) -> "TrajectoryDPLearner":
        """A learner at its first step."""
        return TrajectoryDPLearner(self, assignment)


class TrajectoryDPLearner(TaughtLearner):
    """The state of trajectory-based dynamic programming.

    Attributes:
        policy: the library.
        begun: steps of an episode at which the next plans begin, ``(C,)``.
    """

    settings: TrajectoryDP
    policy: TrajectoryLibrary

    def __init__(self, algorithm: TrajectoryDP, assignment: Assignment):
        super().__init__(algorithm, assignment)
        scale = None if algorithm.scale is None else torch.tensor(algorithm.scale, dtype=torch.float64)
        self.policy = TrajectoryLibrary.for_task(self.task, scale=scale, window=algorithm.window)
        if assignment.init is not None:
            if not isinstance(assignment.init, TrajectoryLibrary):
                raise ValueError(
                    f"init must be a mbrl.TrajectoryLibrary to add to, got {type(assignment.init).__name__}"
                )
            assignment.init.check_task(self.task)
            self.policy = self.policy.joined(*assignment.init.points)
        self.begun = torch.zeros(algorithm.conditions, dtype=torch.int64)

    def advance(self) -> dict[str, float]:
        """Plans, the library with their points, and its rollouts from new initial states."""
        plans = self.taught(ahead=self.policy if self.iterations else None)
        self._add(plans)
        cost = self.processes.mean(self.plans.cost.mean()) if self.plans is not None else torch.nan
        self.x0 = self.task.initial_state(self.settings.conditions, self.generator)
        rollouts = self.rolled_out(lambda x, t: self.space.actions(self.policy.controls_at(x, t)))
        distances = self._distances(rollouts)
        self._begin_next(rollouts, distances)
        self.plans = None  # of other states
        return {
            "rollout/cost": self.mean_cost(rollouts),
            "train/plan_cost": float(cost),
            "train/points": float(len(self.policy)),
            "train/distance": float(self.processes.mean(distances.mean())),
        }

    def _add(self, plans: LinearGaussianController) -> None:
        """The points of the plans of all processes."""
        states, controls, gains, steps = controller_points(plans)
        steps = steps + self.begun.repeat_interleave(plans.us.shape[-2])
        for points in self.processes.everywhere((states, controls, gains, steps)):
            self.policy = self.policy.joined(*points)

    def _distances(self, rollouts: Rollouts) -> Tensor:
        """From the states of rollouts to the library, ``(S, C, T)``."""
        steps = range(self.task.episode_steps)
        return torch.stack([self.policy.nearest(rollouts.states[..., t, :], t)[1] for t in steps], -1)

    def _begin_next(self, rollouts: Rollouts, distances: Tensor) -> None:
        """Choose where the next plans begin."""
        C = self.settings.conditions
        number = min(round(self.settings.revisited * C), int(rollouts.valid.sum()))
        costs = rollouts.total_costs.where(rollouts.valid, -torch.inf).flatten()
        worst = costs.topk(number).indices
        farthest = distances.flatten(0, -2)[worst].argmax(-1)
        visited = rollouts.states.flatten(0, -3)[worst, farthest]
        drawn = self.task.initial_state(C - number, self.generator) if number < C else visited[:0]
        self.x0 = torch.cat([drawn, visited])
        self.begun = torch.cat([farthest.new_zeros(C - number), farthest])

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {**super().state_dict(), "points": self.policy.points, "x0": self.x0, "begun": self.begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        super().load_state_dict(state)
        self.policy = self.policy.with_points(*state["points"])
        self.x0, self.begun = state["x0"], state["begun"]
