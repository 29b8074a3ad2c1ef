r"""How good a learned reward is.

What it is for: the value that is lost by acting on it (Levine, Popović and Koltun 2011). What it looks like: the correlation
with the true one, and the EPIC distance (Gleave et al. 2021, definitions 4.1 and 4.6), which does not see what no optimal
policy depends on, a positive factor and potential shaping :math:`\gamma \Phi(s') - \Phi(s)`:

.. math:: C(r)(s, a, s') = r(s, a, s') + \mathbb E \bigl[ \gamma r(s', A, S') - r(s, A, S') - \gamma r(S, A, S') \bigr], \qquad
    d(r_1, r_2) = \sqrt{\tfrac12 (1 - \rho(C(r_1), C(r_2)))}

with :math:`S, S'` and A drawn independently, and the Pearson correlation :math:`\rho` over a distribution of transitions. In
tables all expectations are exact sums; for continuous states and controls they are means over samples (section 5.1 there).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from planners import TabularMDP, policy_evaluation, solve_mdp


def expected_value_difference(mdp: TabularMDP, policy: Tensor, *, relative: bool = False) -> float:
    """The value of the optimal policy less that of another, for the rewards and the initial distribution of a process.

    Args:
        mdp: with the true rewards.
        policy: for instance ``solve_mdp(mdp, mdp.expected_rewards(learned.rewards)).policy``.
        relative: over the difference of the optimal and the uniformly random policy, so that 0 is optimal and 1 as bad as chance,
            whatever the unit and the zero of rewards.

    Raises:
        ValueError: the process has no rewards, the policy another shape, or all policies are worth the same.
    """
    best = float(solve_mdp(mdp).value)
    lost = best - float(policy_evaluation(mdp, policy).value)
    if not relative:
        return lost
    uniform = mdp.transitions.new_full((mdp.states, mdp.actions), 1.0 / mdp.actions)
    possible = best - float(policy_evaluation(mdp, uniform).value)
    if possible <= 1e-9 * max(1.0, abs(best)):
        raise ValueError(
            "the random policy is optimal for these rewards, so that nothing can be lost; use relative=False"
        )
    return lost / possible


def reward_correlation(first: Tensor, second: Tensor) -> float:
    """Pearson correlation of two rewards of equal shape, ``(S,)`` or ``(S, A)``, each entry counting the same.

    Raises:
        ValueError: shapes differ, or a reward is constant.
    """
    if first.shape != second.shape:
        raise ValueError(f"rewards must have equal shapes, got {tuple(first.shape)} and {tuple(second.shape)}")
    return _pearson(first, second, torch.full(first.shape, 1.0 / first.numel(), dtype=torch.float64))


def epic_distance(mdp: TabularMDP, first: Tensor, second: Tensor, *, coverage: Tensor | None = None) -> float:
    """The EPIC distance of two rewards, from 0, equal but for scale and shaping, to 1, opposite.

    Args:
        mdp: for the number of states and actions and the discount; its dynamics and rewards play no part.
        first: ``(S,)``, ``(S, A)`` or ``(S, A, S)``.
        second: likewise.
        coverage: distribution of transitions ``(S, A, S)`` over which rewards are compared; uniform by default. S, A and S' of
            the canonical form are always uniform.

    Raises:
        ValueError: shapes do not belong together, or a reward is nothing but shaping, which has no direction.
    """
    S, A = mdp.states, mdp.actions
    if coverage is None:
        coverage = torch.full((S, A, S), 1.0 / (S * A * S), dtype=torch.float64)
    if coverage.shape != (S, A, S) or bool((coverage < 0).any()) or abs(float(coverage.sum()) - 1) > 1e-6:
        raise ValueError(
            f"coverage must be probabilities of (S, A, S) = {(S, A, S)} that sum to one, got {tuple(coverage.shape)}"
        )
    canonical = [canonical_reward(mdp, reward) for reward in (first, second)]
    for reward, shaped in zip((first, second), canonical, strict=True):
        if float(shaped.abs().max()) <= 1e-9 * float(torch.as_tensor(reward).detach().abs().max()):
            raise ValueError("a reward is constant but for potential shaping, so it has no direction to compare")
    correlation = _pearson(canonical[0], canonical[1], coverage.double())
    return max(0.0, 0.5 * (1.0 - correlation)) ** 0.5


def canonical_reward(mdp: TabularMDP, reward: Tensor) -> Tensor:
    """The canonically shaped reward C(r) ``(S, A, S)``, equal for all rewards that differ by potential shaping."""
    S, A = mdp.states, mdp.actions
    r = torch.as_tensor(reward).detach().double()
    if r.shape not in ((S,), (S, A), (S, A, S)):
        raise ValueError(
            f"rewards must have the shape (S,), (S, A) or (S, A, S) with S = {S} and A = {A}, got {tuple(r.shape)}"
        )
    r = r.view(*r.shape, *[1] * (3 - r.ndim)).expand(S, A, S)
    leaving = r.mean((1, 2))  # E[r(s, A, S')]
    return r + mdp.discount * leaving - leaving[:, None, None] - mdp.discount * leaving.mean()


Reward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A reward ``fn(x, u, x_next) -> (*batch,)`` of states ``(*batch, n)`` and controls ``(*batch, m)``."""

