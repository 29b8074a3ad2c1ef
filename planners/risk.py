r"""Risk: one number for a cost that is uncertain.

A candidate runs in several outcomes, the particles of an ensemble or the worlds of :class:`~dynamics.RandomizedWorlds`. A risk
measure reduces their costs :math:`J_1, \dots, J_P` to the score that a planner compares.
"""

import abc
import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Risk(abc.ABC):
    """Base of the risk measures."""

    @abc.abstractmethod
    def __call__(self, costs: Tensor, members: int) -> Tensor:
        """The scores of uncertain costs.

        Args:
            costs: ``(*batch, outcomes)``, the outcomes of one member of an ensemble (or of one world) side by side, equally
                many of each where ``members`` divides their number.
            members: number of members.

        Returns:
            ``(*batch,)``.
        """

    def check(self, outcomes: int, members: int) -> None:  # noqa: B027 (most measures take any number of outcomes)
        """Raise ValueError if the measure cannot be computed from that many outcomes of that many members."""


@dataclass(frozen=True)
class Expectation(Risk):
    """The mean over the outcomes: risk-neutral."""

    def __call__(self, costs: Tensor, members: int) -> Tensor:
        """The mean."""
        return costs.mean(-1)


@dataclass(frozen=True)
class CVaR(Risk):
    r"""Conditional value at risk: the mean over the worst share of the outcomes (Rockafellar and Uryasev 2000).

    .. math:: \mathrm{CVaR}_\alpha = \min_\nu \; \nu + \frac{1}{\alpha P} \sum_p \max(J_p - \nu, 0)

    The share of one outcome counts in part where alpha P is no integer.

    Attributes:
        level: alpha in (0, 1]; 1 is the mean, 1 / P and less the worst case.

    Raises:
        ValueError: the level is out of range.
    """

    level: float = 0.25

    def __post_init__(self):
        if not 0 < self.level <= 1:
            raise ValueError(f"level must be in (0, 1], the share of the worst outcomes, got {self.level}")

    def __call__(self, costs: Tensor, members: int) -> Tensor:
        """The mean over the worst outcomes."""
        P = costs.shape[-1]
        worst = costs.sort(dim=-1, descending=True).values
        weights = (self.level * P - torch.arange(P, dtype=costs.dtype, device=costs.device)).clamp(0.0, 1.0)
        return worst @ (weights / weights.sum())


@dataclass(frozen=True)
class WorstCase(Risk):
    """The largest cost of all outcomes."""

    def __call__(self, costs: Tensor, members: int) -> Tensor:
        """The maximum."""
        return costs.amax(-1)


@dataclass(frozen=True)
class EpistemicPenalty(Risk):
    r"""The mean, plus kappa times the epistemic standard deviation: the disagreement between members.

    In rewards: the mean minus kappa standard deviations. Each member has a mean cost over its own particles, which noise
    moves, too; with S > 1 particles for each member that part is taken out by the analysis of variance,

    .. math:: \sigma_e^2 = \max\left(0, \; \mathrm{var}_e \, \bar J_e - \frac{1}{S} \, \mathrm{mean}_e \, s_e^2 \right)

    with :math:`s_e^2` the unbiased variance within member e and :math:`\mathrm{var}_e` that of E members over their mean.

    Attributes:
        kappa: weight; negative values explore.
    """

    kappa: float = 1.0

    def __post_init__(self):
        if not math.isfinite(self.kappa):
            raise ValueError(f"kappa must be a finite number, got {self.kappa}")

    def __call__(self, costs: Tensor, members: int) -> Tensor:
        """Mean plus kappa standard deviations."""
        by_member = costs.unflatten(-1, (members, -1))
        variance = by_member.mean(-1).var(-1, correction=0)
        particles = by_member.shape[-1]
        if particles > 1:
            variance = variance - by_member.var(-1).mean(-1) / particles
        return costs.mean(-1) + self.kappa * variance.clamp_min(0.0).sqrt()

    def check(self, outcomes: int, members: int) -> None:
        """Every member needs equally many particles."""
        if members < 2 or outcomes % members:
            raise ValueError(
                f"EpistemicPenalty compares members, so it needs at least 2 of them and equally many particles each, got "
                f"{outcomes} particles of {members} members; set particles to a multiple of {max(members, 2)}"
            )
