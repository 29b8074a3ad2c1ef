"""Learners of rewards in tables: one search behind the direct call and behind training."""

import abc
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mbrl.irl.base import FeatureReward, LearnedReward, checked
from mbrl.irl.searching import Search, SearchLearner, searched
from mbrl.policies.tabular_policy import TabularPolicy
from mbrl.tasks.worlds import GridWorld, TabularWorld, process, world_name
from mbrl.training.algorithm import Algorithm, Assignment, Demonstrations
from planners import TabularMDP, TabularTrajectories


class RewardSearch(Search[LearnedReward]):
    """What changes while a reward is learned.

    Attributes:
        converged: whether the learner's own criterion was met.
    """

    def __init__(self) -> None:
        super().__init__()
        self.converged = False

    def log(self, **numbers: float) -> None:
        """Add numbers of an iteration to the history."""
        for name, number in numbers.items():
            self.history.setdefault(name, []).append(number)

    def end(self, *, converged: bool) -> None:
        """There is no use in going on."""
        self.finished, self.converged = True, converged

    @property
    @abc.abstractmethod
    def reward(self) -> FeatureReward:
        """The reward as it is now."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {
            "iterations": self.iterations,
            "finished": self.finished,
            "converged": self.converged,
            "history": {name: list(numbers) for name, numbers in self.history.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called."""
        self.iterations, self.finished = state["iterations"], state["finished"]
        self.converged = state["converged"]
        self.history = {name: list(numbers) for name, numbers in state["history"].items()}


@dataclass(frozen=True)
class RewardLearner(Algorithm):
    """The settings of a learner of rewards from demonstrations in a tabular process.

    As a training, ``mbrl.train(learner, world, demonstrations=trajectories)``, it learns in a world with features, or in a
    process, whose states are told apart by features of their own, and leaves ``result.policy``, a :class:`mbrl.TabularPolicy`,
    and ``result.reward``, a :class:`mbrl.FeatureReward`.

    Attributes:
        max_iterations: after which learning ends in any case.
    """

    demonstrations: ClassVar[Demonstrations] = "required"
    step_unit: ClassVar[str] = "iterations"
    shows: ClassVar[str] = "what the learner of the reward makes large or small"

    _: KW_ONLY
    max_iterations: int = 200

    @abc.abstractmethod
    def search(
        self, mdp: TabularMDP, features: Tensor, demonstrations: TabularTrajectories, *, seed: int = 0
    ) -> RewardSearch:
        """A search at its start, with the arguments of :meth:`learn`."""

    def learn(
        self, mdp: TabularMDP, features: Tensor, demonstrations: TabularTrajectories, *, seed: int = 0
    ) -> LearnedReward:
        """Learn.

        Args:
            mdp: the process; its own rewards are not looked at.
            features: of states ``(S, k)``, or of states and actions ``(S, A, k)``.
            demonstrations: of an expert, all of one length.
            seed: of what is drawn.

        Raises:
            ValueError: features have another shape, or demonstrations do not fit the process.
        """
        return searched(self.search(mdp, features, checked(mdp, demonstrations), seed=seed))

    @property
    def ends_after(self) -> int | None:
        """Iterations at most."""
        return self.max_iterations

    def check_demonstrations(self, assignment: Assignment) -> None:
        """Raise ValueError where demonstrations are missing, and TypeError where they are in tables already."""
        if isinstance(assignment.demonstrations, TabularTrajectories):
            raise TypeError(
                "demonstrations of a training are trajectories, got TabularTrajectories; pass demonstrations.to_trajectories()"
            )
        super().check_demonstrations(assignment)

    def learner(self, assignment: Assignment) -> "TabularRewardLearner":
        """A learner at its first step."""
        return TabularRewardLearner(self, assignment)


class TabularRewardLearner(SearchLearner[LearnedReward]):
    """The state of a training of a reward in tables.

    Attributes:
        reward: as it is now.
        search: what learns it.
    """

    search: RewardSearch

    def __init__(self, algorithm: RewardLearner, assignment: Assignment):
        name, world = type(algorithm).__name__, assignment.task
        if not isinstance(world, TabularWorld):
            given = world if isinstance(world, str) else getattr(world, "name", type(world).__name__)
            raise ValueError(
                f"{name} plans exactly, in a mbrl.GridWorld or a planners.TabularMDP, got {given}; for costs of tasks there is "
                "mbrl.MPCInverse"
            )
        if assignment.init is not None:
            raise ValueError(f"{name} begins with no policy, init would be ignored")
        mdp = process(world)
        if assignment.device.type != mdp.transitions.device.type:
            raise ValueError(
                f"{name} computes where the tables are, on {mdp.transitions.device.type}, got device {assignment.device}"
            )
        self.demonstrations = in_tables(assignment.demonstrations or (), world)
        features = world.features if isinstance(world, GridWorld) else torch.eye(mdp.states).to(mdp.transitions)
        self.world, self.features = world, features
        search = algorithm.search(mdp, features, self.demonstrations, seed=assignment.seed_for("reward"))
        super().__init__(search)

    @property
    def policy(self) -> TabularPolicy:
        """What the learner takes for the demonstrator's policy."""
        return TabularPolicy(self.learned.policy)

    @property
    def reward(self) -> FeatureReward:
        """As it is now."""
        return self.search.reward

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The reward; no policy is solved for until it is needed."""
        return {"reward": self.reward}


def in_tables(trajectories: Any, world: TabularWorld) -> TabularTrajectories:
    """Demonstrations that fit a world.

    Raises:
        ValueError: they do not fit.
    """
    if not trajectories:
        raise ValueError("demonstrations must have at least one trajectory, got none")
    mdp, name = process(world), world_name(world)
    first = trajectories[0]
    width, one_hot = first.observations.shape[1], bool((first.observations.sum(1) == 1).all())
    if width not in (1, mdp.states) and (first.states is None or one_hot):
        raise ValueError(
            f"demonstrations show {width} columns, {name} has {mdp.states} states: they are of another world, or of the same "
            "one with other options"
        )
    found = TabularTrajectories.from_trajectories(trajectories)
    try:
        return checked(mdp, found)
    except ValueError as error:
        raise ValueError(f"demonstrations do not fit {name}: {error}") from error
