"""What learners of costs of continuous systems have in common: a problem, demonstrations and a cost in, a better cost out."""

import abc
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dynamics import Trajectory
from mbrl.tasks import Task
from planners import Cost, Problem, WeightedCost

AnyCost = TypeVar("AnyCost", bound=Cost)


@dataclass(frozen=True, eq=False)
class LearnedCost:
    """What a learner made of demonstrations.

    Attributes:
        cost: the learned cost, for any planner; the one that was handed in stays as it was.
        converged: whether the learner's own criterion was met.
        history: numbers of each iteration by name.
        report: what the learner has to say beyond that, see the learner.
    """

    cost: Cost
    converged: bool
    history: dict[str, list[float]] = field(default_factory=dict)
    report: Any = None

    @property
    def weights(self) -> Tensor | None:
        """Of a cost that is linear in weights, ``(k,)``; None for others."""
        return self.cost.weights.detach() if isinstance(self.cost, WeightedCost) else None


@dataclass(frozen=True, eq=False)
class IdentifiableWeights:
    """Which directions of the weights show in demonstrations.

    Attributes:
        directions: orthonormal directions ``(k, k)``, columns, the most visible first.
        visibility: how much each shows, ``(k,)``.
        tolerance: visibility, relative to the largest, below which a direction counts as invisible.
    """

    directions: Tensor
    visibility: Tensor
    tolerance: float

    @staticmethod
    def of(matrix: Tensor, tolerance: float) -> "IdentifiableWeights":
        """The singular value decomposition of a matrix ``(rows, k)`` by weights."""
        k = matrix.shape[1]
        padded = torch.cat([matrix, matrix.new_zeros(max(k - len(matrix), 0), k)])
        _, values, directions = torch.linalg.svd(padded, full_matrices=False)
        return IdentifiableWeights(directions.mT, values, tolerance)

    @property
    def invisible(self) -> int:
        """Number of directions that do not show."""
        return int((self.visibility <= self.tolerance * self.visibility[0]).sum())

    @property
    def null_directions(self) -> Tensor:
        """Directions that do not show, ``(k, invisible)``."""
        return self.directions[:, self.directions.shape[1] - self.invisible :]

    def identified(self, values: Tensor) -> Tensor:
        """Values ``(*batch, k)`` without their part in the null directions."""
        null = self.null_directions
        return values - (values @ null) @ null.mT


class CostLearner(abc.ABC):
    """The settings of a learner of costs from demonstrations of a continuous system."""

    @abc.abstractmethod
    def learn(self, problem: Problem | Task, cost: Cost, demonstrations: Sequence[Trajectory]) -> LearnedCost:
        """Learn.

        Args:
            problem: what the demonstrator solves; its own cost is not looked at. A task has the horizon of the demonstrations.
            cost: what is learned, with the parameters from which the search begins.
            demonstrations: with states, all of one length.

        Raises:
            ValueError: demonstrations do not fit the problem, or the problem has what the learner cannot take account of.
            TypeError: an argument is of another kind.
        """


