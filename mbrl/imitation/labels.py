"""What a policy is taught: observations and the expert's action for each, episode by episode."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from dynamics import Trajectory
from dynamics.base import is_numbered
from dynamics.trajectories import check_compatible
from mbrl.envs.making import AnyTask
from mbrl.policies.action_space import DiscreteActions
from mbrl.policies.policy import Policy
from mbrl.tasks import Task


@dataclass(frozen=True, eq=False)
class Labels:
    """E episodes of N steps in all, one after the other.

    Attributes:
        observations: ``(N, ny)`` float64.
        actions: ``(N, a)`` float64, or numbers ``(N,)``.
        lengths: ``(E,)`` int64, steps of each episode.
    """

    observations: Tensor
    actions: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """N."""
        return len(self.actions)

    def joined(self, more: Self) -> Self:
        """These episodes and more."""
        pairs = ((getattr(self, name), getattr(more, name)) for name in ("observations", "actions", "lengths"))
        return type(self)(*(torch.cat(pair) for pair in pairs))

    def rows(self, episodes: Tensor) -> Tensor:
        """The rows of the steps of some episodes, as many int64."""
        ends = self.lengths.cumsum(0)
        return torch.cat([torch.arange(int(ends[e] - self.lengths[e]), int(ends[e])) for e in episodes.tolist()])

    def split(self, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which episodes are learned from and which are held out, at random; of a single episode nothing is held out."""
        held = min(max(round(share * len(self)), 1), len(self) - 1) if share > 0 else 0
        order = torch.randperm(len(self), generator=generator)
        return order[held:].sort().values, order[:held].sort().values

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {"observations": self.observations, "actions": self.actions, "lengths": self.lengths}


@dataclass(frozen=True, eq=False)
class Batch:
    """C sequences of at most T steps, those that are shorter filled up.

    Attributes:
        inputs: of the network, ``(T, C, ny)``; 0 where filled up.
        actions: ``(T, C, a)``, or numbers ``(T, C)``; 0 where filled up.
        weights: ``(T, C)``, 1 for steps and 0 where filled up.
    """

    inputs: Tensor
    actions: Tensor
    weights: Tensor


class Material:
    """Labels in the form in which a policy learns from them.

    A unit is what a minibatch is made of: a step for a policy without memory, an episode for a recurrent one, which has to see
    it from its start.

    Args:
        labels: the episodes.
        policy: normalizes observations, by statistics that must not change afterwards.
        margin: actions of squashed and beta heads are kept within 1 - margin.
        episodes: which to take.
    """

    def __init__(self, labels: Labels, policy: Policy, margin: float, episodes: Tensor):
        rows, device = labels.rows(episodes), policy.device
        self.steps = len(rows)
        actions = labels.actions[rows].to(device)
        if actions.is_floating_point():
            actions = actions.to(policy.dtype)
            if policy.head.bounded:
                actions = actions.clamp(margin - 1, 1 - margin)
        self._inputs, self._actions = policy.inputs(labels.observations[rows]), actions
        recurrent = policy.body.hidden_dim > 0
        lengths = labels.lengths[episodes] if recurrent else torch.ones(self.steps, dtype=torch.int64)
        self._lengths, self._begins = lengths.to(device), (lengths.cumsum(0) - lengths).to(device)

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self._lengths)

    def minibatches(self, size: int) -> int:
        """How many minibatches of about so many steps there are; the last units of a pass are in one of them too."""
        return min(max(round(self.steps / size), 1), self.units)

    def batch(self, units: Tensor) -> Batch:
        """Some units side by side."""
        lengths, begins = self._lengths[units], self._begins[units]
        times = torch.arange(int(lengths.max()), device=lengths.device).unsqueeze(-1)
        there = times < lengths
        rows = torch.where(there, begins + times, 0)
        inputs, actions = self._inputs[rows], self._actions[rows]
        return Batch(
            inputs * there.unsqueeze(-1).to(inputs),
            torch.where(there.reshape(*there.shape, *[1] * (actions.ndim - 2)), actions, 0),
            there.to(inputs),
        )


def log_likelihood(policy: Policy, batch: Batch, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the actions of a batch, ``(T, C)``, 0 where it is filled up, and what is remembered after it.

    Args:
        policy: the policy.
        batch: C sequences.
        hidden: what the policy remembers before them, ``(C, h)``.
    """
    starts = torch.zeros(batch.weights.shape, dtype=torch.bool, device=hidden.device)
    distribution, hiddens = policy.sequence(batch.inputs, hidden, starts)
    return torch.where(batch.weights > 0, distribution.log_prob(batch.actions), 0.0), hiddens[-1]


def read_demonstrations(trajectories: Sequence[Trajectory], policy: Policy, task: AnyTask) -> Labels:
    """The labels of an expert's episodes.

    Raises:
        TypeError: an entry is no trajectory.
        ValueError: there is no step, columns are not those of the task, or a control is none that the policy can give.
    """
    check_compatible(trajectories)
    kept = [t for t in trajectories if t.num_steps]
    if not kept:
        raise ValueError(f"the {len(trajectories)} demonstrations have no step; each needs at least one control")
    first, actions = kept[0], policy.actions
    for what, came, expected in (
        ("observations", first.observations.shape[1], policy.observation_dim),
        ("controls", first.controls.shape[1], actions.control_dim),
    ):
        if came != expected:
            raise ValueError(f"the demonstrations have {came} columns of {what}, the task has {expected}")
    if isinstance(task, Task):
        _check_names(first, task)
    return Labels(
        torch.from_numpy(np.concatenate([t.observations[:-1] for t in kept])),
        actions_of(torch.from_numpy(np.concatenate([t.controls for t in kept])), policy),
        torch.tensor([t.num_steps for t in kept]),
    )


def actions_of(controls: Tensor, policy: Policy) -> Tensor:
    """The actions ``(N, a)`` or ``(N,)`` of an expert's controls ``(N, m)``.

    Raises:
        ValueError: the policy cannot give a control: it is none of finitely many, or out of the limits of a bounded head.
    """
    space = policy.actions
    actions = space.actions(controls)
    if isinstance(space, DiscreteActions):
        given, scale = space.controls(actions), space.values.abs().max()
        off = ((given - controls).abs() > 1e-6 * (1 + scale)).any(-1)
        if bool(off.any()):
            raise ValueError(
                f"{int(off.sum())} of {len(off)} controls are none of the {len(space.values)} values there are, the first is "
                f"{controls[off][0].tolist()}; choose the nearest by task.admissible(controls), or a task with all controls"
            )
    elif policy.head.bounded and bool((actions.abs() > 1 + 1e-6).any()):
        worst = float(actions.abs().max())
        raise ValueError(
            f"controls are up to {worst:.4g} half widths of the limits from their middle, and head "
            f"{policy.settings.head!r} keeps within 1; clip them to the limits, or take the head 'gaussian'"
        )
    return actions


def _check_names(trajectory: Trajectory, task: Task) -> None:
    for group in ("observations", "controls"):
        came: tuple[str, ...] = getattr(trajectory.names, group)
        expected: Any = task.names.get(group)
        if expected is not None and came != expected and not is_numbered(came) and not is_numbered(expected):
            raise ValueError(
                f"the demonstrations have {group} {', '.join(came)}, task {task.name} has {', '.join(expected)}; reorder or "
                "rename the columns"
            )
