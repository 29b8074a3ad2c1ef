r"""REINFORCE (Williams 1992): a step along the gradient of the expected return.

.. math:: \theta_{k+1} = \theta_k + \text{Adam}\Bigl(\hat{\mathbb E}[\nabla \log \pi_\theta(a \mid y) \, \hat A]
    + c \, \hat{\mathbb E}[\nabla S[\pi_\theta]]\Bigr)

with the rewards to go as :math:`\hat A`, minus the value as a baseline unless there is to be none. Advantages are not
normalized: the estimate keeps its expectation, and Adam makes up for its scale. Where it differs from the paper: several
episodes make a step, and one that the segment cuts off is continued by the value.
"""

from dataclasses import KW_ONLY, dataclass, field

import torch

from mbrl.on_policy.advantages import AdvantageEstimator, RewardsToGo
from mbrl.on_policy.base import OnPolicyLearner
from mbrl.on_policy.policy_gradient import check_closed_forms, movement, policy_gradient_objective, weighted_share
from mbrl.on_policy.policy_then_value import PolicyThenValue
from mbrl.on_policy.rollout import Samples
from mbrl.training.checking import check_numbers


@dataclass(frozen=True)
class REINFORCE(PolicyThenValue):
    """Policy gradients with rewards to go, one step of an iteration.

    Attributes:
        learning_rate: of Adam, for the policy.
        entropy_weight: c.

    Raises:
        ValueError: a number is out of its range.
    """

    _: KW_ONLY
    advantages: AdvantageEstimator = field(default_factory=RewardsToGo)
    learning_rate: float = 1e-2
    entropy_weight: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, rates=("learning_rate",), weights=("entropy_weight",))

    def prepare(self, learner: OnPolicyLearner) -> None:
        """An optimizer for each network.

        Raises:
            NoClosedFormError: the policy's distributions lack a formula that is needed.
        """
        check_closed_forms(learner.policy, entropy="entropy_weight > 0" if self.entropy_weight else "")
        super().prepare(learner)
        of_policy, _ = learner.parameters.parts
        learner.optimizers["policy"] = torch.optim.Adam([of_policy], lr=self.learning_rate, eps=1e-5, fused=True)

    def improve(self, learner: OnPolicyLearner, samples: Samples) -> dict[str, float]:
        """One step of Adam on all samples."""
        policy, processes, parameters = learner.policy, learner.processes, learner.parameters
        new, _ = policy.sequence(samples.inputs, samples.hidden, samples.starts)
        gain = policy_gradient_objective(new, samples, processes)
        if self.entropy_weight:
            gain = gain + self.entropy_weight * weighted_share(new.entropy(), samples.weights, processes)
        parameters.zero_gradients()
        (-gain).backward()
        processes.sum_into(parameters.gradient)
        norm = float(parameters.gradient.norm())
        learner.optimizers["policy"].step()
        with torch.no_grad():
            new, _ = policy.sequence(samples.inputs, samples.hidden, samples.starts)
        return {**movement(new, samples, processes), "train/gradient_norm": norm}
