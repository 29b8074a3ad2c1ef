"""Algorithms that improve the policy first and fit the value function after it, by itself.

The policy has been improved on advantages of the value function before, so that the samples do not bias their own advantages.
"""

import abc
from dataclasses import KW_ONLY, dataclass

import torch

from mbrl.on_policy.base import OnPolicy, OnPolicyLearner
from mbrl.on_policy.rollout import Samples
from mbrl.on_policy.statistics import explained_variance
from mbrl.on_policy.value_fitting import fit_value
from mbrl.training.checking import check_numbers


@dataclass(frozen=True)
class PolicyThenValue(OnPolicy, abc.ABC):
    """What algorithms with two separate fits are told.

    Attributes:
        value_epochs: passes over the samples of an iteration.
        value_minibatch_size: steps of one descent, of each process.
        value_learning_rate: of Adam.

    Raises:
        ValueError: a number is out of its range.
    """

    _: KW_ONLY
    value_epochs: int = 20
    value_minibatch_size: int = 128
    value_learning_rate: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, counts=("value_epochs", "value_minibatch_size"), rates=("value_learning_rate",))

    def prepare(self, learner: OnPolicyLearner) -> None:
        """The optimizer of the value function."""
        _, of_value = learner.parameters.parts
        learner.optimizers["value"] = torch.optim.Adam([of_value], lr=self.value_learning_rate, eps=1e-5, fused=True)

    def update(self, learner: OnPolicyLearner, samples: Samples) -> dict[str, float]:
        """The policy, then the value function."""
        explained = explained_variance(samples, learner.processes)
        metrics = self.improve(learner, samples)
        return {
            **metrics,
            "train/value_loss": self.fit_value(learner, samples),
            "train/explained_variance": explained,
        }

    @abc.abstractmethod
    def improve(self, learner: OnPolicyLearner, samples: Samples) -> dict[str, float]:
        """Improve the policy on samples, and say how it went."""

    def fit_value(self, learner: OnPolicyLearner, samples: Samples) -> float:
        """Fit the value function to the returns of samples, and say how large the loss is over all of them afterwards."""
        return fit_value(
            learner.value,
            learner.parameters,
            learner.optimizers["value"],
            samples,
            epochs=self.value_epochs,
            minibatch_size=self.value_minibatch_size,
            generator=learner.generator,
            processes=learner.processes,
        )
