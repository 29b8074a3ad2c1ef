r"""What the policy of PPO maximizes (Schulman et al. 2017, arXiv:1707.06347).

All are written with the ratios of probabilities

.. math:: \rho(\theta) = \pi_\theta(a \mid y) / \pi_k(a \mid y).
"""

import abc
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mbrl.policies.distributions import ActionDistribution
from mbrl.training.checking import check_numbers


@dataclass(frozen=True)
class PolicyObjective(abc.ABC):
    """A surrogate of the return that keeps a policy near the one that the samples come from.

    Attributes:
        needs_divergence: whether it takes the exact divergence of the policy's distributions.
    """

    needs_divergence: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def initial_coefficient(self) -> float:
        """The coefficient before the first iteration."""

    @abc.abstractmethod
    def __call__(
        self,
        ratios: Tensor,
        advantages: Tensor,
        old: ActionDistribution,
        new: ActionDistribution,
        coefficient: float,
    ) -> Tensor:
        """The objective of each sample, ``(*batch,)``, to be maximized."""

    @abc.abstractmethod
    def next_coefficient(self, coefficient: float, kl: float) -> float:
        """The coefficient of the next iteration, where this one has moved the policy by a mean divergence."""


@dataclass(frozen=True)
class ClippedObjective(PolicyObjective):
    r"""Ratios pay off no further than a range about one (eq. 7).

    .. math:: \min\bigl(\rho \hat A, \operatorname{clip}(\rho, 1 - \epsilon, 1 + \epsilon) \hat A\bigr)

    Attributes:
        clip_range: epsilon.

    Raises:
        ValueError: it is not positive.
    """

    clip_range: float = 0.2

    def __post_init__(self):
        check_numbers(self, bounds=("clip_range",))

    @property
    def initial_coefficient(self) -> float:
        """There is none."""
        return 0.0

    def __call__(
        self,
        ratios: Tensor,
        advantages: Tensor,
        old: ActionDistribution,
        new: ActionDistribution,
        coefficient: float,
    ) -> Tensor:
        """The clipped surrogate."""
        clipped = ratios.clamp(1.0 - self.clip_range, 1.0 + self.clip_range)
        return torch.minimum(ratios * advantages, clipped * advantages)

    def next_coefficient(self, coefficient: float, kl: float) -> float:
        """There is none."""
        return coefficient


@dataclass(frozen=True)
class KLPenalty(PolicyObjective):
    r"""A price on the divergence, which adapts to keep it near a target (eq. 8).

    .. math:: \rho \hat A - \beta \, \mathrm{KL}[\pi_k(\cdot \mid y), \pi_\theta(\cdot \mid y)]

    After each iteration, with d the mean of the exact divergence over its samples: beta is halved if d < target / 1.5 and
    doubled if d > 1.5 target, within 1e-4 and 1e4 times what it was first: it stays finite, and finds its way back.

    Attributes:
        target: of the mean divergence of an iteration [nats].
        initial: beta of the first iteration.

    Raises:
        ValueError: a value is not positive.
    """

    needs_divergence: ClassVar[bool] = True
    target: float = 0.01
    initial: float = 1.0

    def __post_init__(self):
        check_numbers(self, rates=("target", "initial"))

    @property
    def initial_coefficient(self) -> float:
        """Beta before the first iteration."""
        return self.initial

    def __call__(
        self,
        ratios: Tensor,
        advantages: Tensor,
        old: ActionDistribution,
        new: ActionDistribution,
        coefficient: float,
    ) -> Tensor:
        """The penalized surrogate."""
        return ratios * advantages - coefficient * old.kl(new)

    def next_coefficient(self, coefficient: float, kl: float) -> float:
        """Beta of the next iteration."""
        if kl < self.target / 1.5:
            return max(coefficient / 2.0, 1e-4 * self.initial)
        return min(coefficient * 2.0, 1e4 * self.initial) if kl > self.target * 1.5 else coefficient
