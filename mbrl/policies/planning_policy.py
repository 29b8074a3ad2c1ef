"""Policies that plan: a learned cost, a planner and a task, in receding horizon."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

import planners
from mbrl.policies.learned_actor import LearnedActor, task_actions
from mbrl.tasks.base import Task
from mbrl.tasks.task_cost import TaskCost, recorded_task, task_record
from planners import MPC, MPCState, Planner


class PlanningPolicy(LearnedActor):
    """Plans with a learned cost at every step and takes the first control.

    Args:
        task: on whose plant it plans, within its limits.
        cost: in the place of the task's own.
        planner: how it plans.
        horizon: steps of a plan; the task's by default.

    Attributes:
        cost: the learned cost.
        mpc: what acts.

    Raises:
        ValueError: the planner cannot take account of the task's limits or ends.
    """

    cost: TaskCost

    def __init__(self, task: Task, cost: TaskCost, planner: Planner, *, horizon: int | None = None):
        super().__init__(task_actions(task))
        self.cost, self.task, self.planner, self.horizon = cost, task, planner, horizon
        self.mpc = MPC(replace(task.problem(horizon=horizon), cost=cost), planner)
        self.describe(task)

    @property
    def acts_on(self) -> str:
        """``"state"``."""
        return "state"

    @property
    def seen_dim(self) -> int:
        """Number of states."""
        return self.task.dynamics.state_dim

    def init(self, batch: int = 1, *, generator: torch.Generator | None = None) -> MPCState:
        """Memory at the start of a batch of episodes."""
        return self.mpc.init(batch, generator=generator)

    def act(self, y: Tensor, memory: MPCState, *, deterministic: bool = True) -> tuple[Tensor, MPCState]:
        """Controls ``(batch, m)`` at states ``(batch, n)``, and the next memory."""
        return self.mpc.act(y, memory)

    def config(self) -> dict[str, Any]:
        """The task, the planner's settings and the terms of the cost."""
        from mbrl.runs.records import json_values

        return {
            "task": task_record(self.task),
            "terms": self.cost.terms,
            "planner": json_values("planner", self.planner),
            "horizon": self.horizon,
        }

    @classmethod
    def restored(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy of a :meth:`config` and weights, on a task of the library that is made anew."""
        task = recorded_task(config["task"])
        cost = TaskCost(task, tensors["cost.free"].exp(), terms=config["terms"])
        policy = cls(task, cost, made_configuration(config["planner"]), horizon=config["horizon"])
        policy.load_state_dict(tensors)
        return policy


def made_configuration(value: Any) -> Any:
    """What JSON values of a planner's settings stand for; objects have their class's name, as in ``config.json``.

    Raises:
        ValueError: there is no such class.
    """
    if isinstance(value, Mapping) and "class" in value:
        kind = getattr(planners, value["class"], None)
        if kind is None:
            raise ValueError(f"there is no planners.{value['class']} in this version")
        return kind(**{name: made_configuration(one) for name, one in value.items() if name != "class"})
    if isinstance(value, list):
        return tuple(made_configuration(one) for one in value)
    return float(value) if value in ("inf", "-inf", "nan") else value
