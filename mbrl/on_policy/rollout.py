"""Segments of experience under one policy: collected, then turned into samples that an update draws minibatches from."""

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from mbrl.policies.policy import Policy
from mbrl.policies.value_function import ValueFunction
from mbrl.training.worlds import Worlds


@dataclass(frozen=True, eq=False)
class Rollout:
    """T steps in each of N worlds, time first.

    Attributes:
        observations: ``(T, N, ny)`` as the environment gave them.
        next_observations: ``(T, N, ny)``, the true last ones where an episode ended.
        actions: ``(T, N, a)``, or numbers ``(T, N)``.
        rewards: ``(T, N)``.
        terminated: ``(T, N)`` of bool.
        ended: ``(T, N)`` of bool, terminated, truncated or not valid.
        valid: ``(T, N)`` of bool, steps whose numbers are finite.
        starts: ``(T, N)`` of bool, first steps of episodes.
        hidden: what the policy remembered before each step, ``(T, N, h)``.
        costs: ``(T, N)``, or None.
        seconds: time spent on the environment and on the policy.
    """

    observations: Tensor
    next_observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    ended: Tensor
    valid: Tensor
    starts: Tensor
    hidden: Tensor
    costs: Tensor | None
    seconds: tuple[float, float]


@torch.no_grad()
def collect(
    policy: Policy, worlds: Worlds, steps: int, hidden: Tensor, generator: torch.Generator
) -> tuple[Rollout, Tensor]:
    """Let a policy act in all worlds for some steps.

    Args:
        policy: draws the actions.
        worlds: N worlds, which go on where they are.
        steps: T.
        hidden: what the policy remembers, ``(N, h)``.
        generator: source of the actions.

    Returns:
        The rollout, and what the policy remembers after it.
    """
    found: list[dict[str, Tensor]] = []
    costs: list[Tensor | None] = []
    spent, begun = 0.0, time.perf_counter()
    for _ in range(steps):
        y, starts, before = worlds.observations, worlds.starts, hidden
        distribution, hidden = policy.step(policy.inputs(y), hidden)
        actions = distribution.sample(generator)
        acted = time.perf_counter()
        step = worlds.step(actions)
        spent += time.perf_counter() - acted
        found.append(
            {
                "observations": y,
                "next_observations": step.next_observations,
                "actions": actions,
                "rewards": step.rewards,
                "terminated": step.terminated,
                "ended": step.ended,
                "valid": step.valid,
                "starts": starts,
                "hidden": before,
            }
        )
        costs.append(step.costs)
        if policy.body.hidden_dim:
            hidden = torch.where(step.ended.to(hidden.device).unsqueeze(-1), 0.0, hidden)
    columns = {name: torch.stack([row[name] for row in found]) for name in found[0]}
    seconds = spent, time.perf_counter() - begun - spent
    return Rollout(**columns, costs=_stacked_costs(costs), seconds=seconds), hidden


def _stacked_costs(costs: list[Tensor | None]) -> Tensor | None:
    """The costs ``(T, N)`` of an environment that may name them only where there are some; None where it never does."""
    given = [cost for cost in costs if cost is not None]
    return torch.stack([torch.zeros_like(given[0]) if c is None else c for c in costs]) if given else None


@torch.no_grad()
def rollout_values(
    policy: Policy, value: ValueFunction, rollout: Rollout, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Values of a rollout's observations and of those that followed.

    Args:
        policy: whose normalizer the value function shares.
        value: the value function.
        rollout: T steps in N worlds.
        hidden: what the value function remembers before the first step, ``(N, h)``.

    Returns:
        Values ``(T, N)``, those of the next observations ``(T, N)``, and what the value function remembers before each step and
        after the last, ``(T + 1, N, h)``.
    """
    starts, ended = rollout.starts.to(policy.device), rollout.ended.to(policy.device)
    values, hiddens = value.sequence(policy.inputs(rollout.observations), hidden, starts)
    before = torch.cat([hidden.unsqueeze(0), torch.where(ended.unsqueeze(-1), 0.0, hiddens)])
    next_values = torch.cat([values[1:], torch.zeros_like(values[:1])])
    asked = ended.clone()
    asked[-1] = True  # the steps whose next observation is not that of the next row
    followed = policy.inputs(rollout.next_observations[asked.cpu()])
    next_values[asked] = value.step(followed, hiddens[asked])[0]
    return values, next_values, before


REMEMBERED = ("hidden", "value_hidden", "cost_hidden")


@dataclass(frozen=True, eq=False)
class Samples:
    """What an update learns from: C pieces of L steps. Without memory every step is a piece of its own, L = 1.

    Attributes:
        inputs: normalized observations ``(L, C, ny)``.
        actions: ``(L, C, a)``, or numbers ``(L, C)``.
        advantages: ``(L, C)``.
        returns: targets of the value function ``(L, C)``.
        values: what the value function said when the samples were drawn ``(L, C)``.
        weights: ``(L, C)``, 1 for steps that count and 0 for others.
        starts: ``(L, C)`` of bool, first steps of episodes.
        hidden: what the policy remembered before the pieces, ``(C, h)``.
        value_hidden: what the value function remembered, ``(C, h)``.
        cost_returns: targets of the value function of the cost, or None.
        cost_hidden: what that remembered, or None.
        distribution: of the policy that drew the actions, ``(L, C)``.
        log_probs: of the actions under it, ``(L, C)``.
    """

    inputs: Tensor
    actions: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    weights: Tensor
    starts: Tensor
    hidden: Tensor
    value_hidden: Tensor
    cost_returns: Tensor | None = None
    cost_hidden: Tensor | None = None
    distribution: Any = None
    log_probs: Any = None

    def __len__(self) -> int:
        return self.weights.shape[1]

    def in_pieces(self, length: int) -> Self:
        """Samples of whole sequences ``(T, N)``, with what was remembered before each step, cut into pieces of a length."""
        T, N = self.weights.shape

        def cut(values: Tensor) -> Tensor:  # (T, N, ...) to (length, T / length * N, ...)
            return values.reshape(T // length, length, N, *values.shape[2:]).transpose(0, 1).flatten(1, 2)

        given = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return type(self)(**{name: cut(v)[0] if name in REMEMBERED else cut(v) for name, v in given.items()})

    @torch.no_grad()
    def with_old_policy(self, policy: Policy) -> Self:
        """These samples with the distributions of a policy that are not going to change with it."""
        distribution, _ = policy.sequence(self.inputs, self.hidden, self.starts)
        distribution = copy.deepcopy(distribution.detach())  # a parameter of the policy may itself be one of its own
        return replace(self, distribution=distribution, log_probs=distribution.log_prob(self.actions))

    def pieces(self, which: Tensor | slice) -> Self:
        """Some of the pieces."""
        given = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return type(self)(**{name: v[which] if name in REMEMBERED else v[:, which] for name, v in given.items()})

    def minibatches(self, size: int, generator: torch.Generator) -> Iterator[Self]:
        """All pieces in random order, about ``size`` steps at a time but a piece at least, in parts as equal as can be."""
        shuffled = self.pieces(torch.randperm(len(self), generator=generator, device=generator.device))
        number = min(max(round(len(self) * len(self.inputs) / size), 1), len(self))
        for k in range(number):
            yield shuffled.pieces(slice(k * len(self) // number, (k + 1) * len(self) // number))
