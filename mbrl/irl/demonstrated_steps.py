"""Demonstrations as steps: what was observed, done and observed next, and which steps were the last."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dynamics import Trajectory
from mbrl.envs.making import AnyTask
from mbrl.imitation.labels import Labels, read_demonstrations
from mbrl.irl.applied_actions import applied_log_prob
from mbrl.policies.policy import Policy


@dataclass(frozen=True, eq=False)
class DemonstratedSteps:
    """E episodes of N steps in all, one after the other.

    Attributes:
        labels: observations, actions, and the lengths of the episodes.
        next_observations: ``(N, ny)`` float64.
        terminated: ``(N,)`` of bool, steps that ended their episode for good.
    """

    labels: Labels
    next_observations: Tensor
    terminated: Tensor

    @staticmethod
    def of(trajectories: Sequence[Trajectory], policy: Policy, task: AnyTask) -> "DemonstratedSteps":
        """The steps of trajectories, checked against a task and what a policy can do.

        Raises:
            TypeError: an entry is no trajectory.
            ValueError: there is no step, or they do not fit.
        """
        labels = read_demonstrations(trajectories, policy, task)
        kept = [t for t in trajectories if t.num_steps]
        terminated = torch.zeros(labels.steps, dtype=torch.bool)
        terminated[labels.lengths.cumsum(0) - 1] = torch.tensor([bool(t.terminated) for t in kept])
        following = torch.from_numpy(np.concatenate([t.observations[1:] for t in kept]))
        return DemonstratedSteps(labels, following, terminated)

    @property
    def variable(self) -> str:
        """In what the episodes show when they end, in words; empty where all are of one length and none terminates."""
        ended, lengths = int(self.terminated.sum()), self.labels.lengths
        if ended:
            return f"{ended} of {len(lengths)} demonstrations terminate"
        if int(lengths.min()) < int(lengths.max()):
            return f"demonstrations are of {int(lengths.min())} to {int(lengths.max())} steps"
        return ""

    def absorbed(self, horizon: int) -> int:
        """Steps that are spent in the absorbing state by all terminated episodes together, up to a horizon."""
        ends = self.labels.lengths.cumsum(0) - 1
        left = (horizon - self.labels.lengths).clamp_min(0)
        return int(left[self.terminated[ends]].sum())

    @torch.no_grad()
    def log_probs(self, policy: Policy) -> Tensor:
        """How likely a policy is to do what was done, ``(N,)``, remembering each episode from its start."""
        labels, lengths = self.labels, self.labels.lengths.tolist()
        inputs = pad_sequence(list(policy.inputs(labels.observations).split(lengths)))
        actions = pad_sequence(list(labels.actions.to(policy.device).split(lengths)))
        if actions.is_floating_point():
            actions = actions.to(policy.dtype)
        starts = torch.zeros(inputs.shape[:2], dtype=torch.bool, device=policy.device)
        distribution, _ = policy.sequence(inputs, policy.initial_hidden(len(lengths)), starts)
        found = applied_log_prob(distribution, actions, policy)
        return torch.cat([found[:length, episode] for episode, length in enumerate(lengths)])
