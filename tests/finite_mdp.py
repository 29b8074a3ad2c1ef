"""A small Markov decision process whose expected return is known exactly, and all of whose trajectories can be listed."""

import torch
from torch import Tensor

from mbrl import AdvantageEstimator, NetworkSettings, Policy
from mbrl.on_policy.rollout import Samples
from mbrl.policies.action_space import DiscreteActions

STATES, ACTIONS, STEPS = 3, 2, 3
END = STATES
DOUBLE = torch.float64


class FiniteMDP:
    """Three states that are seen as unit vectors, two actions, at most three steps; every step may be the last one.

    Attributes:
        first: probabilities of the first state, ``(S,)``.
        next: of the next one, ``(S, A, S + 1)``; the last column is the end.
        rewards: ``(S, A, S + 1)``.
    """

    def __init__(self, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.rand(STATES, generator=generator, dtype=DOUBLE).softmax(-1)
        self.next = torch.randn(STATES, ACTIONS, STATES + 1, generator=generator, dtype=DOUBLE).softmax(-1)
        self.rewards = torch.randn(STATES, ACTIONS, STATES + 1, generator=generator, dtype=DOUBLE)
        self.policy = Policy(
            STATES,
            DiscreteActions(torch.tensor([[0.0], [1.0]], dtype=DOUBLE)),
            NetworkSettings(hidden=(), normalize=False, dtype="float64"),
        )
        with torch.no_grad():
            for p in self.policy.parameters():
                p.normal_(generator=generator)

    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """Of the policy's actions, ``(S, A)``."""
        return self.policy.distribution(torch.eye(STATES, dtype=DOUBLE)).logits.softmax(-1)

    def expected_return(self) -> float:
        """Dynamic programming backwards through the steps."""
        pi, value = self.probabilities(), torch.zeros(STATES + 1, dtype=DOUBLE)
        for _ in range(STEPS):
            value = torch.cat([(pi * (self.next * (self.rewards + value)).sum(-1)).sum(-1), value[-1:] * 0])
        return float(self.first @ value[:-1])

    def gradient(self, step: float = 1e-5) -> Tensor:
        """Central differences of the expected return by all weights of the policy."""
        found = []
        with torch.no_grad():
            for p in self.policy.parameters():
                for i in range(p.numel()):
                    values = []
                    for sign in (1, -1):
                        p.view(-1)[i] += sign * step
                        values.append(self.expected_return())
                        p.view(-1)[i] -= sign * step
                    found.append((values[0] - values[1]) / (2 * step))
        return torch.tensor(found, dtype=DOUBLE)

    def samples(self, advantages: AdvantageEstimator, baseline: Tensor) -> Samples:
        """Every trajectory that there is as one world, weighted with its probability.

        Args:
            advantages: from rewards and the baseline as a value function, with discount one.
            baseline: of each step and state, ``(STEPS + 1, S + 1)``.
        """
        pi, worlds = self.probabilities(), []

        def go_on(s: int, t: int, probability: Tensor, path: list[tuple[int, int, int]]):
            if s == END or t == STEPS:
                worlds.append((probability, path))
                return
            for a in range(ACTIONS):
                for after in range(STATES + 1):
                    go_on(after, t + 1, probability * pi[s, a] * self.next[s, a, after], [*path, (s, a, after)])

        for s in range(STATES):
            go_on(s, 0, self.first[s], [])
        N = len(worlds)
        states, actions, nexts = torch.zeros(3, STEPS, N, dtype=torch.int64)
        valid = torch.zeros(STEPS, N, dtype=torch.bool)
        for j, (_, path) in enumerate(worlds):
            for t, (s, a, after) in enumerate(path):
                states[t, j], actions[t, j], nexts[t, j], valid[t, j] = s, a, after, True
        last = valid & ~torch.cat([valid[1:], torch.zeros(1, N, dtype=torch.bool)])
        times = torch.arange(STEPS).unsqueeze(-1)
        values = baseline[times, states]
        A, returns = advantages.estimate(
            torch.where(valid, self.rewards[states, actions, nexts], 0.0),
            values,
            baseline[times + 1, nexts],
            last,
            last | ~valid,
            valid,
            1.0,
        )
        samples = Samples(
            inputs=torch.eye(STATES, dtype=DOUBLE)[states],
            actions=actions,
            advantages=A,
            returns=returns,
            values=values,
            weights=valid * torch.stack([probability for probability, _ in worlds]),
            starts=times.expand(STEPS, N) == 0,
            hidden=torch.zeros(STEPS, N, 0, dtype=DOUBLE),
            value_hidden=torch.zeros(STEPS, N, 0, dtype=DOUBLE),
        )
        return samples.in_pieces(1).with_old_policy(self.policy)
