r"""The cost of a task with its weights unknown, as inverse optimal control learns it.

.. math:: \ell(x, u, t) = \sum_k w_k \, \phi_k(x, u, t), \qquad \ell_T(x) = \sum_k w_k \, \psi_k(x)

The features are the terms of the task's own cost without their weights: the distance of each state that is charged, the square
of each control, half the square of each residual, and what has no terms as a whole; those of the last state have weights of their
own.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from mbrl.tasks.base import Task
from planners import Cost, GoalCost, QuadraticCost, ResidualCost, SmoothAbsCost, SumCost, WeightedCost

Terms = Literal["auto", "own", "squares"]
"""Which terms are weighted: the task's own, squares of states and controls, or the squares where there are none of its own."""

NUMBERS = "horizon", "episode_steps", "discount", "termination_cost"
"""Of a task, that a file holds beside the limits of its controls."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Terms of one cost, with their weights in it."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    stage: Callable[[Tensor, Tensor, int | Tensor], Tensor]  # (*batch, k)
    terminal: Callable[[Tensor], Tensor]  # (*batch, k)


class TaskCost(WeightedCost):
    """A weighted sum of the terms of a task's cost, or of squares.

    Args:
        task: the task.
        weights: w ``(k,)``, positive; all one by default.
        terms: ``"own"`` for those of the task's cost, ``"squares"`` for half the squares of states and controls, ``"auto"`` for
            squares where the task's cost depends on the next state, so that it has none.

    Attributes:
        names: of the terms, no two the same.
        true_weights: those of the task's own cost ``(k,)``; None for squares.

    Raises:
        ValueError: terms is none of these, the task has none of its own, or weights are not positive or of another number.
    """

    def __init__(self, task: Task, weights: Tensor | Sequence[float] | None = None, *, terms: Terms = "auto"):
        if terms not in get_args(Terms):
            raise ValueError(f"terms must be one of {', '.join(map(repr, get_args(Terms)))}, got {terms!r}")
        if terms == "own" and task.cost.needs_next_state:
            raise ValueError(
                f"the cost of task {task.name} depends on the next state, so that it has no terms of states and controls; choose "
                "'squares'"
            )
        own = terms == "own" or (terms == "auto" and not task.cost.needs_next_state)
        groups = _groups(task, task.cost, 1.0) if own else [_squares(task)]
        k = sum(len(group.names) for group in groups)
        weights = torch.ones(k) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if weights.shape != (k,):
            raise ValueError(f"task {task.name} has {k} terms, got weights {tuple(weights.shape)}")
        super().__init__(weights.double(), None, True)
        self.task, self.groups = task, groups
        self.terms: Terms = "own" if own else "squares"
        self.names = _told_apart([name for group in groups for name in group.names])
        truth = [weight for group in groups for weight in group.weights]
        self.true_weights = torch.tensor(truth, dtype=torch.float64) if own else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with weights of its own, of the same task."""
        new = self._copied()
        new._parameters = {
            name: nn.Parameter(p.detach().clone(), p.requires_grad)
            for name, p in self._parameters.items()
            if p is not None
        }
        return new

    def features(self, x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        """The terms of a step."""
        return torch.cat([group.stage(x, u, t) for group in self.groups], dim=-1)

    def terminal_features(self, x: Tensor) -> Tensor:
        """The terms of the last state."""
        return torch.cat([group.terminal(x) for group in self.groups], dim=-1)

    def config(self) -> dict[str, Any]:
        """JSON values from which :func:`mbrl.load_reward` makes the cost again, without its weights."""
        return {"task": task_record(self.task), "terms": self.terms}

    @torch.no_grad()
    def with_equal_shares(self, xs: Tensor, us: Tensor) -> Self:
        """This cost with weights by which all terms cost the same, on average one, along trajectories.

        Args:
            xs: states ``(*batch, T+1, n)``.
            us: controls ``(*batch, T, m)``.
        """
        weights = equal_shares(self, xs, us)
        return type(self)(self.task, weights, terms=self.terms)

    @classmethod
    def made(cls, config: Mapping[str, Any]) -> Self:
        """The cost of a :meth:`config`, with weights of one.

        Raises:
            ValueError: the task is none of this library, or another one now.
        """
        return cls(recorded_task(config["task"]), terms=config["terms"])


@torch.no_grad()
def equal_shares(cost: WeightedCost, xs: Tensor, us: Tensor) -> Tensor:
    """Weights ``(k,)`` by which all terms cost the same, on average one per step, along trajectories; one where a term is zero.

    Args:
        cost: its terms.
        xs: states ``(*batch, T+1, n)``.
        us: controls ``(*batch, T, m)``.
    """
    stage = cost.features(xs[..., :-1, :], us, torch.arange(us.shape[-2]))
    total = stage.sum(-2) + cost.terminal_features(xs[..., -1, :])
    mean = total.abs().flatten(0, -2).mean(0) / us.shape[-2]
    return torch.where(mean > 1e-12, 1.0 / mean.clamp_min(1e-12), torch.ones_like(mean))


def _told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names with a number after those that come again, as of two residual costs."""
    before = [names[:i].count(name) for i, name in enumerate(names)]
    return tuple(f"{name} ({count + 1})" if count else name for name, count in zip(names, before, strict=True))


def _groups(task: Task, cost: Cost, factor: float) -> list[_Group]:
    """The terms of a cost, those of sums one after the other."""
    if isinstance(cost, SumCost):
        parts = zip(cost.weights, cost.costs, strict=True)
        return [group for w, part in parts for group in _groups(task, part, factor * w)]  # type: ignore[arg-type]
    if factor == 0:
        return []
    if factor > 0 and isinstance(cost, GoalCost | SmoothAbsCost):
        return [_distances(task, cost, factor)]
    if factor > 0 and isinstance(cost, QuadraticCost) and _is_diagonal(cost):
        return [_quadratic(task, cost, factor)]
    if factor > 0 and isinstance(cost, ResidualCost):
        return [_residuals(task, cost, factor)]
    sign = 1.0 if factor > 0 else -1.0
    name = (
        getattr(getattr(cost, "stage_function", None), "__name__", type(cost).__name__).strip("_<>").replace("_", " ")
    )
    return [
        _Group(
            (name,),
            (abs(factor),),
            lambda x, u, t: sign * cost.stage(x, u, t).unsqueeze(-1),
            lambda x: sign * cost.terminal(x).unsqueeze(-1),
        )
    ]


def _weighted_group(
    task: Task,
    weights: tuple[Tensor, Tensor, Tensor],
    factor: float,
    stage: Callable[[Tensor, int | Tensor], Tensor],
    terminal: Callable[[Tensor], Tensor],
    share: float = 1.0,
) -> _Group:
    """Terms of each state, control and last state that has a weight; controls are squared."""
    n, m = task.dynamics.state_dim, task.dynamics.control_dim
    spread = [w.detach().double().cpu().expand(size) for w, size in zip(weights, (n, m, n), strict=True)]
    states, controls, last = (w.nonzero().flatten().tolist() for w in spread)
    named, driven = task.dynamics.state_names, task.dynamics.control_names
    names = [*(named[i] for i in states), *(driven[j] for j in controls), *(f"last {named[i]}" for i in last)]
    found = torch.cat([w[index] for w, index in zip(spread, (states, controls, last), strict=True)])

    def of_stage(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        d, squares = stage(x, t)[..., states], share * u[..., controls].square()
        batch = torch.broadcast_shapes(d.shape[:-1], squares.shape[:-1])
        parts = [d.expand(*batch, -1), squares.expand(*batch, -1), x.new_zeros(*batch, len(last))]
        return torch.cat(parts, dim=-1)

    def of_last(x: Tensor) -> Tensor:
        return torch.cat([x.new_zeros(*x.shape[:-1], len(states) + len(controls)), terminal(x)[..., last]], dim=-1)

    return _Group(tuple(names), tuple((factor * found).tolist()), of_stage, of_last)


def _distances(task: Task, cost: GoalCost | SmoothAbsCost, factor: float) -> _Group:
    """Distances of states and squares of controls."""
    weights = cost.state_weights, cost.control_weights, cost.terminal_weights
    return _weighted_group(
        task,
        weights,
        factor,
        lambda x, t: cost.distance(cost._squared(cost.error(x, t))),
        lambda x: cost.distance(cost._squared(cost.terminal_error(x))),
    )


def _is_diagonal(cost: QuadraticCost) -> bool:
    matrices = (cost.Q, cost.R, cost.Q_terminal)
    plain = all(matrix.ndim == 2 and bool((matrix == matrix.diagonal().diag()).all()) for matrix in matrices)
    return plain and all(not bool(value.any()) for value in (cost.N, cost.q, cost.r))


def _quadratic(task: Task, cost: QuadraticCost, factor: float) -> _Group:
    """Half the squares of errors and controls."""
    weights = cost.Q.diagonal(), cost.R.diagonal(), cost.Q_terminal.diagonal()
    return _weighted_group(
        task,
        weights,
        factor,
        lambda x, t: 0.5 * cost.error(x, t).square(),
        lambda x: 0.5 * cost.terminal_error(x).square(),
        share=0.5,
    )


def _squares(task: Task) -> _Group:
    """Half the squares of states and controls."""
    n, m = task.dynamics.state_dim, task.dynamics.control_dim
    ones = torch.ones(n), torch.ones(m), torch.zeros(n)
    return _weighted_group(task, ones, 1.0, lambda x, t: 0.5 * x.square(), lambda x: 0.5 * x.square(), share=0.5)


def _residuals(task: Task, cost: ResidualCost, factor: float) -> _Group:
    """Half the squares of residuals, in stages and at the end."""
    x = task.initial_state(1, torch.Generator().manual_seed(0))
    of_stage = cost.residual_function(x, x.new_zeros(1, task.dynamics.control_dim), 0).shape[-1]
    end = cost.terminal_function
    of_last = 0 if end is None else end(x).shape[-1]
    names = [*(f"residual {i}" for i in range(of_stage)), *(f"last residual {i}" for i in range(of_last))]

    def stage(x: Tensor, u: Tensor, t: int | Tensor) -> Tensor:
        return nn.functional.pad(0.5 * cost.residual_function(x, u, t).square(), (0, of_last))

    def terminal(x: Tensor) -> Tensor:
        if end is None:
            return x.new_zeros(*x.shape[:-1], of_stage)
        return nn.functional.pad(0.5 * end(x).square(), (of_stage, 0))

    return _Group(tuple(names), (factor,) * len(names), stage, terminal)


def task_record(task: Task) -> dict[str, Any]:
    """Which task of the library it is, in JSON, as far as it can be told."""
    plant = task.dynamics
    return {
        "name": task.name,
        "dynamics": type(plant).__name__,
        "parameters": {name: getattr(plant, name).tolist() for name in plant.physical_parameters},
        "limits": [limit.tolist() for limit in task.limits()],
        "control_values": None if task.control_values is None else task.control_values.tolist(),
        "numbers": {name: getattr(task, name) for name in NUMBERS},
        **_functions(task),
    }


def _functions(task: Task) -> dict[str, Any]:
    """What no file can hold, as far as two of them can be told apart."""
    from mbrl.runs.records import fingerprint

    return {name: fingerprint(getattr(task, name)) for name in ("cost", "observation", "termination")}


def recorded_task(record: Mapping[str, Any]) -> Task:
    """The task of a :func:`task_record`, made anew.

    Raises:
        ValueError: it is none of this library, or another one now.
    """
    from mbrl.tasks import CONSTRUCTORS

    name = record["name"]
    if name not in CONSTRUCTORS:
        raise ValueError(
            f"{name} is no task of this library, from which the file could be read; make mbrl.TaskCost(task, weights) with the "
            "weights in it"
        )
    parameter = inspect.signature(CONSTRUCTORS[name]).parameters.get("backend")
    backends = [{}] if parameter is None else [{"backend": one} for one in get_args(parameter.annotation)]
    found = [
        made
        for options in backends
        if type((made := CONSTRUCTORS[name](**options)).dynamics).__name__ == record["dynamics"]
    ]
    if not found:
        raise ValueError(f"task {name} has no plant {record['dynamics']} in this version")
    (task,) = found[:1]
    own = {key: getattr(task.dynamics, key).tolist() for key in task.dynamics.physical_parameters}
    if own != record["parameters"]:
        values = {key: torch.tensor(value, dtype=torch.float64) for key, value in record["parameters"].items()}
        task = replace(task, dynamics=task.dynamics.with_parameters(**values))
    for part, own in _functions(task).items():
        if own != record[part]:
            raise ValueError(
                f"the {part} of task {name} is another one than that of the file, which was made with other options"
            )
    if [limit.tolist() for limit in task.limits()] != record["limits"]:
        lower, upper = (torch.tensor(limit, dtype=torch.float64) for limit in record["limits"])
        task = replace(task, control_limits=(lower, upper))
    values = record["control_values"]
    values = None if values is None else torch.tensor(values, dtype=torch.float64)
    return replace(task, control_values=values, **record["numbers"])
