r"""Heads: the last layer of a policy, from features to a distribution of actions.

Every head is one linear layer, :math:`o = W f + b`, whose outputs are mapped to the parameters of its family. W is orthogonal
with gain 0.01, so that a policy begins near the middle of the controls and hardly depends on what it sees, which matters more
than most choices (Andrychowicz et al. 2021, section 3.2; Huang et al. 2022, detail 2). Biases begin at zero, but for those of
standard deviations, which begin at ``initial_std``.

Standard deviations are in units of half the control range, as actions are: 1 reaches from the middle of the controls to
their limits. One that depends on the state is bounded softly, as in Chua et al. 2018, appendix A.1: its logarithm stays
between -20 and 2, and its gradient does not vanish where it leaves them.
"""

import abc
import math
import numbers
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mbrl.policies.distributions import (
    ActionDistribution,
    Beta,
    Categorical,
    DiagonalGaussian,
    GaussianMixture,
    SquashedGaussian,
)

MIN_LOG_STD, MAX_LOG_STD = -20.0, 2.0
"""Bounds of the logarithm of a standard deviation that depends on the state."""


class Head(nn.Module, abc.ABC):
    """Base of the heads: a linear layer, and what its outputs mean.

    Args:
        features: how many the body of the policy gives.
        outputs: of the layer.
        generator: source of the initial weights; None is torch's global one.

    Attributes:
        layer: the linear layer.
        bounded: whether actions keep within the limits, at which their density is zero or infinite.

    Raises:
        ValueError: a size is not positive.
    """

    bounded = False

    def __init__(self, features: int, outputs: int, *, generator: torch.Generator | None = None):
        super().__init__()
        _check_sizes(features=features, outputs=outputs)
        self.layer = cast(nn.Linear, nn.utils.skip_init(nn.Linear, features, outputs))
        nn.init.orthogonal_(self.layer.weight, gain=0.01, generator=generator)
        nn.init.zeros_(self.layer.bias)

    @abc.abstractmethod
    def forward(self, features: Tensor) -> ActionDistribution:
        """Distribution of batch shape ``(*batch,)`` for features ``(*batch, f)``.

        Raises:
            ValueError: there are more or fewer features than the head has weights for.
        """

    def outputs(self, features: Tensor) -> Tensor:
        """Of the linear layer, ``(*batch, outputs)``."""
        expected = self.layer.in_features
        if features.ndim < 1 or features.shape[-1] != expected:
            raise ValueError(f"{type(self).__name__} needs features (*batch, {expected}), got {tuple(features.shape)}")
        return self.layer(features)


