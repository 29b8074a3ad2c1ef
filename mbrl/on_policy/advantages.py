"""How good an action was: what on-policy algorithms weigh the gradient of its probability with."""

import abc
from dataclasses import dataclass

from torch import Tensor

from mbrl.on_policy.returns import generalized_advantages, n_step_returns, rewards_to_go
from mbrl.training.checking import check_numbers


@dataclass(frozen=True)
class AdvantageEstimator(abc.ABC):
    """From rewards and values to advantages and to the targets of the value function."""

    @abc.abstractmethod
    def estimate(
        self,
        rewards: Tensor,
        values: Tensor,
        next_values: Tensor,
        terminated: Tensor,
        ended: Tensor,
        valid: Tensor,
        discount: float,
    ) -> tuple[Tensor, Tensor]:
        """Advantages and value targets, ``(T, N)`` each; see :func:`generalized_advantages` for what comes in."""


@dataclass(frozen=True)
class GeneralizedAdvantages(AdvantageEstimator):
    """Generalized advantage estimation (Schulman et al. 2016), whose value targets are lambda-returns.

    Attributes:
        trace_decay: lambda in [0, 1]: 0 trusts the value function, 1 the rewards.

    Raises:
        ValueError: it is out of its range.
    """

    trace_decay: float = 0.95

    def __post_init__(self):
        check_numbers(self, shares=("trace_decay",))

    def estimate(
        self,
        rewards: Tensor,
        values: Tensor,
        next_values: Tensor,
        terminated: Tensor,
        ended: Tensor,
        valid: Tensor,
        discount: float,
    ) -> tuple[Tensor, Tensor]:
        """Exponentially weighted sums of one-step errors."""
        advantages = generalized_advantages(
            rewards,
            values,
            next_values,
            terminated,
            ended,
            discount=discount,
            trace_decay=self.trace_decay,
            valid=valid,
        )
        return advantages, advantages + values


@dataclass(frozen=True)
class NStepAdvantages(AdvantageEstimator):
    """Returns of a number of steps and the value after them, minus the value.

    Attributes:
        n: number of steps.

    Raises:
        ValueError: it is not positive.
    """

    n: int = 5

    def __post_init__(self):
        check_numbers(self, counts=("n",))

    def estimate(
        self,
        rewards: Tensor,
        values: Tensor,
        next_values: Tensor,
        terminated: Tensor,
        ended: Tensor,
        valid: Tensor,
        discount: float,
    ) -> tuple[Tensor, Tensor]:
        """N-step returns minus values."""
        returns = n_step_returns(rewards, next_values, terminated, ended, n=self.n, discount=discount, valid=valid)
        return returns - values, returns


@dataclass(frozen=True)
class RewardsToGo(AdvantageEstimator):
    """All rewards from the action on, to the end of the episode; where a segment ends before it, the value there.

    Attributes:
        baseline: whether the value is subtracted, which changes no expectation and takes variance away.
    """

    baseline: bool = True

    def estimate(
        self,
        rewards: Tensor,
        values: Tensor,
        next_values: Tensor,
        terminated: Tensor,
        ended: Tensor,
        valid: Tensor,
        discount: float,
    ) -> tuple[Tensor, Tensor]:
        """Monte Carlo returns, minus values if there is a baseline."""
        returns = rewards_to_go(rewards, next_values, terminated, ended, discount=discount, valid=valid)
        return (returns - values if self.baseline else returns), returns
