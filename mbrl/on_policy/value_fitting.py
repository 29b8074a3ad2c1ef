r"""Algorithms that improve the policy first and fit the value function after it, by itself.

.. math:: \phi_{k+1} \approx \arg\min_\phi \; \hat{\mathbb E}\bigl[\tfrac12 (V_\phi(y) - \hat R)^2\bigr]

by several passes of Adam over the samples in minibatches. The policy has been improved on advantages of the value function
before, so that the samples do not bias their own advantages.
"""

import abc
from dataclasses import KW_ONLY, dataclass, replace

import torch

from mbrl.on_policy.base import OnPolicy, OnPolicyLearner
from mbrl.on_policy.policy_gradient import weighted_share
from mbrl.on_policy.rollout import Samples
from mbrl.on_policy.statistics import explained_variance, mean_over
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
        samples = replace(samples, distribution=None, log_probs=None)  # not needed, and slow to shuffle
        for _ in range(self.value_epochs):
            for minibatch in samples.minibatches(self.value_minibatch_size, learner.generator):
                self._descend(learner, minibatch)
        with torch.no_grad():
            values, _ = learner.value.sequence(samples.inputs, samples.value_hidden, samples.starts)
        return float(mean_over((values - samples.returns).square(), samples.weights, learner.processes)) / 2

    def _descend(self, learner: OnPolicyLearner, samples: Samples) -> None:
        parameters, processes = learner.parameters, learner.processes
        values, _ = learner.value.sequence(samples.inputs, samples.value_hidden, samples.starts)
        loss = 0.5 * weighted_share((values - samples.returns).square(), samples.weights, processes)
        parameters.zero_gradients()
        loss.backward()
        processes.sum_into(parameters.gradient)
        learner.optimizers["value"].step()
