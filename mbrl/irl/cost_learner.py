"""What learners of costs of continuous systems have in common: a problem, demonstrations and a cost in, a better cost out."""

import abc
import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from dynamics import Trajectory
from mbrl.irl.pieces import beginnings, check_pieces, check_steps
from mbrl.irl.searching import Search, SearchLearner
from mbrl.policies.planning_policy import PlanningPolicy
from mbrl.tasks import Task
from mbrl.tasks.task_cost import TaskCost, Terms
from mbrl.training.algorithm import Algorithm, Assignment, Demonstrations
from planners import DDP, Cost, Planner, Problem, WeightedCost

AnyCost = TypeVar("AnyCost", bound=Cost)

ACTING = 5
"""Iterations of a planner at every step."""


@dataclass(frozen=True, eq=False)
class LearnedCost:
    """What a learner made of demonstrations.

    Attributes:
        cost: the learned cost, for any planner, in double precision, in which it was computed whatever the precision of the one
            that was handed in; that one stays as it was.
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


@dataclass(frozen=True)
class CostLearner(Algorithm):
    """The settings of a learner of costs from demonstrations of a continuous system.

    As a training, ``mbrl.train(learner, task, demonstrations=trajectories)``, it learns the weights of a :class:`mbrl.TaskCost`,
    and leaves ``result.reward``, that cost, and ``result.policy``, a :class:`mbrl.PlanningPolicy`, which plans with it.

    Attributes:
        terms: of the cost that a training learns: ``"own"``, those of the task's cost, ``"squares"`` of states and controls, or
            ``"auto"``, squares where there are none of its own. At first all terms cost the same along the demonstrations.
        horizon: steps of a plan: learned is from pieces of demonstrations of so many steps, and the policy of a training plans as
            many; by default from whole demonstrations. A piece is learned as if it began at step 0: neither plant nor cost may
            depend on time.
        stride: steps from the beginning of a piece to that of the next; those of a piece by default.

    Raises:
        ValueError: a field is out of range.
    """

    demonstrations: ClassVar[Demonstrations] = "required"
    step_unit: ClassVar[str] = "iterations"

    _: KW_ONLY
    terms: Terms = "auto"
    horizon: int | None = None
    stride: int | None = None

    def __post_init__(self):
        check_pieces(self)

    @abc.abstractmethod
    def learn(self, problem: Problem | Task, cost: Cost, demonstrations: Sequence[Trajectory]) -> LearnedCost:
        """Learn.

        Args:
            problem: what the demonstrator solves; its own cost is not looked at. It has the horizon of the demonstrations, or of
                their pieces, and a task takes it on.
            cost: what is learned, with the parameters from which the search begins.
            demonstrations: with states, all of one length, or cut into pieces of one by ``horizon``.

        Raises:
            ValueError: demonstrations do not fit the problem, or the problem has what the learner cannot take account of.
            TypeError: an argument is of another kind.
        """

    def search(
        self, problem: Problem | Task, cost: Cost, demonstrations: Sequence[Trajectory], *, seed: int = 0
    ) -> Search[LearnedCost]:
        """A search at its start, with the arguments of :meth:`learn` and a seed of what is drawn.

        By default all of the learning is one iteration, in which nothing is drawn.
        """
        return WholeSearch(self, problem, cost, demonstrations)

    def first_guess(self, task: Task, cost: TaskCost, demonstrations: Sequence[Trajectory]) -> TaskCost:
        """The cost that the search of a training begins with, of one whose terms cost the same."""
        return cost

    @property
    def acting(self) -> Planner:
        """What plans with the cost that a training has learned, with few iterations, because each plan begins with the last."""
        return in_receding_horizon(DDP())

    @property
    def ends_after(self) -> int | None:
        """One iteration, by default."""
        return 1

    def check_demonstrations(self, assignment: Assignment) -> None:
        """Raise ValueError where demonstrations are missing, or longer or shorter than each other."""
        super().check_demonstrations(assignment)
        if self.horizon is not None:
            return  # pieces are of one length
        lengths = sorted({d.num_steps for d in assignment.demonstrations or () if isinstance(d, Trajectory)})
        if len(lengths) > 1:
            shortest = max(lengths[0], 1)
            raise ValueError(
                f"{type(self).__name__} learns from demonstrations of one length, got {lengths[0]} to {lengths[-1]} steps; "
                f"set horizon={shortest} to learn from pieces of them, or record them with steps={shortest}"
            )

    def learner(self, assignment: Assignment) -> "TaskCostLearner":
        """A learner at its first step."""
        return TaskCostLearner(self, assignment)


def in_receding_horizon(planner: Planner) -> Planner:
    """A planner with few iterations at every step, where it has a number of them."""
    if any(one.name == "max_iterations" for one in fields(planner)):
        return replace(planner, max_iterations=min(ACTING, planner.max_iterations))  # type: ignore[call-arg]
    return planner


class WholeSearch(Search[LearnedCost]):
    """All of the learning in one iteration, with the arguments of :meth:`CostLearner.learn` and the learner's own options."""

    def __init__(
        self,
        settings: CostLearner,
        problem: Problem | Task,
        cost: Cost,
        demonstrations: Sequence[Trajectory],
        **options: Any,
    ):
        super().__init__()
        self.settings, self.arguments, self.options = settings, (problem, cost, demonstrations), options
        self.found: LearnedCost | None = None

    def advance(self) -> None:
        """Learn."""
        self.found = self.settings.learn(*self.arguments, **self.options)
        self.history = {name: numbers[-1:] for name, numbers in self.found.history.items()}
        self.iterations, self.finished = 1, True

    def learned(self) -> LearnedCost:
        """What was learned; the first guess, before."""
        return LearnedCost(copied(self.arguments[1]), False) if self.found is None else self.found

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it is learned anew."""
        return {"iterations": self.iterations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Learn again what had been learned."""
        if state["iterations"]:
            self.advance()


