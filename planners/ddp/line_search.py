r"""Rolling a local policy out, for several step lengths at once.

.. math::
    \hat u_t = \Pi(\bar u_t + \alpha k_t + K_t (\hat x_t \ominus \bar x_t)), \qquad
    \hat x_{t+1} = f(\hat x_t, \hat u_t) \oplus (\alpha - 1) d_t

A full step closes the gaps d of a trajectory that does not obey the dynamics yet; a shorter one closes a share of them
(Mastalli et al. 2020, section III.B).
"""

import torch
from torch import Tensor

from dynamics import Dynamics
from planners.ddp.backward import LocalPolicy


def policy_rollout(
    dynamics: Dynamics,
    xs: Tensor,
    us: Tensor,
    policy: LocalPolicy,
    alphas: Tensor,
    limits: tuple[Tensor, Tensor] | None,
    gap: Tensor | None,
    t0: int,
) -> tuple[Tensor, Tensor]:
    """Trajectories for step lengths ``(A,)``.

    Args:
        dynamics: f.
        xs: states ``(*batch, T+1, n)`` that the policy is about.
        us: controls ``(*batch, T, m)``.
        policy: k and K.
        alphas: step lengths ``(A,)``.
        limits: of the controls, ``(*batch, T, m)`` each, or None.
        gap: ``(*batch, T, d)``, or None where the trajectory obeys the dynamics.
        t0: step of the first control.

    Returns:
        States ``(*batch, A, T+1, n)`` and controls ``(*batch, A, T, m)``.
    """
    nominal, controls, gains = xs.unsqueeze(-3).unbind(-2), us.unsqueeze(-3).unbind(-2), policy.K.unbind(-3)
    steps = (alphas[:, None, None] * policy.k.unsqueeze(-3)).unbind(-2)
    bounds = None if limits is None else tuple(limit.unsqueeze(-3).unbind(-2) for limit in limits)
    open_gaps = None if gap is None else ((alphas[:, None, None] - 1.0) * gap.unsqueeze(-3)).unbind(-2)
    x = nominal[0].expand(*xs.shape[:-2], len(alphas), xs.shape[-1])
    states, chosen = [x], []
    for t, K in enumerate(gains):
        u = controls[t] + steps[t]
        if t > 0:
            u = u + dynamics.difference(x, nominal[t]) @ K.mT
        if bounds is not None:
            u = torch.minimum(torch.maximum(u, bounds[0][t]), bounds[1][t])
        x = dynamics(x, u, t0 + t)
        if open_gaps is not None:
            x = dynamics.retract(x, open_gaps[t])
        chosen.append(u)
        states.append(x)
    return torch.stack(states, dim=-2), torch.stack(chosen, dim=-2)


def chosen_step(values: Tensor, index: Tensor) -> Tensor:
    """The entry of an index ``(*batch,)`` along the axis of step lengths of ``(*batch, A, ...)``."""
    axis = index.ndim
    where = index.reshape((*index.shape, *[1] * (values.ndim - axis)))
    where = where.expand(*index.shape, 1, *values.shape[axis + 1 :])
    return values.gather(axis, where).squeeze(axis)
