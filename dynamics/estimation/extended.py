r"""The extended Kalman filter: dynamics and observation by their first derivatives at the mean.

.. math:: P_{t+1} = F P_t F^\top + Q, \quad F = \partial f / \partial x, \qquad H = \partial h / \partial x

(Jazwinski 1970, chapter 8). Exact, and then the Kalman filter (1960), for linear dynamics and observations.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dynamics import derivatives
from dynamics.base import Dynamics, graph_if_needed
from dynamics.estimation.base import GaussianFilter, Joint
from dynamics.estimation.belief import GaussianBelief


@dataclass(frozen=True, eq=False)
class ExtendedKalmanFilter(GaussianFilter):
    """The filter for dynamics that are nearly linear within the spread of the belief; see :class:`GaussianFilter`.

    Differentiable by autograd in everything where the dynamics are. Finite-difference dynamics (MuJoCo) linearize without a
    graph: there, gradients reach what the Jacobians multiply, and not the Jacobians.

    Example:
        >>> import torch
        >>> from dynamics import ExtendedKalmanFilter, Pendulum
        >>> Q, R = torch.diag(torch.tensor([0.0, 1e-3]).double()), torch.tensor([[1e-2]]).double()
        >>> ekf = ExtendedKalmanFilter(Pendulum(), Q, R, observation=lambda x: x[..., :1], observation_angles=[0])
        >>> belief = ekf.init(torch.zeros(2).double(), torch.eye(2).double())
        >>> belief = ekf.step(belief, torch.zeros(1).double(), torch.tensor([0.1]).double())
        >>> belief.mean.shape, belief.step
        (torch.Size([2]), 1)
    """

    def _propagated(self, belief: GaussianBelief, u: Tensor) -> Joint:
        linear = self.dynamics.linearize(belief.mean, u, belief.step)
        return Joint(linear.x_next, _identity(belief), linear.fx, belief.covariance)

    def _observed(self, belief: GaussianBelief) -> Joint:
        y = self.h(belief.mean)
        return Joint(y, _identity(belief), self._observation_jacobian(belief.mean, y), belief.covariance)

    def _observation_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        d, p = self.dynamics, y.shape[-1]
        seen_as_it_is = self.observation is None and type(d).observe is Dynamics.observe
        if seen_as_it_is and self.is_flat:
            return torch.eye(p, dtype=x.dtype, device=x.device).expand(*x.shape, p)

        def displaced(dx: Tensor) -> Tensor:
            return self.h(d.retract(x.unsqueeze(-2), dx))

        zero = x.new_zeros(*x.shape[:-1], d.tangent_dim)
        if self.observation is None and d.derivatives != "autograd":
            return derivatives.finite_difference_jacobian(displaced, zero)
        with graph_if_needed(y):
            return derivatives.jacobian(displaced, zero, p)


def _identity(belief: GaussianBelief) -> Tensor:
    P = belief.covariance
    return torch.eye(P.shape[-1], dtype=P.dtype, device=P.device).expand_as(P)
