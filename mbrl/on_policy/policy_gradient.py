r"""The policy gradient theorem (Sutton et al. 2000), as a function to differentiate.

.. math:: \nabla_\theta J = \mathbb E\Bigl[\sum_t \nabla_\theta \log \pi_\theta(a_t \mid y_t) \, A_t\Bigr]

holds for discount one and any :math:`A_t` that is a return from t on minus what does not depend on the action. With a discount
it would need the factor :math:`\gamma^t`, which is left out here as everywhere: states late in an episode count like early ones.
"""

import torch
from torch import Tensor

from mbrl.on_policy.rollout import Samples
from mbrl.on_policy.statistics import mean_over
from mbrl.policies.distributions import ActionDistribution, NoClosedFormError
from mbrl.policies.policy import Policy
from mbrl.training.processes import Processes


def policy_gradient_objective(new: ActionDistribution, samples: Samples, processes: Processes) -> Tensor:
    """This process's share of the mean of log-probabilities times advantages.

    Its gradient at the policy that drew the samples, summed over the processes, estimates that of the expected return per step.

    Args:
        new: distributions ``(L, C)`` of the policy, with a graph.
        samples: whose advantages and weights count.
        processes: with samples of their own.
    """
    return weighted_share(new.log_prob(samples.actions) * samples.advantages, samples.weights, processes)


def weighted_share(values: Tensor, weights: Tensor, processes: Processes) -> Tensor:
    """This process's share of the weighted mean of values over all processes, with its graph."""
    return torch.where(weights > 0, values * weights, 0.0).sum() / processes.sum(weights.sum()).clamp_min(1.0)


@torch.no_grad()
def check_closed_forms(policy: Policy, *, kl: str = "", entropy: str = "") -> None:
    """Raise NoClosedFormError where a policy's distributions lack a formula that is needed, before anything is collected.

    Args:
        policy: the policy.
        kl: what needs the divergence, as the error names it; empty if nothing does.
        entropy: what needs the entropy.

    Raises:
        NoClosedFormError: there is none.
    """
    y = torch.zeros(1, policy.observation_dim, dtype=policy.dtype, device=policy.device)
    distribution, _ = policy.step(y, policy.initial_hidden(1))
    for needing, what, formula in (
        (kl, "divergence", lambda: distribution.kl(distribution)),
        (entropy, "entropy", distribution.entropy),
    ):
        if not needing:
            continue
        try:
            formula()
        except NoClosedFormError as error:
            raise NoClosedFormError(
                f"{needing} needs an exact {what}, which a {type(distribution).__name__} does not have; choose another head, "
                'such as network=NetworkSettings(head="gaussian"), or train with PPO, its clipped objective and '
                "entropy_weight=0"
            ) from error


@torch.no_grad()
def movement(new: ActionDistribution, samples: Samples, processes: Processes) -> dict[str, float]:
    """Mean entropy, and mean divergence from the policy that drew the samples; nothing where there is no formula for them."""
    try:
        entropy, kl = new.entropy(), samples.distribution.kl(new)
    except NoClosedFormError:
        return {}
    return {
        "train/entropy": float(mean_over(entropy, samples.weights, processes)),
        "train/kl": float(mean_over(kl, samples.weights, processes)),
    }
