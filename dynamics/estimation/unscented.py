r"""The unscented Kalman filter: dynamics and observation at points that have the mean and covariance of the belief.

With :math:`L L^\top = P`, d the dimension of the tangent space and :math:`s = \alpha^2 (d + \kappa)`, the 2d + 1 points are
:math:`m` and :math:`m \boxplus (\pm \sqrt s \, L_i)`, with weights (Wan and van der Merwe 2000, equation 15)

.. math:: w_0^m = 1 - \frac d s, \qquad w_0^c = w_0^m + 1 - \alpha^2 + \beta, \qquad w_i = \frac 1 {2 s} .

Mean and covariance of what they are mapped to are right to the second order, without derivatives; the mean of a quadratic
map is exact. Process and observation noise are additive, and points are drawn anew from the prediction before an update.
On a manifold the mean is where the weighted displacements cancel (Hauberg, Lauze and Pedersen 2013).

The defaults differ from the customary alpha = 1e-3, whose weights are a million times larger than what they sum to: with
alpha = 1 and kappa = 0 no weight is negative, so that covariances stay positive semidefinite and float32 is enough, and
beta = 2 makes the variance of a quadratic map of one variable exact, as it does for every alpha.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamics.estimation.base import GaussianFilter, Joint, wrapped
from dynamics.estimation.belief import GaussianBelief, square_root

MEAN_ITERATIONS = 30


@dataclass(frozen=True, eq=False)
class UnscentedKalmanFilter(GaussianFilter):
    """The filter for curved dynamics and observations, at 2d + 1 evaluations a step; see :class:`GaussianFilter`.

    Attributes:
        alpha: spread of the points; small values look close to the mean.
        beta: what is known of the fourth moment; 2 for a Gaussian.
        kappa: further spread; 3 - d matches fourth moments along the axes, with a negative weight beyond d = 3.

    Raises:
        ValueError: alpha or d + kappa is not positive, or beta is not finite.
    """

    alpha: float = 1.0
    beta: float = 2.0
    kappa: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        d = self.dynamics.tangent_dim
        if not (0 < self.alpha < math.inf and 0 < d + self.kappa < math.inf and math.isfinite(self.beta)):
            raise ValueError(
                f"need alpha > 0, kappa > -{d} (the dimension of the tangent space) and a finite beta, got "
                f"alpha={self.alpha}, kappa={self.kappa}, beta={self.beta}"
            )

    def _propagated(self, belief: GaussianBelief, u: Tensor) -> Joint:
        displacements, points = self._points(belief)
        controls = u.unsqueeze(-2).expand(*points.shape[:-1], u.shape[-1])
        x_next = self.dynamics(points, controls, belief.step)
        mean = self._mean(x_next)
        return self._joint(mean, displacements, self.dynamics.difference(x_next, mean.unsqueeze(-2)))

    def _observed(self, belief: GaussianBelief) -> Joint:
        displacements, points = self._points(belief)
        ys = self.h(points)
        from_center = wrapped(ys - ys[..., :1, :], self.observation_angles)
        mean_deviation = (self._mean_weights(ys).unsqueeze(-1) * from_center).sum(-2, keepdim=True)
        return self._joint((ys[..., :1, :] + mean_deviation).squeeze(-2), displacements, from_center - mean_deviation)

    def _points(self, belief: GaussianBelief) -> tuple[Tensor, Tensor]:
        """Displacements ``(*batch, 2d+1, d)`` and the states ``(*batch, 2d+1, n)`` that they lead to."""
        L = square_root(f"the covariance of step {belief.step}", belief.covariance)
        d = L.shape[-1]
        axes = math.sqrt(self.alpha**2 * (d + self.kappa)) * L.mT
        displacements = torch.cat([torch.zeros_like(axes[..., :1, :]), axes, -axes], dim=-2)
        return displacements, self.dynamics.retract(belief.mean.unsqueeze(-2), displacements)

    def _mean_weights(self, like: Tensor) -> Tensor:
        d = self.dynamics.tangent_dim
        s = self.alpha**2 * (d + self.kappa)
        return torch.tensor([1.0 - d / s] + 2 * d * [0.5 / s], dtype=like.dtype, device=like.device)

    def _joint(self, mean: Tensor, displacements: Tensor, deviations: Tensor) -> Joint:
        w = self._mean_weights(mean)
        w[0] += 1.0 - self.alpha**2 + self.beta
        return Joint(mean, displacements.mT, deviations.mT, torch.diag(w))

    def _mean(self, points: Tensor) -> Tensor:
        """The state ``(*batch, n)`` from which the weighted displacements to points ``(*batch, 2d+1, n)`` cancel."""
        d, w = self.dynamics, self._mean_weights(points).unsqueeze(-1)
        mean = points[..., 0, :]
        tolerance = 4 * torch.finfo(points.dtype).eps
        for _ in range(1 if self.is_flat else MEAN_ITERATIONS):
            step = (w * d.difference(points, mean.unsqueeze(-2))).sum(-2)
            mean = d.retract(mean, step)
            if not self.is_flat and not bool((step.detach().abs() > tolerance).any()):
                break
        return mean
