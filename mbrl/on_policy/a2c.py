r"""Advantage actor-critic, the synchronous variant of A3C (Mnih et al. 2016, arXiv:1602.01783, algorithm S3).

.. math:: \hat A_t = \sum_{k=0}^{n-1} \gamma^k r_{t+k} + \gamma^n V(y_{t+n}) - V(y_t)

and after every few steps in all worlds one step of RMSprop along

.. math:: \hat{\mathbb E}\bigl[\nabla \log \pi_\theta(a \mid y) \, \hat A
    + c \, \nabla S[\pi_\theta] - \tfrac12 \nabla (V_\phi(y) - \hat R)^2\bigr].

Where it differs from the paper: worlds step side by side instead of threads that overtake each other, and policy and value
function share no weights, so that their losses need no weights either.
"""

from dataclasses import KW_ONLY, dataclass, field

import torch

from mbrl.on_policy.advantages import AdvantageEstimator, NStepAdvantages
from mbrl.on_policy.base import OnPolicy, OnPolicyLearner
from mbrl.on_policy.policy_gradient import check_closed_forms, movement, policy_gradient_objective, weighted_share
from mbrl.on_policy.rollout import Samples
from mbrl.on_policy.statistics import explained_variance
from mbrl.training.checking import check_numbers


@dataclass(frozen=True)
class A2C(OnPolicy):
    """Advantage actor-critic: many short iterations of one step each.

    Attributes:
        learning_rate: of RMSprop.
        anneal: whether the learning rate falls linearly to zero over the training.
        entropy_weight: c.
        max_gradient_norm: gradients of the policy and of the value function are scaled down to it.

    Raises:
        ValueError: a number is out of its range.
    """

    _: KW_ONLY
    advantages: AdvantageEstimator = field(default_factory=NStepAdvantages)
    steps_per_iteration: int | None = None
    sequence_length: int = 5
    learning_rate: float = 7e-4
    anneal: bool = True
    entropy_weight: float = 0.0
    max_gradient_norm: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, rates=("learning_rate",), bounds=("max_gradient_norm",), weights=("entropy_weight",))

    def prepare(self, learner: OnPolicyLearner) -> None:
        """One optimizer for both networks.

        Raises:
            NoClosedFormError: the policy's distributions lack a formula that is needed.
        """
        check_closed_forms(learner.policy, entropy="entropy_weight > 0" if self.entropy_weight else "")
        learner.optimizers["rmsprop"] = torch.optim.RMSprop(
            [learner.parameters.vector], lr=self.learning_rate, alpha=0.99, eps=1e-5
        )

    def update(self, learner: OnPolicyLearner, samples: Samples) -> dict[str, float]:
        """One step of RMSprop on all samples."""
        processes, policy, parameters = learner.processes, learner.policy, learner.parameters
        explained = explained_variance(samples, processes)
        new, _ = policy.sequence(samples.inputs, samples.hidden, samples.starts)
        values, _ = learner.value.sequence(samples.inputs, samples.value_hidden, samples.starts)
        gain = policy_gradient_objective(new, samples, processes)
        if self.entropy_weight:
            gain = gain + self.entropy_weight * weighted_share(new.entropy(), samples.weights, processes)
        value_loss = 0.5 * weighted_share((values - samples.returns).square(), samples.weights, processes)
        parameters.zero_gradients()
        (value_loss - gain).backward()
        processes.sum_into(parameters.gradient)
        norm = float(parameters.gradient[: len(parameters.parts[0])].norm())
        parameters.clip_gradients(self.max_gradient_norm)
        optimizer = learner.optimizers["rmsprop"]
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * (1.0 - learner.progress if self.anneal else 1.0)
        optimizer.step()
        with torch.no_grad():
            new, _ = policy.sequence(samples.inputs, samples.hidden, samples.starts)
        return {
            **movement(new, samples, processes),
            "train/gradient_norm": norm,
            "train/value_loss": float(processes.sum(value_loss.detach())),
            "train/explained_variance": explained,
        }
