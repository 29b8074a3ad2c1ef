r"""Demonstrations as a distribution: the linear-Gaussian controller that they are likeliest under.

.. math:: u_t \sim \mathcal N\bigl(\bar u_t + K_t (x_t \ominus \bar x_t), \; \Sigma_t\bigr)

is a linear regression at each step. Importance sampling needs the density of demonstrations where they count as samples (Finn,
Levine and Abbeel 2016, section 4.2). With few of them the residuals of one step say little of the covariance, so that those of
all steps are its prior.
"""

import torch
from torch import Tensor

from dynamics import Dynamics
from planners import LinearGaussianController

PRIOR_STRENGTH = 5.0
"""Residuals that the covariance of all steps counts for, beside those of one."""


@torch.no_grad()
def demonstrated_controller(
    dynamics: Dynamics, xs: Tensor, us: Tensor, *, least_variance: float
) -> LinearGaussianController | None:
    """Fit a controller to demonstrations.

    Args:
        dynamics: supplies the tangent space, of dimension d.
        xs: states ``(N, T+1, n)``.
        us: controls ``(N, T, m)``.
        least_variance: of controls in any direction; demonstrations without noise have none.

    Returns:
        The controller, without batch axes; None for less than d + 2 demonstrations, which determine no regression.
    """
    N, d = len(us), dynamics.tangent_dim
    if d + 2 > N:
        return None
    dx = dynamics.difference(xs, xs[:1].expand_as(xs))
    mean = dynamics.retract(xs[0], dx.mean(0))
    dx = dynamics.difference(xs[:, :-1], mean[:-1].expand_as(xs[:, :-1])).transpose(0, 1)  # (T, N, d)
    dx = dx - dx.mean(1, keepdim=True)  # zero already, up to rounding, but on a manifold
    du = (us - us.mean(0)).transpose(0, 1)
    gain = torch.linalg.pinv(dx, rtol=1e-9) @ du  # (T, d, m)
    rank = torch.linalg.matrix_rank(dx, rtol=1e-9).to(us)
    residual = du - dx @ gain
    squares = residual.mT @ residual
    free = (N - 1 - rank)[:, None, None]
    pooled = squares.sum(0) / free.sum()
    covariance = (squares + PRIOR_STRENGTH * pooled) / (free + PRIOR_STRENGTH)
    controller = LinearGaussianController(dynamics, mean, us.mean(0), gain.mT, covariance)
    return controller.with_covariance_floor(least_variance)