@dataclass(frozen=True, eq=False)
class Demonstrated:
    """Demonstrations and the problem that they are of.

    Attributes:
        problem: with the cost to be learned.
        xs: states ``(N, T+1, n)``.
        us: controls ``(N, T, m)``.
        prediction_error: largest error of a state that the dynamics predict from the one before, beside the largest state.
    """

    problem: Problem
    xs: Tensor
    us: Tensor
    prediction_error: float

    @staticmethod
    def of(
        problem: Any, cost: Any, demonstrations: Any, *, accepted: frozenset[str], learner: str, other: str
    ) -> "Demonstrated":
        """What is handed to a learner, checked.

        Args:
            problem: problem or task.
            cost: takes the place of the problem's own.
            demonstrations: trajectories.
            accepted: features of problems that the learner takes account of.
            learner: its name, for errors.
            other: a remedy where a feature is not accepted.

        Raises:
            ValueError: they do not fit.
            TypeError: one is of another kind.
        """
        xs, us = _stacked(demonstrations)
        if isinstance(problem, Task):
            problem = problem.problem(horizon=us.shape[-2])
        if not isinstance(problem, Problem):
            raise TypeError(f"problem must be a Problem or a Task, got {type(problem).__name__}")
        if not isinstance(cost, Cost):
            raise TypeError(
                f"cost must be a Cost, got {type(cost).__name__}; a network is one as FunctionCost(network)"
            )
        if not any(p.requires_grad for p in cost.parameters()):
            raise ValueError(
                f"{type(cost).__name__} has no parameter to learn; use DiagonalQuadraticCost, LinearFeatureCost, or a cost with "
                "nn.Parameter"
            )
        unfit = problem.features() - accepted
        if unfit:
            raise ValueError(f"{learner} cannot take account of {', '.join(sorted(unfit))}; {other}")
        if problem.horizon != us.shape[-2]:
            raise ValueError(
                f"demonstrations have {us.shape[-2]} steps, the horizon of the problem is {problem.horizon}: set horizon="
                f"{us.shape[-2]}, or cut the demonstrations with trajectory.slice(0, T)"
            )
        n, m = problem.dynamics.state_dim, problem.dynamics.control_dim
        if (xs.shape[-1], us.shape[-1]) != (n, m):
            raise ValueError(
                f"demonstrations have {xs.shape[-1]} states and {us.shape[-1]} controls, the dynamics {n} and {m}"
            )
        problem = replace(problem, cost=cost)
        with torch.no_grad():
            steps = torch.arange(us.shape[-2])
            error = problem.dynamics.difference(problem.dynamics(xs[..., :-1, :], us, steps), xs[..., 1:, :])
            size = xs.abs().amax().clamp_min(1e-30)
        return Demonstrated(problem, xs, us, float(error.abs().amax() / size))

    @property
    def number(self) -> int:
        """N."""
        return len(self.us)


def _stacked(demonstrations: Any) -> tuple[Tensor, Tensor]:
    """States ``(N, T+1, n)`` and controls ``(N, T, m)`` of trajectories."""
    if isinstance(demonstrations, Trajectory):
        raise TypeError("demonstrations must be a sequence of trajectories, got one; put it in a list: [trajectory]")
    if not isinstance(demonstrations, Sequence) or not all(isinstance(d, Trajectory) for d in demonstrations):
        raise TypeError(f"demonstrations must be a sequence of Trajectory, got {type(demonstrations).__name__}")
    if not demonstrations:
        raise ValueError("demonstrations must have at least one trajectory, got none")
    lengths = sorted({d.num_steps for d in demonstrations})
    if len(lengths) > 1 or lengths[0] == 0:
        raise ValueError(
            f"demonstrations must all have the same number of steps, at least one, got {lengths[0]} to {lengths[-1]}: where some "
            "end early their length alone would tell what they cost. Cut all to the shortest: "
            f"[d.slice(0, {max(lengths[0], 1)}) for d in demonstrations]"
        )
    states = [d.states for d in demonstrations]
    if any(x is None for x in states):
        raise ValueError(
            "demonstrations must have states; where the observations are the states: "
            "[d.replace(states=d.observations) for d in demonstrations]"
        )
    widths = {(d.states.shape[1], d.controls.shape[1]) for d in demonstrations}  # type: ignore[union-attr]
    if len(widths) > 1:
        raise ValueError(f"demonstrations must have the same states and controls, got the sizes {sorted(widths)}")
    xs = torch.stack([torch.as_tensor(x.copy()) for x in states])  # type: ignore[union-attr]
    return xs, torch.stack([torch.as_tensor(d.controls.copy()) for d in demonstrations])


def weighted(cost: Any, learner: str) -> WeightedCost:
    """The cost, if it is linear in weights that are its parameter; TypeError otherwise."""
    if not isinstance(cost, WeightedCost):
        raise TypeError(
            f"{learner} needs a cost that is linear in weights, LinearFeatureCost or DiagonalQuadraticCost, got "
            f"{type(cost).__name__}; LaplaceIRL learns any parameters"
        )
    return cost


def of_weights(cost: WeightedCost, weights: Tensor) -> WeightedCost:
    """A copy of a cost whose parameter gives these weights."""
    new = copied(cost)
    with torch.no_grad():
        new.free.copy_(weights.log() if cost.positive else weights)
    return new


def copied(cost: AnyCost) -> AnyCost:
    """A copy that shares no parameter, in double precision."""
    new = copy.deepcopy(cost)
    return new.double() if isinstance(new, nn.Module) else new
