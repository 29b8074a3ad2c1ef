r"""Policies in tables: a probability of each action in each state, stationary or of each step.

.. math:: a_t \sim \pi_t(\cdot \mid s_t), \qquad y_t = e_{s_t}

What is seen is the state as a one-hot vector, and a control is the number of an action, as in :class:`mbrl.TabularEnv`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mbrl.policies.action_space import DiscreteActions
from mbrl.policies.learned_actor import LearnedActor


@dataclass(frozen=True)
class TabularMemory:
    """Where a policy in tables stands in a batch of episodes.

    Attributes:
        step: number of actions taken so far.
        generator: source of the actions that are drawn; its present state is part of the value.
    """

    step: int
    generator: torch.Generator


class TabularPolicy(LearnedActor):
    """Probabilities of actions in states; acts in the environments of a world or a process in tables.

    Args:
        probabilities: ``(S, A)``, or of each step ``(T, S, A)``, of which the last goes on after T steps.

    Raises:
        ValueError: the shape is another one, or a row is no distribution.
    """

    probabilities: Tensor
    actions: DiscreteActions

    def __init__(self, probabilities: Tensor):
        if probabilities.ndim not in (2, 3) or 0 in probabilities.shape:
            raise ValueError(f"probabilities must have the shape (S, A) or (T, S, A), got {tuple(probabilities.shape)}")
        off = (probabilities.sum(-1) - 1).abs().max()
        if not bool((probabilities >= 0).all()) or not float(off) <= 1e-4:
            raise ValueError(
                f"rows of probabilities must not be negative and sum to one, got sums off by {float(off):.3g}"
            )
        super().__init__(DiscreteActions(torch.arange(probabilities.shape[-1], dtype=torch.float64).unsqueeze(-1)))
        self.register_buffer("probabilities", probabilities.detach().clone())

    @property
    def acts_on(self) -> str:
        """``"observation"``."""
        return "observation"

    @property
    def seen_dim(self) -> int:
        """Number of states, S."""
        return self.probabilities.shape[-2]

    def init(self, batch: int = 1, *, generator: torch.Generator | None = None) -> TabularMemory:
        """Memory at the start of a batch of episodes."""
        return TabularMemory(0, generator.clone_state() if generator else torch.Generator().manual_seed(0))

    @torch.no_grad()
    def act(self, y: Tensor, memory: TabularMemory, *, deterministic: bool = True) -> tuple[Tensor, TabularMemory]:
        """Numbers of actions ``(batch, 1)`` for one-hot vectors ``(batch, S)``, in their dtype, and the next memory.

        Args:
            y: the states.
            memory: from :meth:`init` or the step before.
            deterministic: the most probable action, of equal ones the first; otherwise a draw, without which a policy that has to
                be random, such as that of :class:`mbrl.Apprenticeship`, is another one.

        Raises:
            ValueError: these are no one-hot vectors of as many states.
        """
        if y.shape[-1:] != (self.seen_dim,):
            raise ValueError(f"the policy sees {self.seen_dim} states as one-hot vectors, got {tuple(y.shape)}")
        if not bool((y.amax(-1) == 1).all() and (y.sum(-1) == 1).all()):
            raise ValueError("the policy sees states as one-hot vectors, got rows that are none")
        table, generator = self.probabilities, memory.generator
        if table.ndim == 3:
            table = table[min(memory.step, len(table) - 1)]
        rows = table[y.argmax(-1).to(table.device)]
        if deterministic:
            numbers = rows.argmax(-1, keepdim=True)
        else:
            generator = generator.clone_state()
            numbers = torch.multinomial(rows.cpu(), 1, generator=generator)
        return numbers.to(y), TabularMemory(memory.step + 1, generator)

    def config(self) -> dict[str, Any]:
        """Nothing beside the probabilities."""
        return {}

    @classmethod
    def restored(cls, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The policy of a :meth:`config` and probabilities."""
        return cls(tensors["probabilities"])
