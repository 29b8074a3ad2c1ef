r"""Proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347, algorithm 1).

.. math:: \theta_{k+1} \approx \arg\max_\theta \; \hat{\mathbb E}[L(\rho(\theta), \hat A)] + c \, \hat{\mathbb E}[S[\pi_\theta]],
    \qquad \phi_{k+1} \approx \arg\min_\phi \; \hat{\mathbb E}\bigl[\tfrac12 (V_\phi(y) - \hat R)^2\bigr]

by several passes of Adam over the samples in minibatches, with the clipped objective or the adaptive penalty on the divergence.

Where it differs from the paper: policy and value function share no weights, so that their losses need no weights either;
advantages are normalized over all samples of an iteration; the penalty's coefficient is adapted on the exact divergence.
"""

from dataclasses import KW_ONLY, dataclass, field, replace

import torch

from mbrl.on_policy.base import OnPolicy, OnPolicyLearner
from mbrl.on_policy.objectives import ClippedObjective, PolicyObjective
from mbrl.on_policy.policy_gradient import check_closed_forms, movement, weighted_share
from mbrl.on_policy.rollout import Samples
from mbrl.on_policy.statistics import explained_variance, mean_over, normalized
from mbrl.training.checking import check_numbers


@dataclass(frozen=True)
class PPO(OnPolicy):
    """Proximal policy optimization.

    Attributes:
        objective: :class:`ClippedObjective` or :class:`KLPenalty`.
        epochs: passes over the samples of an iteration.
        minibatch_size: steps of one descent, of each process.
        learning_rate: of Adam.
        anneal: whether the learning rate falls linearly to zero over the training.
        entropy_weight: c.
        max_gradient_norm: gradients of the policy and of the value function are scaled down to it.

    Raises:
        ValueError: a number is out of its range.
    """

    _: KW_ONLY
    objective: PolicyObjective = field(default_factory=ClippedObjective)
    epochs: int = 10
    minibatch_size: int = 64
    learning_rate: float = 3e-4
    anneal: bool = True
    entropy_weight: float = 0.0
    max_gradient_norm: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_numbers(
            self,
            counts=("epochs", "minibatch_size"),
            rates=("learning_rate",),
            bounds=("max_gradient_norm",),
            weights=("entropy_weight",),
        )

    def prepare(self, learner: OnPolicyLearner) -> None:
        """One optimizer for both networks, and the penalty's coefficient.

        Raises:
            NoClosedFormError: the policy's distributions lack a formula that is needed.
        """
        check_closed_forms(
            learner.policy,
            kl=type(self.objective).__name__ if self.objective.needs_divergence else "",
            entropy="entropy_weight > 0" if self.entropy_weight else "",
        )
        learner.optimizers["adam"] = torch.optim.Adam(
            [learner.parameters.vector], lr=self.learning_rate, eps=1e-5, fused=True
        )
        learner.numbers["coefficient"] = self.objective.initial_coefficient

    def update(self, learner: OnPolicyLearner, samples: Samples) -> dict[str, float]:
        """Passes of Adam over the samples, then the coefficient of the next iteration."""
        processes, policy = learner.processes, learner.policy
        explained = explained_variance(samples, processes)
        samples = replace(samples, advantages=normalized(samples.advantages, samples.weights, processes))
        self._set_learning_rate(learner)
        for _ in range(self.epochs):
            for minibatch in samples.minibatches(self.minibatch_size, learner.generator):
                self.descend(learner, minibatch)
        with torch.no_grad():
            new, _ = policy.sequence(samples.inputs, samples.hidden, samples.starts)
            values, _ = learner.value.sequence(samples.inputs, samples.value_hidden, samples.starts)
            log_ratios = new.log_prob(samples.actions) - samples.log_probs
        moved, coefficient = movement(new, samples, processes), learner.numbers["coefficient"]
        if "train/kl" in moved:
            learner.numbers["coefficient"] = self.objective.next_coefficient(coefficient, moved["train/kl"])
        return {
            **moved,
            "train/ratio_spread": float(mean_over(log_ratios.abs(), samples.weights, processes)),
            "train/value_loss": float(mean_over((values - samples.returns).square(), samples.weights, processes)) / 2,
            "train/explained_variance": explained,
            "train/coefficient": coefficient,
        }

    def descend(self, learner: OnPolicyLearner, samples: Samples) -> None:
        """One step of Adam on samples whose advantages are normalized."""
        policy, value, parameters = learner.policy, learner.value, learner.parameters
        new, _ = policy.sequence(samples.inputs, samples.hidden, samples.starts)
        values, _ = value.sequence(samples.inputs, samples.value_hidden, samples.starts)
        ratios = (new.log_prob(samples.actions) - samples.log_probs).exp()
        coefficient = learner.numbers["coefficient"]
        gain = self.objective(ratios, samples.advantages, samples.distribution, new, coefficient)
        if self.entropy_weight:
            gain = gain + self.entropy_weight * new.entropy()
        loss = weighted_share(0.5 * (values - samples.returns).square() - gain, samples.weights, learner.processes)
        parameters.zero_gradients()
        loss.backward()
        learner.processes.sum_into(parameters.gradient)
        parameters.clip_gradients(self.max_gradient_norm)
        learner.optimizers["adam"].step()

    def _set_learning_rate(self, learner: OnPolicyLearner) -> None:
        rate = self.learning_rate * (1.0 - learner.progress if self.anneal else 1.0)
        for group in learner.optimizers["adam"].param_groups:
            group["lr"] = rate