class TaskCostLearner(SearchLearner[LearnedCost]):
    """The state of a training of a cost.

    Attributes:
        search: what learns it.
    """

    def __init__(self, algorithm: CostLearner, assignment: Assignment):
        name, task = type(algorithm).__name__, assignment.task
        if not isinstance(task, Task):
            given = task if isinstance(task, str) else type(task).__name__
            raise ValueError(f"{name} needs the plant and the cost of a mbrl.Task, got {given}")
        if assignment.init is not None:
            raise ValueError(f"{name} begins with no policy, init would be ignored")
        if assignment.device.type != "cpu":
            raise ValueError(f"{name} computes on the CPU, got device {assignment.device}")
        self.algorithm, self.task = algorithm, task
        demonstrations = list(assignment.demonstrations or ())
        cost = TaskCost(task, terms=algorithm.terms)
        given = Demonstrated.of(
            task,
            cost,
            demonstrations,
            accepted=None,
            learner=name,
            other="",
            pieces=(algorithm.horizon, algorithm.stride),
        )
        first = algorithm.first_guess(task, cost.with_equal_shares(given.xs, given.us), demonstrations)
        super().__init__(algorithm.search(task, first, demonstrations, seed=assignment.seed_for("cost")))

    @property
    def reward(self) -> TaskCost:
        """The cost as it is now, of which minus is the reward."""
        found = self.learned.cost
        if not isinstance(found, TaskCost):  # pragma: no cover  (it is what was handed to the search)
            raise TypeError(f"expected a TaskCost, got {type(found).__name__}")
        return found

    @property
    def policy(self) -> PlanningPolicy:
        """Plans with the cost as it is now."""
        return PlanningPolicy(self.task, self.reward, self.algorithm.acting, horizon=self.algorithm.horizon)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The cost."""
        return {"cost": self.reward}

    def iterate(self) -> dict[str, float]:
        """Go one iteration further, and say what the weights are."""
        found = super().iterate()
        weights = zip(self.reward.names, self.reward.weights.detach().tolist(), strict=True)
        return {**found, **{f"weight/{name}": weight for name, weight in weights}}


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
        problem: Any,
        cost: Any,
        demonstrations: Any,
        *,
        accepted: frozenset[str] | None,
        learner: str,
        other: str,
        pieces: tuple[int | None, int | None] = (None, None),
    ) -> "Demonstrated":
        """What is handed to a learner, checked.

        Args:
            problem: problem or task.
            cost: takes the place of the problem's own.
            demonstrations: trajectories.
            accepted: features of problems that the learner takes account of; None leaves that to others.
            learner: its name, for errors.
            other: a remedy where a feature is not accepted.
            pieces: horizon and stride of the learner, if it learns from pieces of the demonstrations.

        Raises:
            ValueError: they do not fit.
            TypeError: one is of another kind.
        """
        horizon, stride = pieces
        _check_trajectories(demonstrations)
        begins: list[int] = []
        if horizon is not None:
            cuts = beginnings(demonstrations, horizon, stride)
            demonstrations, begins = [d.slice(t, t + horizon) for d, t in cuts], [t for _, t in cuts]
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
        unfit = set() if accepted is None else problem.features() - accepted
        if unfit:
            raise ValueError(f"{learner} cannot take account of {', '.join(sorted(unfit))}; {other}")
        if horizon is not None and problem.horizon != horizon:
            raise ValueError(
                f"{learner} learns from pieces of horizon={horizon} steps, the horizon of the problem is {problem.horizon}; they "
                "must be the same"
            )
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
        check_steps(problem, xs, us, begins)
        with torch.no_grad():
            steps = torch.arange(us.shape[-2])
            error = problem.dynamics.difference(problem.dynamics(xs[..., :-1, :], us, steps), xs[..., 1:, :])
            size = xs.abs().amax().clamp_min(1e-30)
        return Demonstrated(problem, xs, us, float(error.abs().amax() / size))

    @property
    def number(self) -> int:
        """N."""
        return len(self.us)


def _check_trajectories(demonstrations: Any) -> None:
    """Raise an error unless there are trajectories in a sequence."""
    if isinstance(demonstrations, Trajectory):
        raise TypeError("demonstrations must be a sequence of trajectories, got one; put it in a list: [trajectory]")
    if not isinstance(demonstrations, Sequence) or not all(isinstance(d, Trajectory) for d in demonstrations):
        raise TypeError(f"demonstrations must be a sequence of Trajectory, got {type(demonstrations).__name__}")
    if not demonstrations:
        raise ValueError("demonstrations must have at least one trajectory, got none")


def _stacked(demonstrations: Sequence[Trajectory]) -> tuple[Tensor, Tensor]:
    """States ``(N, T+1, n)`` and controls ``(N, T, m)`` of trajectories."""
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
    least = torch.finfo(torch.float64).tiny  # stands for zero, which has no logarithm
    with torch.no_grad():
        new.free.copy_(weights.clamp_min(least).log() if cost.positive else weights)
    return new


def copied(cost: AnyCost) -> AnyCost:
    """A copy that shares no parameter, in double precision."""
    new = copy.deepcopy(cost)
    return new.double() if isinstance(new, nn.Module) else new
