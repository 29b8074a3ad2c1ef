"""What learners of rewards have in common: features and demonstrations in, a reward of every state out."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from planners import TabularMDP, TabularTrajectories


class FeatureReward(nn.Module):
    """A reward as a function of features: linear, or a network with hidden layers of tanh units.

    Args:
        features: number of features, k.
        hidden: widths of hidden layers; none makes the reward linear, without a constant, which no policy depends on.
        seed: of the weights of a network; a linear reward begins with zero weights.
        dtype: of the weights.
    """

    def __init__(self, features: int, hidden: Sequence[int] = (), *, seed: int = 0, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.hidden = tuple(hidden)
        widths, layers = [features, *hidden], []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after, dtype=dtype), nn.Tanh()]
        layers.append(nn.Linear(widths[-1], 1, bias=False, dtype=dtype))
        self.layers = nn.Sequential(*layers)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                if hidden and p.ndim == 2:
                    p.copy_(torch.randn(p.shape, generator=generator, dtype=dtype) / p.shape[1] ** 0.5)
                else:
                    p.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """The rewards of features ``(*batch, k)``: ``(*batch,)``."""
        return self.layers(features).squeeze(-1)

    @property
    def weights(self) -> Tensor | None:
        """Of a linear reward, ``(k,)``; None for a network."""
        only = self.layers[0]
        return only.weight.detach()[0] if isinstance(only, nn.Linear) and len(self.layers) == 1 else None

    def config(self) -> dict[str, Any]:
        """JSON values from which :func:`mbrl.load_reward` makes the reward again, without its weights."""
        weight = next(self.parameters())
        dtype = str(weight.dtype).removeprefix("torch.")
        return {"features": weight.shape[1], "hidden": list(self.hidden), "dtype": dtype}

    @classmethod
    def made(cls, config: Mapping[str, Any]) -> Self:
        """The reward of a :meth:`config`, with weights of seed 0."""
        return cls(config["features"], config["hidden"], dtype=getattr(torch, config["dtype"]))


def linear_reward(weights: Tensor) -> FeatureReward:
    """The linear reward of weights ``(k,)``."""
    reward = FeatureReward(len(weights), dtype=weights.dtype).to(weights.device)
    with torch.no_grad():
        next(reward.parameters()).copy_(weights.detach()[None])
    return reward


@dataclass(frozen=True, eq=False)
class Mixture:
    """Policies of which one is drawn at the start of each episode.

    Attributes:
        shares: probability of each ``(n,)``.
        policies: ``(n, S, A)``, or of each step ``(n, T, S, A)``.
        expectations: expected features of each ``(n, k)``.
    """

    shares: Tensor
    policies: Tensor
    expectations: Tensor

    @property
    def expectation(self) -> Tensor:
        """Expected features of the mixture, ``(k,)``."""
        return self.shares @ self.expectations


@dataclass(frozen=True, eq=False)
class LearnedReward:
    """What a learner made of demonstrations.

    Attributes:
        reward: function of features.
        rewards: of every state ``(S,)``, or of every state and action ``(S, A)`` where features are of both.
        policy: what the learner takes for the demonstrator's, ``(S, A)``, or of each step ``(T, S, A)``.
        converged: whether the learner's own criterion was met.
        history: numbers of each iteration by name.
        mixture: policies that together have the expert's feature expectations, where the learner makes one.
    """

    reward: FeatureReward
    rewards: Tensor
    policy: Tensor
    converged: bool
    history: dict[str, list[float]] = field(default_factory=dict)
    mixture: Mixture | None = None

    @property
    def weights(self) -> Tensor | None:
        """Of a linear reward, ``(k,)``; None for a network."""
        return self.reward.weights


def by_action(mdp: TabularMDP, features: Any) -> Tensor:
    """Checked features ``(S, A, k)``.

    Raises:
        ValueError: they have another shape, or are not finite.
    """
    phi = torch.as_tensor(features).to(mdp.transitions)
    S, A = mdp.states, mdp.actions
    if not (phi.shape[:-1] in ((S,), (S, A)) and phi.shape[-1]):
        raise ValueError(
            f"features must have the shape (S, k) or (S, A, k) with S = {S} and A = {A}, got {tuple(phi.shape)}"
        )
    if not bool(phi.isfinite().all()):
        raise ValueError("features must be finite")
    return phi[:, None].expand(-1, A, -1) if phi.ndim == 2 else phi


def checked(mdp: TabularMDP, demonstrations: Any) -> TabularTrajectories:
    """Demonstrations that fit a process.

    Raises:
        TypeError: they are none.
        ValueError: they do not fit.
    """
    if not isinstance(demonstrations, TabularTrajectories):
        raise TypeError(
            f"demonstrations must be planners.TabularTrajectories(states, actions), got {type(demonstrations).__name__}; "
            "TabularTrajectories.from_trajectories(trajectories) makes them of logs"
        )
    demonstrations.check_fits(mdp)
    return demonstrations


def of_demonstrated_steps(mdp: TabularMDP, demonstrations: TabularTrajectories) -> TabularMDP:
    """The process as far as it was demonstrated: its first T steps, from the states in which demonstrations begin."""
    first = demonstrations.states[:, 0].to(mdp.transitions.device)
    starts = torch.bincount(first, minlength=mdp.states).to(mdp.transitions) / demonstrations.number
    return replace(mdp, rewards=None, initial=starts, horizon=demonstrations.steps)


def demonstrated_features(mdp: TabularMDP, features: Tensor, demonstrations: TabularTrajectories) -> Tensor:
    """Discounted sums of features ``(S, A, k)`` along demonstrations, on average: ``(k,)``."""
    counts = demonstrations.counts(mdp)
    decay = mdp.discount ** torch.arange(len(counts), dtype=counts.dtype, device=counts.device)
    return torch.einsum("t,tsa,sak->k", decay, counts, features) / demonstrations.number


def rewards_of(reward: FeatureReward, mdp: TabularMDP, features: Any) -> Tensor:
    """Rewards of features as they were handed in, ``(S,)`` or ``(S, A)``."""
    with torch.no_grad():
        return reward(torch.as_tensor(features).to(mdp.transitions))