class CategoricalHead(Head):
    """One of finitely many actions.

    Args:
        features: f.
        choices: number of actions.
        generator: source of the initial weights; None is torch's global one.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(self, features: int, choices: int, *, generator: torch.Generator | None = None):
        _check_sizes(choices=choices)
        super().__init__(features, choices, generator=generator)

    def forward(self, features: Tensor) -> Categorical:
        """The outputs are the logits."""
        return Categorical(self.outputs(features))


class _NormalHead(Head):
    """Mean and log-std of Gaussian coordinates."""

    def __init__(
        self,
        features: int,
        action_dim: int,
        *,
        initial_std: float = 1.0,
        state_dependent_std: bool = False,
        generator: torch.Generator | None = None,
    ):
        _check_sizes(action_dim=action_dim)
        log_std = _initial_log_std(initial_std, bounded=state_dependent_std)
        super().__init__(features, (1 + state_dependent_std) * action_dim, generator=generator)
        if state_dependent_std:
            nn.init.constant_(self.layer.bias[action_dim:], log_std)
            self.log_std = None
        else:
            self.log_std = nn.Parameter(torch.full((action_dim,), log_std))

    @abc.abstractmethod
    def forward(self, features: Tensor) -> DiagonalGaussian | SquashedGaussian:
        """Distribution of the mean and log-std."""

    def mean_and_log_std(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """``(*batch, a)`` each."""
        outputs = self.outputs(features)
        if self.log_std is not None:
            return outputs, self.log_std.expand_as(outputs)
        mean, log_std = outputs.chunk(2, dim=-1)
        return mean, _bounded(log_std)


class GaussianHead(_NormalHead):
    """Independent normal coordinates; controls are clamped to their limits after the draw.

    Args:
        features: f.
        action_dim: a.
        initial_std: standard deviation at first, in half control ranges.
        state_dependent_std: whether the standard deviation is an output of the layer, or a parameter on its own, the same in
            all states, as is customary in on-policy learning.
        generator: source of the initial weights; None is torch's global one.

    Raises:
        ValueError: a size or the standard deviation is not positive, or the latter is out of its bounds.
    """

    def forward(self, features: Tensor) -> DiagonalGaussian:
        """The outputs are the mean and, where they depend on the state, the logarithms of the standard deviations."""
        return DiagonalGaussian(*self.mean_and_log_std(features))


class SquashedGaussianHead(_NormalHead):
    """Hyperbolic tangent of normal coordinates, within the control limits.

    Args:
        features: f.
        action_dim: a.
        initial_std: standard deviation at first, before the tangent, in half control ranges at their middle; at 1 actions are
            about uniform.
        state_dependent_std: whether the standard deviation is an output of the layer, or a parameter on its own, the same in
            all states.
        generator: source of the initial weights; None is torch's global one.

    Raises:
        ValueError: a size or the standard deviation is not positive, or the latter is out of its bounds.
    """

    bounded = True

    def forward(self, features: Tensor) -> SquashedGaussian:
        """The outputs are the mean and, where they depend on the state, the logarithms of the standard deviations."""
        return SquashedGaussian(*self.mean_and_log_std(features))


class BetaHead(Head):
    """Beta coordinates, within the control limits, with one mode (Chou et al. 2017).

    At first alpha = beta = 1 + log 2, a broad hump of standard deviation 0.48 half control ranges.

    Args:
        features: f.
        action_dim: a.
        generator: source of the initial weights; None is torch's global one.

    Raises:
        ValueError: a size is not positive.
    """

    bounded = True

    def __init__(self, features: int, action_dim: int, *, generator: torch.Generator | None = None):
        _check_sizes(action_dim=action_dim)
        super().__init__(features, 2 * action_dim, generator=generator)

    def forward(self, features: Tensor) -> Beta:
        """The outputs are alpha and beta, by way of 1 + softplus."""
        return Beta(*(1 + functional.softplus(self.outputs(features))).chunk(2, dim=-1))


class MixtureHead(Head):
    """Mixture of Gaussians, for demonstrations that do one thing or another; its policy is trained without an entropy bonus.

    All components depend on the state, in weight, mean and standard deviation. They begin nearly equal and part as they learn.

    Args:
        features: f.
        action_dim: a.
        components: K.
        initial_std: standard deviation of the components at first, in half control ranges.
        generator: source of the initial weights; None is torch's global one.

    Raises:
        ValueError: a size or the standard deviation is not positive, or the latter is out of its bounds.
    """

    def __init__(
        self,
        features: int,
        action_dim: int,
        components: int = 5,
        *,
        initial_std: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        _check_sizes(action_dim=action_dim, components=components)
        log_std = _initial_log_std(initial_std, bounded=True)
        super().__init__(features, components * (1 + 2 * action_dim), generator=generator)
        self.components, self.action_dim = components, action_dim
        nn.init.constant_(self.layer.bias[-components * action_dim :], log_std)

    def forward(self, features: Tensor) -> GaussianMixture:
        """The outputs are the logits, the means, and the logarithms of the standard deviations."""
        K, a = self.components, self.action_dim
        logits, means, log_stds = self.outputs(features).split([K, K * a, K * a], dim=-1)
        return GaussianMixture(logits, means.unflatten(-1, (K, a)), _bounded(log_stds).unflatten(-1, (K, a)))


def _bounded(x: Tensor) -> Tensor:
    """Log-std between its bounds, nearly x well inside them."""
    x = MAX_LOG_STD + functional.logsigmoid(x - MAX_LOG_STD)  # softplus(y) = -logsigmoid(-y), without torch's threshold
    return MIN_LOG_STD - functional.logsigmoid(MIN_LOG_STD - x)


def _initial_log_std(std: float, *, bounded: bool) -> float:
    """Log-std of a parameter, or what :func:`_bounded` takes to it."""
    if not 0 < std < math.inf:
        raise ValueError(f"initial_std must be positive, in half control ranges, got {std}")
    if not bounded:
        return math.log(std)
    below, above = math.log(std) - MIN_LOG_STD, MAX_LOG_STD - math.log(std)
    if not (below > 0 and above > 0):
        raise ValueError(
            f"initial_std of a standard deviation that depends on the state must be between {math.exp(MIN_LOG_STD):.1e} and "
            f"{math.exp(MAX_LOG_STD):.2g}, got {std}"
        )
    x = MIN_LOG_STD + below + math.log(-math.expm1(-below))  # softplus takes y + log(1 - exp(-y)) to y
    above = MAX_LOG_STD - x
    return x - math.log(-math.expm1(-above))


def _check_sizes(**sizes: int):
    for name, size in sizes.items():
        if not (isinstance(size, numbers.Integral) and not isinstance(size, bool) and size >= 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
