r"""How often a policy visits states and actions.

.. math:: D_t(s) = b_t(s) + \gamma \sum_{s', a} P_{s' a s} \, \pi_{t-1}(a \mid s') D_{t-1}(s'), \qquad
    D_t(s, a) = \pi_t(a \mid s) D_t(s), \qquad D(s, a) = \sum_t D_t(s, a)

with :math:`b_0 = \rho` and no other b, so that :math:`D_t = \gamma^t p(s_t, a_t)`. Without discount D sums to the horizon, and
for an infinite horizon to :math:`1 / (1 - \gamma)`, where it solves :math:`(I - \gamma P_\pi^\top) D = \sum_t b_t` (Puterman
1994, section 6.9). The value of the policy for any rewards is :math:`\sum_{s, a} D(s, a) \, r_{s a}`.
"""

import torch
from torch import Tensor

from planners.tabular.exact import by_step
from planners.tabular.mdp import TabularMDP


def occupancies(mdp: TabularMDP, policy: Tensor, *, entering: Tensor | None = None) -> Tensor:
    """Expected discounted visits of states and actions, ``(*batch, S, A)``.

    Args:
        mdp: the process.
        policy: stationary ``(*batch, S, A)``, or for a finite horizon ``(S, A)`` or of each step ``(*batch, T, S, A)``.
        entering: what enters, in place of the initial distribution: of any sum and sign, ``(*batch, S)``, and for a finite
            horizon ``(S,)`` at the first step or ``(*batch, T, S)`` at each.

    Raises:
        ValueError: shapes do not belong together, or a row of the policy is no distribution.
    """
    if mdp.finite:
        return occupancies_by_step(mdp, policy, entering=entering).sum(-3)
    policy = mdp.check_policy(policy)
    b = mdp.start if entering is None else torch.as_tensor(entering).to(policy)
    if b.shape[-1:] != (mdp.states,):
        raise ValueError(f"entering must have the shape (*batch, S) with S = {mdp.states}, got {tuple(b.shape)}")
    return policy * mdp.resolved(policy, b, adjoint=True).unsqueeze(-1)


def occupancies_by_step(mdp: TabularMDP, policy: Tensor, *, entering: Tensor | None = None) -> Tensor:
    """Expected discounted visits of states and actions at each step of a finite horizon, ``(*batch, T, S, A)``.

    Args:
        mdp: with a finite horizon.
        policy: ``(S, A)`` or of each step ``(*batch, T, S, A)``.
        entering: what enters, in place of the initial distribution: of any sum and sign, ``(S,)`` at the first step or
            ``(*batch, T, S)`` at each.

    Raises:
        ValueError: the horizon is infinite, shapes do not belong together, or a row of the policy is no distribution.
    """
    T = mdp.steps
    policy = by_step(mdp, mdp.check_policy(policy))
    b = mdp.start if entering is None else torch.as_tensor(entering).to(policy)
    if b.ndim == 1:
        b = torch.cat([b.unsqueeze(0), b.new_zeros(T - 1, *b.shape)])
    if b.shape[-2:] != (T, mdp.states):
        raise ValueError(
            f"entering must have the shape (S,) or (*batch, T, S) with S = {mdp.states} and T = {T}, got {tuple(b.shape)}"
        )
    visits = []
    for t in range(T):
        D = b[..., t, :] if t == 0 else b[..., t, :] + mdp.discount * mdp.next_states(visits[-1])
        visits.append(policy[..., t, :, :] * D.unsqueeze(-1))
    return torch.stack(visits, dim=-3)
