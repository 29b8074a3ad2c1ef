r"""How likely a policy is to apply a control, of an expert's demonstrations as of its own.

A Gaussian policy draws actions on the whole line, and what is applied is clamped to the limits. A demonstration holds what was
applied. To compare the two, the probability is that of the applied control: inside the limits its density, and at a limit, where
-1 and 1 stand for the limits, the probability of all that is clamped there,

.. math:: P(u = u_{\max}) = \Phi\bigl((\mu - 1) / \sigma\bigr).
"""

import torch
from torch import Tensor

from mbrl.policies.action_space import ActionSpace, ContinuousActions
from mbrl.policies.distributions import ActionDistribution, Categorical, DiagonalGaussian, GaussianMixture
from mbrl.policies.policy import Policy

AT_LIMIT = 1e-6
"""Actions within this of a limit are at it, after the rounding of a file."""

MARGIN = 1e-3
"""Squashed and beta heads have no density at the limits; actions are kept this far inside, those of the learner as well."""


def applied_log_prob(distribution: ActionDistribution, actions: Tensor, policy: Policy) -> Tensor:
    """Log-probabilities ``(*b,)`` of the controls that actions ``(*b, a)``, or numbers ``(*b,)``, stand for.

    Args:
        distribution: of the policy, for the same batch.
        actions: drawn by the policy, or those of an expert's controls.
        policy: says what the limits are.
    """
    limited = _limited(policy.actions).to(actions.device)
    if isinstance(distribution, Categorical) or not bool(limited.any()):
        return distribution.log_prob(actions)
    if policy.head.bounded:
        return distribution.log_prob(actions.clamp(MARGIN - 1, 1 - MARGIN))
    if isinstance(distribution, DiagonalGaussian):
        return _clamped(actions, distribution.mean, distribution.log_std, limited).sum(-1)
    if isinstance(distribution, GaussianMixture):
        of_each = _clamped(actions.unsqueeze(-2), distribution.means, distribution.log_stds, limited).sum(-1)
        return (distribution.logits.log_softmax(-1) + of_each).logsumexp(-1)
    raise TypeError(f"cannot tell how likely controls are under a {type(distribution).__name__}; choose another head")


def _limited(space: ActionSpace) -> Tensor:
    """Which controls have limits, ``(m,)`` of bool; of finitely many none has."""
    if isinstance(space, ContinuousActions):
        return space.lower.isfinite()
    return torch.zeros(space.control_dim, dtype=torch.bool)


def _clamped(actions: Tensor, mean: Tensor, log_std: Tensor, limited: Tensor) -> Tensor:
    """Of each coordinate of an action, clamped to [-1, 1] where it is limited."""
    inside = torch.distributions.Normal(mean, log_std.exp(), validate_args=False).log_prob(actions)
    below, above = (torch.special.log_ndtr((s * mean - 1) * (-log_std).exp()) for s in (-1, 1))
    at_upper = torch.where(limited & (actions >= 1 - AT_LIMIT), above, inside)
    return torch.where(limited & (actions <= AT_LIMIT - 1), below, at_upper)
