r"""A policy as a linear-Gaussian controller about a trajectory.

.. math:: \bar\pi(u \mid x, t) = \mathcal N\Bigl(\mu_\theta(\hat x_t) + \frac{\partial \mu_\theta}{\partial x}(\hat x_t)
    (x \ominus \hat x_t), \; \Sigma_\theta(\hat x_t)\Bigr)

in controls. Montgomery and Levine 2016 estimate it from samples; here it is the derivative of the network, which a few samples in
many dimensions do not determine.
"""

import torch
from torch import Tensor

from dynamics import Dynamics
from mbrl.gps.supervised import as_gaussian
from mbrl.policies.action_space import ContinuousActions
from mbrl.policies.policy import Policy
from mbrl.tasks import Task
from planners import LinearGaussianController


def linearized(
    policy: Policy, task: Task, space: ContinuousActions, dynamics: Dynamics, xs: Tensor
) -> LinearGaussianController:
    """The controller that does what a policy does near states ``(*batch, T+1, n)``.

    Args:
        policy: Gaussian, without memory.
        task: what it sees.
        space: what its actions are.
        dynamics: supplies the tangent space.
        xs: the trajectory.
    """
    x = xs[..., :-1, :].detach()
    d = dynamics.tangent_dim
    _, half = space.scale(xs)

    def mean(dx: Tensor) -> Tensor:
        return as_gaussian(policy.distribution(task.observe(dynamics.retract(x, dx)))).mean.to(xs)

    zero = x.new_zeros(*x.shape[:-1], d)
    with torch.no_grad():
        distribution = as_gaussian(policy.distribution(task.observe(x)))
        means, stds = distribution.mean.to(xs), distribution.log_std.exp().to(xs)
    rows = []
    for i in range(means.shape[-1]):  # one backward pass for each control
        dx = zero.clone().requires_grad_()
        with torch.enable_grad():
            (row,) = torch.autograd.grad(mean(dx)[..., i].sum(), dx)
        rows.append(row)
    K = half.unsqueeze(-1) * torch.stack(rows, dim=-2)
    return LinearGaussianController(dynamics, xs, space.unclamped(means), K, torch.diag_embed((half * stds).square()))
