r"""Adversarial inverse reinforcement learning (Fu, Luo and Levine 2018, arXiv:1710.11248, algorithm 1).

.. math:: D = \frac{e^{f}}{e^{f} + \pi(u | y)}, \qquad
    f = r_\theta(y) + \gamma h_\phi(y') - h_\phi(y), \qquad
    \hat r = \log D - \log(1 - D) = f - \log \pi(u | y)

The learner maximizes :math:`\mathbb E \sum f - \log \pi`, which is the return of f and the entropy of the policy. Where expert
and learner have become the same, :math:`f^* = \log \pi_E`, the soft advantage of the expert's reward; if the expert is optimal
with an entropy bonus and its reward is one of the state alone, in a world whose dynamics are deterministic and decomposable, then
:math:`r_\theta` is that reward but for a constant (section 6, theorem 5.1), and can be planned with in worlds with other
dynamics.

The log-probability is that of the present policy, of the expert's steps as of the learner's, and of the controls as they were
applied: see :mod:`mbrl.irl.applied_actions`.

Where it differs from the paper: no samples of earlier iterations are kept.
``entropy_weight`` is 1 in theory, which the authors' code lowers to 0.1: the entropy of a policy may outweigh what can be learned
from few demonstrations. It also does where f falls behind, as f begins at zero while the entropy is paid in full from the first
iteration on: hence no penalty on the gradient of f, and many steps of the discriminator in an iteration. At 0 the learner is paid
f alone, and only an entropy bonus of the on-policy algorithm keeps it from becoming deterministic, which f, trained against the
policy's own log-probabilities, does not.
"""

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from mbrl.irl.adversarial import Adversarial
from mbrl.irl.reward_network import RewardInputs, RewardModel, RewardNetwork, ShapedReward
from mbrl.training.checking import check_numbers


@dataclass(frozen=True)
class AIRL(Adversarial):
    """Adversarial inverse reinforcement learning.

    Attributes:
        inputs: of what the reward is a function; ``"state"``, which carries over to other dynamics, by default.
        shaping: whether a potential is added to the reward, which takes up what depends on the dynamics. The learned reward is
            without it.
        entropy_weight: w of the learner's reward f - w log pi.

    Raises:
        ValueError: a setting is none there is.
    """

    _: KW_ONLY
    inputs: RewardInputs = "state"
    shaping: bool = True
    entropy_weight: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, weights=("entropy_weight",))

    @property
    def compares_policies(self) -> bool:
        """Yes."""
        return True

    def model(self, network: RewardNetwork, seed: int) -> RewardModel:
        """F."""
        if not self.shaping:
            return network
        return ShapedReward(network, discount=self.policy.discount, hidden=self.discriminator.hidden, seed=seed)

    def reward(self, model: RewardModel) -> RewardModel:
        """r, without the potential."""
        return model.base if isinstance(model, ShapedReward) else model

    def pay(self, model: RewardModel, rows: Tensor, log_probs: Tensor) -> Tensor:
        """F - w log pi."""
        return model.of_rows(rows) - self.entropy_weight * log_probs
