r"""Generative adversarial imitation learning (Ho and Ermon 2016, arXiv:1606.03476, algorithm 1).

.. math:: \min_\pi \max_D \; \mathbb E_E[\log D(y, u)] + \mathbb E_\pi[\log(1 - D(y, u))]

D is the probability that a step is the expert's. The learner is paid by its logits, see
:class:`mbrl.DiscriminatorReward` for the three forms of it. At the optimum nothing is left to tell apart and D = 1/2: the reward
leads the policy there, and is no reward to plan with afterwards.

Where it differs from the paper: the policy learns by any on-policy algorithm, with PPO by default, the reward is
:math:`\log D - \log(1 - D)` by default, and D has a gradient penalty; see :mod:`mbrl.irl.discriminator` for which one.
"""

from dataclasses import KW_ONLY, dataclass
from typing import get_args

from torch import Tensor

from mbrl.irl.adversarial import Adversarial
from mbrl.irl.reward_network import DiscriminatorReward, RewardForm, RewardModel, RewardNetwork, of_logits


@dataclass(frozen=True)
class GAIL(Adversarial):
    """Generative adversarial imitation learning.

    Attributes:
        reward_form: ``"signed"``, log D - log(1 - D); ``"positive"``, -log(1 - D), which pays for long episodes; or
            ``"negative"``, log D, which pays for short ones.

    Raises:
        ValueError: a setting is none there is.
    """

    _: KW_ONLY
    reward_form: RewardForm = "signed"

    def __post_init__(self):
        super().__post_init__()
        if self.reward_form not in get_args(RewardForm):
            known = ", ".join(map(repr, get_args(RewardForm)))
            raise ValueError(f"reward_form must be one of {known}, got {self.reward_form!r}")

    @property
    def compares_policies(self) -> bool:
        """No."""
        return False

    def model(self, network: RewardNetwork, seed: int) -> RewardModel:
        """The logits."""
        return network

    def reward(self, model: RewardModel) -> RewardModel:
        """What the learner is paid."""
        return DiscriminatorReward(model, self.reward_form)

    def pay(self, model: RewardModel, rows: Tensor, log_probs: Tensor) -> Tensor:
        """The reward."""
        return of_logits(model.of_rows(rows), self.reward_form)
