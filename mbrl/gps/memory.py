"""What was sampled so far, from which distributions, and how likely each sample is under all of them."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mbrl.gps.rollouts import Rollouts, actions_of_task, controller_state, policy_log_probs
from mbrl.policies.policy import Policy
from mbrl.tasks import Task
from planners import LinearGaussianController

Source = Policy | LinearGaussianController
"""A distribution of actions given states."""


def log_probs(source: Source, task: Task, rollouts: Rollouts) -> Tensor:
    """Log-densities of actions under a distribution, ``(S, C, T)``."""
    if isinstance(source, Policy):
        with torch.no_grad():
            return policy_log_probs(source, task, rollouts)
    space = actions_of_task(task)
    _, half = space.scale(rollouts.actions)
    controls = space.unclamped(rollouts.actions)
    return source.log_prob(rollouts.states[..., :-1, :], controls) + half.log().sum()


class Memory:
    """Samples, where each came from, and its density under each distribution that any came from.

    Args:
        task: what a policy sees and the limits that actions are relative to.

    Attributes:
        sources: the J distributions, as they were.
        rollouts: the S samples.
        origins: index of the distribution of each, ``(S,)``.
        log_q: of each step, ``(J, S, C, T)``.
    """

    def __init__(self, task: Task):
        self.task = task
        self.sources: list[Source] = []
        self.rollouts: Rollouts | None = None
        self.origins = torch.zeros(0, dtype=torch.int64)
        self.log_q = torch.zeros(0)

    def add(self, source: Source, rollouts: Rollouts) -> None:
        """Keep samples of a distribution."""
        rows = torch.full((len(rollouts.valid),), len(self.sources))
        self.sources.append(source)
        if self.rollouts is None:
            self.rollouts, self.origins = rollouts, rows
            self.log_q = log_probs(source, self.task, rollouts).unsqueeze(0)
            return
        old = [log_probs(earlier, self.task, rollouts) for earlier in self.sources[:-1]]
        seen = torch.cat([self.log_q, torch.stack(old)], dim=1)
        self.rollouts, self.origins = self.rollouts.joined(rollouts), torch.cat([self.origins, rows])
        self.log_q = torch.cat([seen, log_probs(source, self.task, self.rollouts).unsqueeze(0)])

    def chosen(self, sources: list[int]) -> "Chosen":
        """The samples of some distributions."""
        if self.rollouts is None:
            raise RuntimeError("there are no samples yet; call iterate() first")
        index = torch.tensor(sources)
        rows = torch.isin(self.origins, index)
        counts = torch.stack([(self.origins == j).sum() for j in index])
        return Chosen(self.rollouts[rows], self.log_q[index][:, rows], counts)

    def keep(self, sources: list[int]) -> None:
        """Forget all other distributions and their samples."""
        if self.rollouts is None:
            return
        index = torch.tensor(sources)
        rows = torch.isin(self.origins, index)
        self.sources = [self.sources[j] for j in sources]
        self.rollouts, self.log_q = self.rollouts[rows], self.log_q[index][:, rows]
        self.origins = torch.searchsorted(index, self.origins[rows])

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors."""
        return {
            "sources": [_saved(source) for source in self.sources],
            "rollouts": None if self.rollouts is None else self.rollouts.state_dict(),
            "origins": self.origins,
            "log_q": self.log_q,
        }

    def load_state_dict(self, state: dict[str, Any], policy: Policy) -> None:
        """What was kept; policies among the distributions are like the one given."""
        self.sources = [_restored(saved, self.task, policy) for saved in state["sources"]]
        self.rollouts = None if state["rollouts"] is None else Rollouts(**state["rollouts"])
        self.origins, self.log_q = state["origins"], state["log_q"]


def _saved(source: Source) -> dict[str, Any]:
    if isinstance(source, Policy):
        return {"policy": source.state_dict()}
    return {"controller": controller_state(source)}


def _restored(saved: dict[str, Any], task: Task, like: Policy) -> Source:
    if "controller" in saved:
        return LinearGaussianController(task.dynamics, **saved["controller"])
    policy = copy.deepcopy(like)
    policy.load_state_dict(saved["policy"])
    return policy


@dataclass(frozen=True, eq=False)
class Chosen:
    """Samples to learn from.

    Attributes:
        rollouts: S of them.
        log_q: of each step under the distributions they came from, ``(J, S, C, T)``.
        counts: how many came from each, ``(J,)``.
    """

    rollouts: Rollouts
    log_q: Tensor
    counts: Tensor

    def conditions(self, index: Tensor) -> "Chosen":
        """Those from some initial states."""
        some = {name: value[:, index] for name, value in self.rollouts.state_dict().items()}
        return Chosen(Rollouts(**some), self.log_q[:, :, index], self.counts)