Transitions = tuple[Tensor, Tensor, Tensor]
"""States ``(N, n)``, controls ``(N, m)`` and next states ``(N, n)``."""


@torch.no_grad()
def sampled_epic_distance(
    first: Reward, second: Reward, transitions: Transitions, others: Transitions | None = None, *, discount: float
) -> float:
    """The EPIC distance of two rewards of continuous states and controls, from samples.

    Args:
        first: of a state, a control and the next state.
        second: likewise.
        transitions: over which rewards are compared, N of them.
        others: M draws of S, A and S' of the canonical form, each independent of the others; by default those of the transitions,
            each of the three in another order.
        discount: gamma.

    Raises:
        ValueError: shapes do not belong together, or a reward is not finite there, or is nothing but shaping, without direction.
    """
    x, u, after = transitions
    if not len(x) == len(u) == len(after) >= 2:
        raise ValueError(f"need at least 2 transitions, as many of each, got {len(x)}, {len(u)} and {len(after)}")
    if others is None:
        generator = torch.Generator().manual_seed(0)
        order = [torch.randperm(len(x), generator=generator) for _ in range(3)]
        others = x[order[0]], u[order[1]], after[order[2]]
    canonical = [_canonical_samples(reward, transitions, others, discount) for reward in (first, second)]
    for reward, shaped in zip((first, second), canonical, strict=True):
        size = float(reward(x, u, after).abs().max())
        if not bool(shaped.isfinite().all()):
            raise ValueError(
                "a reward is not finite at some transition; leave those out where the simulation has diverged"
            )
        if float(shaped.abs().max()) <= 1e-9 * size:
            raise ValueError("a reward is constant but for potential shaping, so it has no direction to compare")
    share = torch.full((len(x),), 1.0 / len(x), dtype=torch.float64)
    return max(0.0, 0.5 * (1.0 - _pearson(canonical[0], canonical[1], share))) ** 0.5


PAIRS = 2**18
"""Largest number of rewards at a time."""


def _canonical_samples(reward: Reward, transitions: Transitions, others: Transitions, discount: float) -> Tensor:
    """The canonically shaped reward at transitions ``(N,)``."""
    S, A, after = others
    M = len(S)

    def leaving(x: Tensor) -> Tensor:
        """Mean over A and S' of rewards from states ``(N, n)``."""
        found = []
        for rows in x.split(max(PAIRS // M, 1)):
            many = (part.expand(len(rows), *part.shape) for part in (A, after))
            found.append(reward(rows.unsqueeze(1).expand(-1, M, -1), *many).mean(-1))
        return torch.cat(found)

    x, u, x_next = transitions
    return (
        reward(x, u, x_next) + discount * leaving(x_next) - leaving(x) - discount * reward(S, A, after).mean()
    ).double()


def _pearson(first: Tensor, second: Tensor, weights: Tensor) -> float:
    """Weighted correlation of tensors of equal shape."""
    centered = []
    for x in (first.detach().double(), second.detach().double()):
        mean = (weights * x).sum()
        deviation = x - mean
        spread = float((weights * deviation**2).sum())
        if spread <= 1e-24 * max(float((weights * x**2).sum()), 1e-300):
            raise ValueError("a reward is the same everywhere, so it has no direction to compare")
        centered.append(deviation / spread**0.5)
    return float((weights * centered[0] * centered[1]).sum().clamp(-1, 1))
